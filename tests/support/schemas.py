"""The published schemas of docs/schemas, each read once: validating anew what a schema is takes longer than a test."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema

from tests.support.source import ROOT

FOLDER = ROOT / "docs" / "schemas"


@cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((FOLDER / name).read_text(encoding="utf-8")))


def validate(value: Any, name: str) -> None:
    """Hold a value against the schema of this file name. Raises jsonschema.ValidationError.

    That each file is a schema, and says what the code means, is asked by tests/unit/test_published_schemas.py and by
    the tests that compare it with its source.
    """
    _validator(name).validate(value)
