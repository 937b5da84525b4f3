"""One record as it stands in a bundle, every field of it with what it means: for whoever asks what left the factory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from protocols.errors import ConfigError, Problem, VerificationError
from protocols.evidence import column, entry, jcs, roster, tiles
from protocols.evidence.bundle import Bundle
from protocols.evidence.encoding import from_base64
from protocols.terms.say import Say

ROW_SHAPES = {"device": roster.DEVICE_ROW, "point": roster.POINT_ROW}
ROW_PLACES = {"device": "slot", "point": "point"}
HEADER = ("type", "gateway", "seq", "life")
COLUMNS = tuple(f"columns.{name}" for name in column.NAMES)


def entry_bytes(bundle: Bundle, seq: int | None) -> bytes:
    """Return the bytes of an entry, or of the newest window.

    Raises: ConfigError if the bundle does not hold it; VerificationError if its tiles cannot be read.
    """
    if seq is not None and seq in bundle.numbered["entry"]:
        return bundle.read(entry.name(seq))
    for tile in reversed(bundle.entry_tiles):
        first = tile.number * tiles.WIDTH
        if seq is not None and not first <= seq < first + tile.width:
            continue
        entries = tiles.split_entries(bundle.read(tile.path), tile, where=tile.path)
        if seq is not None:
            return entries[seq - first]
        for data in reversed(entries):
            if b'"type":"window"' in data:
                return data
    problem = Problem.of("bundle", "show.no_window") if seq is None else Problem.of("bundle", "show.no_entry", seq=seq)
    raise ConfigError(problem)


def row_bytes(bundle: Bundle, row: str) -> bytes:
    """Return the newest public row of `device:SLOT` or `point:SLOT`. Raises ConfigError if there is none."""
    table, _, slot = row.partition(":")
    if table in ROW_SHAPES and slot.isascii() and slot.isdigit():
        for seq in reversed(bundle.numbered["roster"]):
            where = f"roster/{seq}.jsonl"
            for line in bundle.read(where).split(b"\n"):
                # A row is canonical, so the text of its number is unique; parsed only when it is the one.
                if f'"{ROW_PLACES[table]}":{slot},'.encode() in line and (b'"point":' in line) == (table == "point"):
                    return line
    raise ConfigError(Problem.of("bundle", "show.no_row", row=row))


def lines(data: bytes, kind: str | None, say: Say) -> list[str]:
    """Return the lines for a person: every field, its value and its meaning. `kind`: device or point, None an entry.

    Raises: VerificationError if it is no canonical JSON object.
    """
    value = jcs.decode(data, where="record", bytes_max=tiles.ENTRY_BYTES_MAX)
    if not isinstance(value, dict):
        raise VerificationError(Problem.of("record", "shape.bad_value", place="", expected="an object"))
    title = say("show.entry", seq=value.get("seq"), bytes=len(data)) if kind is None else say(
        "show.row", table=kind, slot=value.get(ROW_PLACES[kind]), bytes=len(data))
    kind = kind or str(value.get("type"))
    told = [say("show.field", path=path, value=_shown(path, item, say), meaning=_meaning(kind, path, say))
            for path, item in fields(value)]
    return [title, say("show.unverified"), "", *(f"  {line}" for line in told), "", say("show.no_value")]


def meaning(kind: str, path: str) -> str:
    """Return the code of the sentence that tells what a field means."""
    if path == "seen" or path.startswith("seen."):
        return f"field.{path}"
    return f"field.{path}" if path in HEADER and kind not in ROW_SHAPES else f"field.{kind}.{path}"


def fields(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every field that holds no further named fields, in the order of the bytes."""
    for name in sorted(value):
        item, at = value[name], f"{path}{name}"
        if isinstance(item, dict):
            yield from fields(item, f"{at}.")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            for one in item:
                yield from fields(one, f"{at}.")
        else:
            yield at, item


def _meaning(kind: str, path: str, say: Say) -> str:
    code = meaning(kind, path)
    return say(code if say.explain(code) is not None else "show.unknown")


def _shown(path: str, item: Any, say: Say) -> str:
    if path not in COLUMNS or not isinstance(item, str):
        return json.dumps(item, ensure_ascii=False)
    bits = from_base64(item, where=path)
    return f"{item} ({say('show.bits', set=int.from_bytes(bits, 'little').bit_count(), slots=8 * len(bits))})"
