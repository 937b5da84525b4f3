"""What is laid beside a claim. First byte: `e` explanations of devices (TOML), `l` a list of claimed devices (CSV)."""

from fuzz.harness import only, scratch, start, watched

with watched("config.loader", "verifier.audit.duplicates", "verifier.audit.listed"):
    from protocols.errors import ConfigError
    from protocols.evidence.bundle import open_bundle
    from verifier.audit.duplicates import load_explanations
    from verifier.audit.listed import claimed_list
    from verifier.conformance import world
    from verifier.proof.verify import verify

WORLD, PLANT = world.small()
EVIDENCE = verify(open_bundle(world.zipped(PLANT.members())), WORLD.policy()).evidence
assert EVIDENCE is not None
FOLDER = scratch()
EXPLAINED, LISTED = FOLDER / "explain.toml", FOLDER / "list.csv"


def check(data: bytes) -> None:
    """One file. Explanations name devices that exist; a list has no more devices than lines."""
    assert EVIDENCE is not None
    kind, data = data[:1], data[1:]
    if kind == b"e":
        EXPLAINED.write_bytes(data)
        with only(ConfigError):
            for item in load_explanations(EXPLAINED, [EVIDENCE]).items:
                assert len(item.devices) > 1 and all(d in {(PLANT.id, 0), (PLANT.id, 1)} for d in item.devices)
    elif kind == b"l":
        LISTED.write_bytes(data)
        with only(ConfigError):
            assert len(claimed_list(LISTED).lines) <= data.count(b"\n") + data.count(b"\r") + 1


if __name__ == "__main__":
    start(check)
