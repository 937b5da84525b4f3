"""Windows with a spool behind them, for tests: nothing runs beside anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from gateway.counting.registry import Registry
from gateway.counting.rule import Rule
from gateway.counting.window import ClosedWindow, Gap, Windows
from gateway.keeping import segment
from gateway.keeping.spool import Chunk, Spool
from tests.sim.world import Time
from verifier.proof.kept import Counted, Terms
from verifier.proof.recount import mask
from verifier.raw.recount import recount


class AtOnce(Executor):
    """Runs what is submitted before it returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # as an executor does
            future.set_exception(error)
        return future


def spooled(roster: Registry, rule: Rule, time: Time, *, bytes_max: int = 2**30) -> tuple[Windows, Spool]:
    windows = Windows(roster, rule, time.clock())
    spool = Spool(len_s=rule.len_s, bytes_max=bytes_max, pack=segment.pack_samples, submit=AtOnce().submit)
    windows.keep(spool)
    return windows, spool


def frames_of(chunk: Chunk, *, first: bool) -> list[bytes]:
    parts = [part.result() for part in chunk.parts]
    return [*parts, segment.pack_rest(chunk, chunk.samples, state=first)]


def segments(items: Sequence[ClosedWindow | Gap]) -> list[tuple[list[ClosedWindow], bytes]]:
    """Return runs of windows that follow each other, each with its file."""
    runs: list[list[ClosedWindow]] = []
    for item in items:
        if isinstance(item, Gap) or item.raw is None:
            continue
        assert isinstance(item.raw, Chunk)
        if not item.raw.follows or not runs:
            runs.append([])
        runs[-1].append(item)
    result = []
    for run in runs:
        frames = []
        for number, window in enumerate(run):
            assert isinstance(window.raw, Chunk)
            frames += frames_of(window.raw, first=number == 0)
        result.append((run, segment.write_segment(frames)))
    return result


def terms(window: ClosedWindow, rule: Rule) -> Terms:
    registry = window.registry
    return Terms(len_s=rule.len_s, usable=rule.usable, max_source_age_s=rule.max_source_age_s,
                 owner=registry.owner.tolist(), points=registry.point_alive.nonzero()[0].tolist(),
                 devices=mask(registry.device_alive.nonzero()[0].tolist()))


def recounted(run: Sequence[ClosedWindow], data: bytes, rule: Rule, folder: Path) -> list[Counted]:
    file = folder / "segment.parquet"
    file.write_bytes(data)
    by_start = {window.start_s: window for window in run}
    return list(recount(file, len(data), lambda start_s: terms(by_start[start_s], rule), "segment.parquet"))


def assert_equal(run: Sequence[ClosedWindow], found: Sequence[Counted]) -> None:
    assert [w.start_s for w in run] == [w.start_s for w in found]
    for window, again in zip(run, found, strict=True):
        told = window.columns
        assert (told.connected, told.sampled, told.producing, told.changing) == (
            again.connected, again.sampled, again.producing, again.changing), window.start_s
        assert (window.received, window.counted) == (again.received, again.counted)
        assert dict(window.discarded) == again.discarded
