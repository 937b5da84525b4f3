"""Evidence that came by USB: the entries of a bundle that the platform lacks go through the same intake.

A bundle has one checkpoint, so its entries are taken in as one batch, all or none.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import checkpoint, note, tiles
from protocols.evidence.bundle import Bundle, open_bundle
from protocols.evidence.tiles import WIDTH
from verifier.platform.refusal import ConflictError, RefusalError
from verifier.platform.service import Service

ENTRIES_BYTES_MAX = 1024**3
ORIGIN = "tallystick/g/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What of a bundle the platform lacks."""

    entries: list[bytes]
    rosters: dict[int, str]


async def import_bundle(service: Service, path: Path) -> dict[str, Any]:
    """Take in what a bundle has and the platform lacks; return {gateway, before, size}.

    Raises: RefusalError 404, 409 or 422; VerificationError when the bundle cannot be read.
    """
    bundle = await asyncio.to_thread(open_bundle, path)
    signed = bundle.read("checkpoint")
    head = checkpoint.parse_text(note.parse(signed, where="checkpoint").text, where="checkpoint")
    gateway = head.origin.removeprefix(ORIGIN)
    if not head.origin.startswith(ORIGIN):
        raise VerificationError(Problem.of("checkpoint", "intake.origin", origin=head.origin[:100]))
    size = (await service.size(gateway))["size"]
    if head.size <= size:
        if await service.root_at(gateway, head.size) != head.root:
            raise RefusalError.of(409, path.name, "platform.import_differs", gateway=gateway)
        return {"gateway": gateway, "before": size, "size": size}
    part = await asyncio.to_thread(read_part, bundle, size, head.size)
    try:
        answer = await service.take(gateway, size, part.entries, signed, part.rosters)
    except ConflictError as error:
        raise RefusalError.of(409, path.name, "platform.import_differs", gateway=gateway) from error
    return {"gateway": gateway, "before": size, "size": answer["size"]}


def read_part(bundle: Bundle, first: int, end: int) -> Part:
    """Read entries [first, end) and the rosters among them. Raises VerificationError `platform.import_gap`."""
    widest = {tile.number: tile for tile in bundle.entry_tiles}  # sorted by width: the widest comes last
    entries: list[bytes] = []
    total = 0
    for number in range(first // WIDTH, -(-end // WIDTH)):
        low, high = max(first, number * WIDTH), min(end, (number + 1) * WIDTH)
        tile = widest.get(number)
        if tile is None or number * WIDTH + tile.width < high:
            raise VerificationError(Problem.of("bundle", "platform.import_gap", first=low, last=high - 1))
        whole = tiles.split_entries(bundle.read(tile.path), tile, where=tile.path)
        entries += whole[low - number * WIDTH : high - number * WIDTH]
        total += sum(map(len, whole))
        if total > ENTRIES_BYTES_MAX:
            raise VerificationError(Problem.of("bundle", "platform.import_too_large", limit=ENTRIES_BYTES_MAX))
    rosters = {}
    for seq in bundle.numbered["roster"]:
        if first <= seq < end:
            try:
                rosters[seq] = bundle.read(f"roster/{seq}.jsonl").decode()
            except UnicodeDecodeError:
                raise VerificationError(Problem.of(f"roster/{seq}.jsonl", "note.malformed", reason="not UTF-8")) \
                    from None
    return Part(entries=entries, rosters=rosters)
