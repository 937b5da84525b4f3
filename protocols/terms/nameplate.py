"""What a device says of itself, held against what its owner's ledger says of it. Pure, and of no protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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

    Args:
        plate: `vendor_name`, `product_code`, `model_name`, `product_name`; `serial_number` where the protocol has it,
        else any `object_N`.
    """
    said = {"maker": [plate.get("vendor_name", "")],
            "model": [plate.get(name, "") for name in ("product_code", "model_name", "product_name")]}
    found = []
    for fact, ledger in (("maker", maker), ("model", model)):
        texts = [text for text in said[fact] if text and _comparable(text, ledger)]
        if texts and not any(agree(text, ledger) for text in texts):
            found.append(Contradiction(fact=fact, device=texts[0], ledger=ledger))
    stated = plate.get("serial_number", "")
    if stated and serial and not agree(stated, serial):
        found.append(Contradiction(fact="serial", device=stated, ledger=serial))
    private = [] if stated else [text for name, text in plate.items() if name.startswith("object_")]
    if serial and private and not any(agree(text, serial) for text in private):
        alike = [text for text in private if _same_form(text, serial)]
        if alike:
            found.append(Contradiction(fact="serial", device=alike[0], ledger=serial))
    return found


def _plain(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def agree(said: str, ledger: str) -> bool:
    """Return whether two texts say the same, or one of them a part of the other."""
    a, b = _plain(said), _plain(ledger)
    return bool(a) and bool(b) and (a in b or b in a)


def _comparable(said: str, ledger: str) -> bool:
    return bool(_plain(said)) and bool(_plain(ledger)) and said.isascii() == ledger.isascii()


def _same_form(said: str, ledger: str) -> bool:
    """Return whether two texts look like two of one series: the same length, and digits where the other has digits."""
    return len(said) == len(ledger) and all(a.isdigit() == b.isdigit() for a, b in zip(said, ledger, strict=True))
