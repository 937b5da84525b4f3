"""Checkpoint texts: three lines that are written again as they stood."""

from fuzz.harness import only, start, watched

with watched("protocols.evidence"):
    from protocols.errors import VerificationError
    from protocols.evidence import checkpoint


def check(data: bytes) -> None:
    """One text."""
    with only(UnicodeDecodeError, VerificationError):
        text = data.decode("utf-8")
        head = checkpoint.parse_text(text, where="checkpoint")
        assert head.text == text and len(head.root) == 32 and 0 <= head.size <= checkpoint.SIZE_MAX


if __name__ == "__main__":
    start(check)
