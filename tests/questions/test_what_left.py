"""Question 20: a gateway collects values that occur nowhere else; none of them is in what it writes to be sent."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.gateway import load_gateway
from gateway import agent as agent_module
from gateway.agent import Agent
from protocols.samples import SampleBatch
from tallystick.words.lookup import Words
from tests.support.platform_process import tallystick
from tests.support.processes import device, entries_of, modbus_connection, point, write_gateway

VALUES = (31415.926535, -273.15, 0.57721566, 8_675_309.0, 40_321_987.0)
"""Every spelling has a point or seven digits: fewer stand in some digest or time by chance."""

TEXTS = ("Rezept 4711 Stahl", "批次-20241121-机密")
PRIVATE = ("Geheimfabrik GmbH", "Modell Sieben", "SN-HEIMLICH-0815", "5-Achs-Fräse Halle 3", "10.20.30.40")


def spellings() -> Iterator[bytes]:
    """The values as text and in bytes of every common width and order; texts and private names as text and hex."""
    for value in VALUES:
        yield from (repr(value).encode(), f"{value:g}".encode(), f"{value:.2f}".encode())
        for order in "<>":
            yield from (struct.pack(f"{order}d", value), struct.pack(f"{order}f", value))
            if value == int(value) and abs(value) < 2**31:
                yield from (struct.pack(f"{order}i", int(value)), str(int(value)).encode())
    for text in (*TEXTS, *PRIVATE):
        yield from (text.encode(), text.encode("utf-16-le"), text.encode().hex().encode())


class Source:
    """A driver that delivers the values over and over."""

    def __init__(self, sink: Any, clock_ns: Any) -> None:
        self.sink, self.clock_ns = sink, clock_ns

    async def run(self) -> None:
        n = len(VALUES) + len(TEXTS)
        while True:
            now_ns = self.clock_ns()
            self.sink.answered([0], now_ns)
            self.sink.samples(SampleBatch(
                point_index=np.arange(n, dtype=np.int64), received_ns=np.full(n, now_ns, dtype=np.int64),
                source_ns=np.zeros(n, dtype=np.int64), value=np.array([*VALUES, *(np.nan for _ in TEXTS)]),
                quality=np.zeros(n, dtype=np.uint8),
                texts=tuple((len(VALUES) + i, text) for i, text in enumerate(TEXTS))))
            await asyncio.sleep(0.05)


def filled(entry: dict[str, Any]) -> bool:
    """Return whether an entry is a window in which samples came."""
    return entry["type"] == "window" and entry["samples"]["received"] > 0


async def test_no_value_is_in_what_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [point("mill", f"p{i}", f"1/holding/{i}", "uint16") for i in range(len(VALUES) + len(TEXTS))]
    maker, model, serial, name, host = PRIVATE
    files = write_gateway(
        tmp_path, devices=[device("mill", "line", name=name, maker=maker, model=model, serial=serial)], points=points,
        connections=modbus_connection("line", 1).replace("127.0.0.1", host), grace_ms=100)
    tallystick("enrol", files.config, "--self")
    monkeypatch.setattr(agent_module, "build_drivers",
                        lambda config, roster, sink, clock_ns: {"line": Source(sink, clock_ns)})
    config = load_gateway(files.config)
    agent = Agent(config, Words("en"))
    task = asyncio.create_task(agent.run())
    journal = agent.sealer.journal
    async with asyncio.timeout(120):
        while sum(filled(journal.entry(seq)) for seq in range(journal.size)) < 3:
            assert not task.done(), task
            await asyncio.sleep(0.05)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

    bundle = tmp_path / "X.tally"
    tallystick("bundle", files.config, "-o", bundle)
    with zipfile.ZipFile(bundle) as archive:
        sent = b"".join(archive.read(member) for member in archive.namelist())
    assert sum(map(filled, entries_of(bundle))) >= 3, "nothing was collected"
    assert [spelling for spelling in spellings() if spelling in sent] == []
    for private in PRIVATE[:-1]:  # the test looks at the right place: the factory itself does hold them
        assert private.encode() in (tmp_path / "devices.csv").read_bytes()
