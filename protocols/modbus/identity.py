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


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """One fact on which a device and the ledger differ. fact: maker, model or serial."""

    fact: str
    device: str
    ledger: str


def contradictions(plate: Mapping[str, str], *, maker: str, model: str, serial: str) -> list[Contradiction]:
    """Compare what a device says about itself with what the ledger says about it.

    A fact that either side leaves out contradicts nothing, nor does a name in another script: 汇川 and Inovance may
    be one maker, and nobody here can tell. Letter case, spaces and punctuation do not matter, and a longer text agrees
    with a shorter one inside it (`MD500T37G` is an `MD500`). Modbus has no object for a serial number: it is looked for
    among the private ones, and is contradicted only by a text of the same form (`_same_form`).
    """
    said = {"maker": [plate.get("vendor_name", "")],
            "model": [plate.get(name, "") for name in ("product_code", "model_name", "product_name")]}
    found = []
    for fact, ledger in (("maker", maker), ("model", model)):
        texts = [text for text in said[fact] if text and _comparable(text, ledger)]
        if texts and not any(_agree(text, ledger) for text in texts):
            found.append(Contradiction(fact=fact, device=texts[0], ledger=ledger))
    private = [text for name, text in plate.items() if name.startswith("object_")]
    if serial and private and not any(_agree(text, serial) for text in private):
        alike = [text for text in private if _same_form(text, serial)]
        if alike:
            found.append(Contradiction(fact="serial", device=alike[0], ledger=serial))
    return found


def _plain(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _agree(said: str, ledger: str) -> bool:
    a, b = _plain(said), _plain(ledger)
    return bool(a) and bool(b) and (a in b or b in a)


def _comparable(said: str, ledger: str) -> bool:
    return bool(_plain(said)) and bool(_plain(ledger)) and said.isascii() == ledger.isascii()


def _same_form(said: str, ledger: str) -> bool:
    """Return whether two texts look like two of one series: the same length, and digits where the other has digits."""
    return len(said) == len(ledger) and all(a.isdigit() == b.isdigit() for a, b in zip(said, ledger, strict=True))


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
