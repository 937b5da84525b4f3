"""The ledger: devices.csv, a NUL byte, points.csv; after another NUL byte templates.csv."""

from fuzz.harness import scratch, start, watched

with watched("config", "protocols.terms"):
    from config.ledger import read_ledger

FOLDER = scratch()
DEVICES, POINTS, TEMPLATES = FOLDER / "devices.csv", FOLDER / "points.csv", FOLDER / "templates.csv"


def check(data: bytes) -> None:
    """Two files or three. Nothing is raised: problems are returned."""
    devices, _, rest = data.partition(b"\0")
    points, with_templates, templates = rest.partition(b"\0")
    DEVICES.write_bytes(devices)
    POINTS.write_bytes(points)
    TEMPLATES.write_bytes(templates)
    ledger, problems = read_ledger(DEVICES, POINTS, frozenset({"line1", "line2"}),
                                   TEMPLATES if with_templates else None)
    assert problems or with_templates or \
        len(ledger.devices) + len(ledger.points) <= data.count(b"\n") + data.count(b"\r") + 2


if __name__ == "__main__":
    start(check)
