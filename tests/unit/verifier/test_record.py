"""`tallystick show`: every field of a record, each with its meaning, and nothing that the format does not name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.evidence import entry, roster
from protocols.evidence.bundle import write_bundle
from protocols.evidence.shape import ListOf, Nullable, Object, Shape
from tallystick.__main__ import main
from tallystick.words.lookup import LANGUAGES, Words
from tests.support.source import ROOT
from verifier.conformance.world import small
from verifier.record import meaning

EXAMPLE = ROOT / "docs" / "examples" / "evidence" / "example.tally"


def paths(shape: Shape, path: str = "") -> Iterator[str]:
    """Every path that a value of this shape may show: a null or an empty list ends where it stands."""
    if isinstance(shape, Nullable) or (isinstance(shape, ListOf) and isinstance(shape.shape, Object)):
        yield path
        yield from paths(shape.shape, path)
    elif isinstance(shape, Object):
        for name, inner in shape.fields.items():
            yield from paths(inner, f"{path}.{name}" if path else name)
    else:
        yield path


FIELDS = sorted({meaning(kind, path) for kind, shape in
                 {**entry.SHAPES, "device": roster.DEVICE_ROW, "point": roster.POINT_ROW}.items()
                 for path in paths(shape)})


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_field_of_the_format_has_a_meaning_and_no_other_has(lang: str) -> None:
    words = Words(lang)
    assert [code for code in FIELDS if words.explain(code) is None] == []
    assert {code for code in words.codes() if code.startswith("field.")} <= set(FIELDS)


def test_a_record_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(EXAMPLE), "--entry", "3", "--json"]) == 0
    raw = capsys.readouterr().out.rstrip("\n")
    assert main(["show", str(EXAMPLE), "--entry", "3"]) == 0
    told = capsys.readouterr().out
    assert f"entry 3: {len(raw.encode())} bytes" in told and "field." not in told

    def leaves(value: object) -> int:
        return sum(map(leaves, value.values())) if isinstance(value, dict) else 1

    assert told.count(" · ") == leaves(json.loads(raw))
    assert main(["show", str(EXAMPLE)]) == 0  # the newest window
    assert "entry 4:" in capsys.readouterr().out


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("row", ["device:0", "device:1", "point:2"])
def test_rows_are_shown(row: str, lang: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(EXAMPLE), "--row", row, "--lang", lang]) == 0
    assert "field." not in capsys.readouterr().out


@pytest.mark.parametrize("options", [
    ["--entry", "99"], ["--row", "device:99"], ["--row", "point"], ["--row", "gateway:1"], ["--row", "device:-1"]])
def test_what_is_not_there_is_bad_usage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(EXAMPLE), *options]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "hint:" in said.err and "Traceback" not in said.err


def test_a_file_that_is_no_bundle_is_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "X.tally"
    broken.write_bytes(b"PK\x03\x04 nothing")
    assert main(["show", str(broken)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_fields_of_a_later_version_are_shown_and_called_unknown(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, gateway = small()
    seq = gateway.add("management", True, operation="start \x1b[31m")
    world.round()
    bundle = tmp_path / "X.tally"
    write_bundle(bundle, gateway.members())
    assert main(["show", str(bundle), "--entry", str(seq)]) == 0
    told = capsys.readouterr().out
    assert "operation" in told and "does not know" in told and "\x1b" not in told
