"""Columns: two bytes of slots, then the base64 that an entry would hold."""

from fuzz.harness import only, start, watched

with watched("protocols.evidence"):
    from protocols.errors import VerificationError
    from protocols.evidence import column


def check(data: bytes) -> None:
    """One column."""
    slots = int.from_bytes(data[:2], "big")
    text = data[2:].decode("utf-8", "replace")
    with only(VerificationError):
        bits = column.unpack(text, slots, where="entry", name="connected")
        assert bits >> slots == 0 and column.pack(bits, slots) == text


if __name__ == "__main__":
    start(check)
