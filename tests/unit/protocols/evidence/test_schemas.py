"""The published JSON Schemas are what the programs check."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.evidence import column, entry, shape
from protocols.evidence.schemas import all_schemas
from protocols.terms.vocabulary import DISCARD_REASONS

FOLDER = Path(__file__).resolve().parents[4] / "docs" / "schemas"
SCHEMAS = all_schemas()


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_published_schema_is_current(name: str) -> None:
    """Set TALLYSTICK_WRITE=1 to write them anew after a change of the format."""
    text = json.dumps(SCHEMAS[name], indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("TALLYSTICK_WRITE") == "1":
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(text, encoding="utf-8")
    assert (FOLDER / name).read_text(encoding="utf-8") == text


WINDOW: dict[str, Any] = {
    "type": "window", "gateway": "0" * 32, "seq": 3, "life": 2, "start_s": 60, "len_s": 60, "roster": 2, "seen": None,
    "clock": {"source": "system", "offset_ms": -3, "step_ms": 0},
    "samples": {"received": 0, "counted": 0, "discarded": dict.fromkeys(DISCARD_REASONS, 0)},
    "columns": dict.fromkeys(column.NAMES, "AA=="),
}
JUNK = st.none() | st.booleans() | st.integers(-5, 10**17) | st.text(max_size=5) | st.just({}) | st.just([])


def places(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for name, item in value.items():
            found += places(item, (*path, name))
    return found


@settings(max_examples=300)
@given(st.sampled_from(places(WINDOW)), JUNK)
def test_schema_and_checker_agree_on_a_changed_window(path: tuple[str, ...], junk: Any) -> None:
    value = json.loads(json.dumps(WINDOW))
    inner = value
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = junk
    ours = not shape.problems(entry.WINDOW, value, where="")
    theirs = jsonschema.Draft202012Validator(SCHEMAS["entry-window.schema.json"]).is_valid(value)
    assert ours == theirs


def test_every_problem_is_named_at_once() -> None:
    value = {**WINDOW, "len_s": 0, "more": 1}
    del value["seen"]
    found = {(p.code, dict(p.args)["place"]) for p in shape.problems(entry.WINDOW, value, where="")}
    assert found == {("shape.bad_value", "len_s"), ("shape.unknown_field", "more"), ("shape.missing_field", "seen")}
