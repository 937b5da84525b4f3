"""Bodies of requests to platform and witness, and of the platform's answers to a gateway.

The first byte chooses: `e` enrolment, `s` entries, `w` add-checkpoint, `a` answers, `c` a witness's answer.
"""

from fuzz.harness import only, start, watched

with watched("protocols.evidence", "protocols.exchange", "verifier.platform", "verifier.witness", "gateway.sealing"):
    from gateway.sealing.link import _checked
    from protocols import exchange
    from protocols.errors import DeviceError, EvidenceError, VerificationError
    from protocols.evidence import note
    from verifier.conformance import world
    from verifier.platform.enrolment import check_request
    from verifier.platform.intake import accept, first_state
    from verifier.platform.refusal import RefusalError
    from verifier.platform.rounds import _cosignature, _size
    from verifier.platform.service import _unpack
    from verifier.platform.web import _parse
    from verifier.witness.state import judge, parse_request

CERTIFICATE = world.World().gateway("plant").certificate
LOG = note.VerifierKey(world.REGISTER, note.ED25519, world.public("register"))
WITNESS = note.VerifierKey("w1.example", note.COSIGNATURE_V1, world.public("w1"))
OWN = note.Note(f"{world.REGISTER}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", ())
ANSWERS = (exchange.ENROL_ANSWER, exchange.SIZE_ANSWER, exchange.SUBMIT_ANSWER, exchange.TAIL_ANSWER,
           exchange.REGISTER_ANSWER, exchange.REFUSAL)


def check(data: bytes) -> None:
    """One body."""
    kind, body = data[:1], data[1:]
    if kind == b"w":
        with only(VerificationError):
            judge(parse_request(body), LOG, None)
    elif kind == b"a":
        for shape in ANSWERS:
            with only(DeviceError):
                _checked(body, shape, "platform")
    elif kind == b"c":
        with only(EvidenceError):
            _size(body, "witness")
        with only(VerificationError):
            _cosignature(body, OWN, WITNESS, "witness")
    else:
        with only(RefusalError, VerificationError):
            value = _parse(body)
            if kind == b"e":
                check_request(value)
            else:
                accept(first_state(CERTIFICATE), *_unpack(value))


if __name__ == "__main__":
    start(check)
