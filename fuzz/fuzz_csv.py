"""The ledger: devices.csv, a NUL byte, points.csv."""

from fuzz.harness import scratch, start, watched

with watched("config", "protocols.terms"):
    from config.ledger import read_ledger

FOLDER = scratch()
DEVICES, POINTS = FOLDER / "devices.csv", FOLDER / "points.csv"


def check(data: bytes) -> None:
    """Two files. Nothing is raised: problems are returned."""
    devices, _, points = data.partition(b"\0")
    DEVICES.write_bytes(devices)
    POINTS.write_bytes(points)
    ledger, problems = read_ledger(DEVICES, POINTS, frozenset({"line1", "line2"}))
    assert problems or len(ledger.devices) + len(ledger.points) <= data.count(b"\n") + data.count(b"\r") + 2


if __name__ == "__main__":
    start(check)
