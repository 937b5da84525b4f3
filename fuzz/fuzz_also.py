"""Files that a checker brings along: openings, transcripts, chains, proofs of equivocation, kept checkpoints."""

from fuzz.harness import only, scratch, start, watched

with watched("protocols.evidence", "verifier.proof"):
    from protocols.errors import ConfigError, VerificationError
    from protocols.evidence import bundle
    from verifier.conformance import world
    from verifier.proof.also import sort
    from verifier.proof.verify import verify

WORLD, PLANT = world.small()
BUNDLE = world.zipped(PLANT.members())
POLICY = WORLD.policy()
FILE = scratch() / "file"


def check(data: bytes) -> None:
    """One file beside an honest bundle."""
    FILE.write_bytes(data)
    with only(ConfigError, VerificationError):
        also = sort([FILE])
        verify(bundle.open_bundle(BUNDLE), POLICY, also=also)


if __name__ == "__main__":
    start(check)
