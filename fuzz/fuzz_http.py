"""Bodies of requests to platform and witness, and of the platform's answers to a gateway.

The first byte chooses: `e` enrolment, `s` entries, `t` statements, `w` add-checkpoint, `a` answers, `c` a witness's
answer.
"""

from fuzz.harness import only, start, watched

with watched("protocols.evidence", "protocols.exchange", "verifier.platform", "verifier.witness", "gateway.sealing"):
    from gateway.sealing.link import _checked
    from protocols import exchange
    from protocols.errors import DeviceError, EvidenceError, VerificationError
    from protocols.evidence import note, statement
    from verifier.conformance import world
    from verifier.platform.batch import take
    from verifier.platform.enrolment import check_request
    from verifier.platform.intake import accept, first_state
    from verifier.platform.refusal import RefusalError
    from verifier.platform.roster import Roster, apply_rows
    from verifier.platform.rounds import _cosignature, _size
    from verifier.platform.service import unpack
    from verifier.platform.statements import check_attestation, check_demand, check_signature
    from verifier.platform.web import AT_ONCE_BYTES_MAX, _parse
    from verifier.witness.state import judge, parse_request

CERTIFICATE = world.World().gateway("plant").certificate
LOG = note.VerifierKey(world.REGISTER, note.ED25519, world.public("register"))
WITNESS = note.VerifierKey("w1.example", note.COSIGNATURE_V1, world.public("w1"))
OWN = note.Note(f"{world.REGISTER}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", ())
ANSWERS = (exchange.ENROL_ANSWER, exchange.SIZE_ANSWER, exchange.SUBMIT_ANSWER, exchange.TAIL_ANSWER,
           exchange.REGISTER_ANSWER, exchange.STATEMENT_ANSWER, exchange.REFUSAL)
ROWS = [row for rows in world.two_devices(world.World().gateway("plant")) for row in rows]
ROSTER, _ = apply_rows(Roster(), world.lines(ROWS).decode(), where="roster")


def check(data: bytes) -> None:
    """One body."""
    kind, body = data[:1], data[1:]
    if kind == b"s":
        _agree(body)
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
            if kind == b"t":
                _state(statement.of(value, where="statement"))
            elif kind == b"e":
                check_request(value)
            else:
                accept(first_state(CERTIFICATE), *unpack(value))


def _agree(body: bytes) -> None:
    """The fast way reads a short body as the slow way does, or leaves it to that; a refusal of that is a find."""
    read = take(body) if len(body) <= AT_ONCE_BYTES_MAX else None
    assert read is None or read == unpack(_parse(body))


def _state(said: statement.Statement) -> None:
    """Every check of a statement, also behind a signature that does not hold."""
    with only(RefusalError):
        check_signature(said, signers={said.value["key"]})
    if said.kind == "attestation":
        check_attestation(said.value, ROSTER)
    elif said.kind == "demand":
        check_demand(said.value, ROSTER, now_s=world.START_S)
    said.encode()


if __name__ == "__main__":
    start(check)
