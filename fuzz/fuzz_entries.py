"""Entries of a gateway's log. Two readers, a quick one and a plain one, must agree on every byte."""

import re

from fuzz.harness import only, start, watched

with watched("protocols.evidence"):
    from protocols.errors import VerificationError
    from protocols.evidence import entry, jcs, signed

_SEQ = re.compile(rb'"seq":(0|[1-9][0-9]{0,15})[,}]')


def check(data: bytes) -> None:
    """One entry, at the index that it names."""
    match = _SEQ.search(data)
    quick, plain = entry._READER.take(data), None
    with only(VerificationError):
        plain = entry._READER.decode_slowly(data, where="entry")
    assert quick is None or quick == plain, "the quick reader takes what the plain one refuses, or reads another thing"
    with only(VerificationError):
        value = entry.decode(data, seq=int(match[1]) if match else 0)
        assert value == plain and jcs.encode(value) == data
        if value["type"] in entry.SHAPES:
            assert entry.encode(value) == data
        if value["type"] == "enrolment":
            signed.verify("certificate", value["certificate"], signers=[value["certificate"]["key"]], where="entry")
        if value["type"] == "key":
            signed.verify("rotation", value["rotation"], signers=[value["rotation"]["key"]], where="entry")


if __name__ == "__main__":
    start(check)
