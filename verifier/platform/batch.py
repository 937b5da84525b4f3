"""A submitted batch as gateways write it, read in one go: canonical JSON without rosters; and the JSON of its answer.

    {"checkpoint":"...","entries":["...","..."],"first":N,"rosters":[]}

With its names in order, once each, and nothing else between them, there is nothing to be looked for that `json` and
the shape of a SUBMIT_REQUEST would refuse. Every other body is read the slow way, which says what is wrong with it.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

from protocols.evidence.jcs import INTEGER_MAX
from protocols.exchange import CHECKPOINT_CHARS_MAX, ENTRY_CHARS_MAX, SUBMIT_ENTRIES_MAX

Batch = tuple[int, list[bytes], bytes, dict[int, str]]
"""first, entries, checkpoint, rosters by seq."""
ANSWERS_MAX = 1024
"""Answers whose JSON is kept, a few kB each."""

_HEAD = '{"checkpoint":"'
_ENTRIES = ',"entries":['
_TAIL = re.compile(r',"first":(0|[1-9][0-9]{0,15}),"rosters":\[\]\}')
_take_out = json.JSONDecoder().raw_decode


def take(data: bytes) -> Batch | None:
    """Read a body the fast way. None says nothing but that the slow way must look at it."""
    try:
        text = data.decode("utf-8")
        if not text.startswith(_HEAD):
            return None
        checkpoint, at = _take_out(text, len(_HEAD) - 1)
        if not text.startswith(_ENTRIES, at):
            return None
        entries, at = _take_out(text, at + len(_ENTRIES) - 1)
        tail = _TAIL.fullmatch(text, at)
        if tail is None or len(entries) > SUBMIT_ENTRIES_MAX or len(checkpoint) > CHECKPOINT_CHARS_MAX:
            return None
        if not all(type(entry) is str and len(entry) <= ENTRY_CHARS_MAX for entry in entries):
            return None
        first = int(tail[1])
        return None if first > INTEGER_MAX else (first, [entry.encode() for entry in entries], checkpoint.encode(), {})
    except (ValueError, RecursionError):  # no UTF-8, no JSON, half a surrogate; too deep
        return None


def answer(*, size: int, proof: str | None, register_checkpoint: str | None) -> bytes:
    """Return the JSON of a SUBMIT_ANSWER."""
    return b'{"size": %d, %b' % (size, _rest(proof, register_checkpoint))


@lru_cache(maxsize=ANSWERS_MAX)
def _rest(proof: str | None, register_checkpoint: str | None) -> bytes:
    """Return what follows the size: it is the same until more is co-signed."""
    return json.dumps({"proof": proof, "register_checkpoint": register_checkpoint}).encode()[1:]
