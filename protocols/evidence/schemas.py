"""The format as JSON Schemas (2020-12), made from the shapes that the programs check: `docs/schemas`."""

from __future__ import annotations

from typing import Any

from protocols.evidence import (
    entry,
    equivocation,
    opening,
    policy,
    probe,
    reads,
    register,
    roster,
    sample,
    signed,
    statement,
)
from protocols.evidence.shape import Object

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def all_schemas() -> dict[str, dict[str, Any]]:
    """Return file name -> schema, for every entry, row, register entry, signed object and JSON member."""
    shapes: dict[str, Object] = {f"entry-{kind}": shape for kind, shape in entry.SHAPES.items()}
    shapes |= {f"register-{kind}": shape for kind, shape in register.SHAPES.items()}
    shapes |= {f"signed-{kind}": shape for kind, shape in signed.SHAPES.items()}
    shapes |= {f"statement-{kind}": statement.shape(kind) for kind in statement.TYPES}
    shapes |= {"row-device": roster.DEVICE_ROW, "row-point": roster.POINT_ROW, "row-private": roster.PRIVATE,
               "opening": roster.OPENING, "opening-file": opening.FILE, "seen": signed.SEEN, "chain": probe.CHAIN,
               "transcript": reads.TRANSCRIPT, "equivocation": equivocation.EQUIVOCATION, "draw-file": sample.DRAW_FILE,
               "findings-file": sample.FINDINGS_FILE}
    schemas = {f"{name}.schema.json": {"$schema": DIALECT, "title": name, **shape.schema()}
               for name, shape in shapes.items()}
    # A policy may leave out what it does not trust.
    loose = {**Object(policy.FIELDS).schema(), "required": []}
    schemas["policy.schema.json"] = {"$schema": DIALECT, "title": "policy", **loose}
    return schemas
