"""Raw segments: what keeping an hour costs, and what counting it again costs: 1000 points, once a second, polls of 25.

CPU seconds of this process (all threads). The hour is 3.6 million samples, values rounded to 0.1 as sensors give them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from gateway.counting.rule import Rule
from gateway.counting.window import ClosedWindow, WindowClock, Windows
from gateway.keeping import segment
from gateway.keeping.spool import Chunk, Spool
from protocols.samples import Block, PollBatch
from tests.sim.rows import registry
from verifier.proof.kept import Terms
from verifier.proof.recount import mask
from verifier.raw.recount import recount

POINTS, EACH, WINDOWS, LEN_S, NS = 1000, 25, 60, 60, 10**9
START_S = 1_800_000_000


def hour(*, keep: bool) -> tuple[float, float, list[ClosedWindow], list[bytes]]:
    """Play an hour; return CPU of counting (with the spool if `keep`), CPU of packing, the windows and their frames."""
    roster, rule = registry(POINTS // EACH, EACH), Rule(len_s=LEN_S)
    now = [START_S * NS]
    windows = Windows(roster, rule, WindowClock(lambda: now[0], lambda: now[0]))
    packing = [0.0]

    def submit(work: Any, *args: Any) -> Future[bytes]:
        before, future = time.process_time(), Future[bytes]()
        future.set_result(work(*args))
        packing[0] += time.process_time() - before
        return future

    spool = Spool(len_s=LEN_S, bytes_max=2**30, pack=segment.pack_samples, submit=submit)
    if keep:
        windows.keep(spool)
    blocks = [Block(np.arange(at, at + EACH, dtype=np.int64), at // EACH) for at in range(0, POINTS, EACH)]
    rng = np.random.default_rng(1)
    drift = rng.normal(0, 0.3, (WINDOWS * LEN_S, POINTS)).cumsum(axis=0).round(1) + 50.0
    closed: list[ClosedWindow] = []
    frames: list[bytes] = []
    none = np.zeros(0, dtype=np.int64)
    began = time.process_time()
    for second in range(WINDOWS * LEN_S + 3):
        now[0] += NS
        if second < WINDOWS * LEN_S:
            for number, block in enumerate(blocks):
                at = now[0] - NS + number * 20_000_000
                windows.answered([number], at)
                windows.samples(PollBatch(block=block, received_ns=at, missing=none,
                                          value=drift[second, block.point_index]))
        for item in windows.tick():
            assert isinstance(item, ClosedWindow)
            closed.append(item)
            if isinstance(item.raw, Chunk):
                before = time.process_time()
                frames += [part.result() for part in item.raw.parts]
                frames.append(segment.pack_rest(item.raw, item.raw.samples, state=len(closed) == 1))
                spool.release(item.raw)
                packing[0] += time.process_time() - before
    return time.process_time() - began - packing[0], packing[0], closed, frames


def main() -> None:
    plain = min(hour(keep=False)[0] for _ in range(2))
    counting, packing, closed, frames = hour(keep=True)
    before = time.process_time()
    data = segment.write_segment(iter(frames))
    writing = time.process_time() - before
    roster = closed[0].registry
    terms = Terms(len_s=LEN_S, usable=("good", "uncertain"), max_source_age_s=3600, owner=roster.owner.tolist(),
                  points=list(range(POINTS)), devices=mask(range(roster.devices)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "raw.parquet"
        file.write_bytes(data)
        before = time.process_time()
        again = list(recount(file, len(data), lambda start_s: terms, "raw"))
        counted = time.process_time() - before
    assert [w.columns.changing for w in closed] == [w.changing for w in again]
    samples = sum(w.received for w in closed)
    print(f"an hour: {samples} samples, {len(closed)} windows")
    print(f"counting {plain:6.2f} s, with the spool {counting:6.2f} s (on the loop: +{counting - plain:.2f} s an hour)")
    print(f"packing  {packing:6.2f} s, writing the file {writing:6.2f} s (in a thread)")
    print(f"journal  {sum(map(len, frames)) / 2**20:6.1f} MB, file {len(data) / 2**20:.1f} MB, "
          f"{len(data) / samples:.2f} bytes a sample")
    print(f"recount  {counted:6.2f} s, {samples / counted / 1e6:.2f} million samples a second")


if __name__ == "__main__":
    main()
