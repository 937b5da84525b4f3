"""The nameplate of a device: objects of function 43/14 as text by name. Pure.

Source: MODBUS Application Protocol V1.1b3, 6.21.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NAMES = ("vendor_name", "product_code", "major_minor_revision", "vendor_url", "product_name", "model_name",
         "user_application_name")
"""Names of the objects 0..6. 7..127 are reserved, 128..255 private."""

TITLE = ("vendor_name", "product_code", "model_name", "server_id")
MORE_FOLLOWS = 0xFF


@dataclass(frozen=True, slots=True)
class Page:
    """One page of an identification. objects: id -> raw bytes. next_object: where to go on, None if complete."""

    conformity: int
    objects: dict[int, bytes]
    next_object: int | None


def parse_page(body: bytes) -> Page:
    """Read the body of a matched function 43 reply: MEI type, code, conformity, more, next, count, objects."""
    objects: dict[int, bytes] = {}
    at = 6
    for _ in range(body[5]):
        length = body[at + 1]
        objects[body[at]] = bytes(body[at + 2:at + 2 + length])
        at += 2 + length
    return Page(body[2], objects, body[4] if body[3] == MORE_FOLLOWS else None)


def nameplate(objects: dict[int, bytes]) -> dict[str, str]:
    """Return texts by name, `object_N` for those without one; empty texts are left out."""
    named = {NAMES[i] if i < len(NAMES) else f"object_{i}": printable(raw) for i, raw in sorted(objects.items())}
    return {name: text for name, text in named.items() if text}


def title(plate: Mapping[str, str]) -> str:
    """Return a nameplate in one line, for people; empty if it holds nothing of that kind."""
    return " ".join(dict.fromkeys(plate[name] for name in TITLE if name in plate))


def printable(raw: bytes) -> str:
    """Return bytes of a device as text that a terminal can stand: no control characters, whatever the device says."""
    text = raw.decode("latin-1")
    for encoding in ("utf-8", "gb18030"):  # many Chinese devices write GBK
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    return "".join(c for c in text if c.isprintable()).strip()
