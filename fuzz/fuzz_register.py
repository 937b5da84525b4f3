"""Entries of the register, and what is signed inside them."""

from fuzz.harness import only, start, watched

with watched("protocols.evidence"):
    from protocols.errors import VerificationError
    from protocols.evidence import jcs, register, signed

SIGNED = {"enrol": "certificate", "revoke": "revocation", "attest": "attestation", "demand": "demand"}


def check(data: bytes) -> None:
    """One entry."""
    with only(VerificationError):
        value = register.decode(data, where="register")
        assert jcs.encode(value) == data
        register.gateway_of(value)
        if value["type"] in register.SHAPES:
            assert register.encode(value) == data
        kind = SIGNED.get(value["type"])
        if kind is not None:
            signed.verify(kind, value[kind], signers=[value[kind]["key"]], where="register")


if __name__ == "__main__":
    start(check)
