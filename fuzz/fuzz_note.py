"""Signed notes and verifier keys: what is read is written again byte for byte."""

from fuzz.harness import only, start, watched

with watched("protocols.evidence"):
    from protocols.errors import VerificationError
    from protocols.evidence import note
    from verifier.conformance import world

LOG = note.VerifierKey(world.REGISTER, note.ED25519, world.public("register"))
WITNESS = note.VerifierKey("w1.example", note.COSIGNATURE_V1, world.public("w1"))


def check(data: bytes) -> None:
    """A note, and each of its lines as a verifier key."""
    for line in data.decode("utf-8", "replace").split("\n")[:4]:
        with only(VerificationError):
            key = note.parse_verifier_key(line, where="vkey")
            assert str(key) == line
    with only(VerificationError):
        one = note.parse(data, where="note")
        assert note.format_note(one.text, one.signatures) == data
        note.cosignatures(one, [WITNESS], where="note")
        note.require_signed(one, LOG, where="note")


if __name__ == "__main__":
    start(check)
