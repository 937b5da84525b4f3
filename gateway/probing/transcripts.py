"""Transcripts of reads: `reads/<seq>.json` in the state folder, made durable before the entry that commits to them.

They hold process values, so they stay in the factory until somebody opens one to an auditor. How long they are kept is
`transcripts_days` of [keep].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protocols import system
from protocols.evidence import jcs, reads
from protocols.evidence.shape import require

FOLDER = "reads"


def path(folder: Path, seq: int) -> Path:
    """Return where the transcript of entry `seq` lies below `folder`."""
    return folder / f"{seq}.json"


def write(folder: Path, gateway: str, seq: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a transcript whole or not at all, mode 0600, durable before this returns. Raises OSError.

    One that is there is replaced: its entry was never sealed, or lies on a branch that the platform did not take.
    """
    transcript = {"type": reads.TYPE, "gateway": gateway, "seq": seq, "rows": [dict(row) for row in rows]}
    require(reads.TRANSCRIPT, transcript, where=path(folder, seq).name)
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
        system.sync(folder.parent)
    system.replace(path(folder, seq), jcs.encode(transcript))


def expire(folder: Path, before_s: float) -> int:
    """Delete transcripts written before this time (wall clock); return how many. What cannot be deleted stays."""
    gone = 0
    for file in folder.glob("*.json") if folder.is_dir() else ():
        try:
            if file.lstat().st_mtime < before_s:
                file.unlink()
                gone += 1
        except OSError:
            continue
    return gone
