"""What the local page costs a gateway of 10 000 devices and 100 000 points: last values beside counting, and each page.

    python benchmarks/bench_web.py

Last values: CPU time of `Live` as a share of what counting the same batches takes, in the same process. Pages: CPU time
from facts to HTML, in the thread that makes them; on the loop only the facts are taken.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import numpy as np

from gateway.counting.rule import Rule
from gateway.counting.window import Windows
from gateway.web import pages
from gateway.web.index import make_index
from gateway.web.live import Live
from gateway.web.pages import Asked
from protocols.samples import Block, PollBatch, SampleBatch
from tallystick.words.lookup import Words
from tests.support.web_plant import WebPlant
from tests.unit.gateway.commissioning.plants import LINE, device

DEVICES, POINTS_EACH = 10_000, 10
REPEATS = 7
BATCHES = 200


def cpu_ms(work: Callable[[], object], times: int = 1) -> tuple[float, float, float]:
    """Return median, least and most CPU time of a run in milliseconds, over REPEATS runs of `times`."""
    found = []
    for _ in range(REPEATS):
        start = time.process_time()
        for _ in range(times):
            work()
        found.append((time.process_time() - start) / times * 1e3)
    return statistics.median(found), min(found), max(found)


def beside_counting(plant: WebPlant) -> None:
    """Print the share of `Live`."""
    windows = Windows(plant.agent.windows.registry, Rule(), plant.agent.clock)
    live = Live(DEVICES, plant.agent.windows.registry.owner)
    draw = np.random.default_rng(1)
    now_ns = plant.now_ns() + 60 * 10**9

    def samples(rows: int) -> SampleBatch:
        return SampleBatch(
            point_index=draw.integers(0, DEVICES * POINTS_EACH, rows),
            received_ns=np.full(rows, now_ns, dtype=np.int64), source_ns=np.full(rows, now_ns, dtype=np.int64),
            value=draw.normal(size=rows), quality=np.zeros(rows, dtype=np.uint8))

    block = Block(np.arange(125, dtype=np.int64), 0)
    poll = PollBatch(block=block, received_ns=now_ns, value=draw.normal(size=125), missing=np.array([], dtype=np.int64))
    for name, batch in (("samples, 100 rows", samples(100)), ("samples, 10 000 rows", samples(10_000)),
                        ("poll, 125 points", poll)):
        counted = cpu_ms(lambda batch=batch: windows.samples(batch), BATCHES)  # type: ignore[misc]  # a default has no type
        shown = cpu_ms(lambda batch=batch: live.samples(batch), BATCHES)  # type: ignore[misc]  # nor has this one
        print(f"{name:24} counting {counted[0] * 1e3:8.1f} us   last values {shown[0] * 1e3:8.1f} us   "
              f"{shown[0] / counted[0]:.2f} of counting")


def each_page(plant: WebPlant) -> None:
    """Print what facts, index and pages take."""
    facts = plant.facts()
    index = make_index(facts.config, facts.roster)
    line = index.lines[5_000]

    def asked(path: str, **query: str) -> Asked:
        return Asked(path=path, query=query, say=Words("zh"))

    rows: list[tuple[str, Callable[[], object]]] = [
        ("facts (on the loop)", plant.facts), ("index (once a roster)", lambda: make_index(facts.config, facts.roster)),
        ("/", lambda: pages.overview(facts, index, asked("/"))),
        ("/devices", lambda: pages.devices(facts, index, asked("/devices"))),
        ("/devices?q=d99", lambda: pages.devices(facts, index, asked("/devices", q="d99"))),
        ("/devices/ID", lambda: pages.device(facts, index, asked("/devices/d5000"), line,
                                             plant.live.cells(line.points))),
        ("/record", lambda: pages.commissioning_record(facts, index, asked("/record"))),
    ]
    for name, work in rows:
        work()
        median, least, most = cpu_ms(work)
        text = work()
        size = f"{len(text.encode()) / 1024:7.0f} KiB" if isinstance(text, str) else ""
        print(f"{name:24} {median:7.2f} ms CPU ({least:.2f} to {most:.2f}) {size}")


def main() -> None:
    """Print both."""
    with tempfile.TemporaryDirectory() as folder:
        # Unit ids end at 247: a device is a block of registers of one of twenty servers.
        names = [f"line{n}" for n in range(20)]
        connections = "".join(LINE.replace('"line"', f'"{name}"').replace(":1\"", f":{n + 1}\"")
                              for n, name in enumerate(names))
        devices = [device(f"d{n}", serial=f"S{n}", connection=names[n % 20]) for n in range(DEVICES)]
        points = [f"d{n},p{k},{1 + n // 20 % 200}/holding/{(n // 4_000) * POINTS_EACH + k},uint16,parameter,,,"
                  for n in range(DEVICES) for k in range(POINTS_EACH)]
        plant = WebPlant(Path(folder), devices, points, connections=connections)
        try:
            plant.heard(*(f"d{n}" for n in range(DEVICES - 300)))
            plant.window(producing=[f"d{n}" for n in range(DEVICES) if n % 33])
            print(f"{DEVICES} devices, {DEVICES * POINTS_EACH} points, Python {sys.version.split()[0]}")
            beside_counting(plant)
            each_page(plant)
        finally:
            plant.close()


if __name__ == "__main__":
    main()
