"""Every file of docs/schemas is a JSON schema."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from tests.support.schemas import FOLDER, validate


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.name)
def test_it_is_a_schema(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate({"verdict": 1}, "verify.schema.json")
