"""Rows of a roster, read by the verifier and by the platform."""

from fuzz.harness import only, start, watched

with watched("protocols.evidence", "verifier.proof", "verifier.platform.roster"):
    from protocols.errors import VerificationError
    from verifier.platform import roster as platform_roster
    from verifier.proof import rows


def check(data: bytes) -> None:
    """One file of rows, as the first of its log."""
    parsed = None
    with only(VerificationError):
        parsed = rows._parse(data, where="rows")
    with only(VerificationError, UnicodeDecodeError):
        grown, lines = platform_roster.apply_rows(platform_roster.Roster(), data.decode("utf-8"), where="rows")
        assert parsed is not None, "the platform takes what the verifier refuses"
        assert len(grown.device_leaves) == len(parsed[0]) and len(grown.point_leaves) == len(parsed[1])
        assert lines.encode() == data
    if parsed is not None:
        for row, _ in parsed[0]:
            rows.device_row(row)
        for row, _ in parsed[1]:
            rows._point(row)


if __name__ == "__main__":
    start(check)
