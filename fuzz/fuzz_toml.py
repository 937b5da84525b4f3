"""Configuration files. First byte: `g` gateway, `p` platform, `w` witness, `c` claim, `b` basis, `r` a programme."""

from functools import lru_cache

from fuzz.harness import only, scratch, start, watched

with watched("config", "protocols.mqtt.target", "protocols.modbus.target", "protocols.opcua.target",
             "protocols.terms", "verifier.audit.claim"):
    from config.gateway import load_gateway
    from config.platform import load_platform
    from config.programme import load_basis, load_programme
    from config.witness import load_witness
    from protocols.errors import ConfigError
    from verifier.audit import claim
    from verifier.audit.claim import load_claim

from tests.support.source import ROOT

LOADERS = {b"g": load_gateway, b"p": load_platform, b"w": load_witness, b"c": load_claim, b"b": load_basis,
           b"r": load_programme}
claim.load_programme = lru_cache(claim.load_programme)  # of the programme that a claim names: one of ours
FOLDER = scratch()
FILE = FOLDER / "file.toml"
for _name in ("devices.csv", "points.csv"):
    (FOLDER / _name).write_bytes((ROOT / "config" / "examples" / _name).read_bytes())


def check(data: bytes) -> None:
    """One file beside the ledger of the examples."""
    loader = LOADERS.get(data[:1])
    if loader is not None:
        FILE.write_bytes(data[1:])
        with only(ConfigError):
            loader(FILE)


if __name__ == "__main__":
    start(check)
