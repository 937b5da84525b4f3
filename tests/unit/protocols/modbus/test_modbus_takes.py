"""What the poller makes of the replies of a poll that are taken together: times, devices, and what was wrong before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from protocols.errors import Problem
from protocols.modbus import plan, poll
from protocols.modbus.burst import Burst
from protocols.modbus.cycle import Cycle
from protocols.modbus.plan import make_requests
from protocols.modbus.poll import Poller
from protocols.samples import PollBatch
from tests.unit.protocols.modbus.recording import Recording, endpoint, point
from tests.unit.protocols.modbus.test_modbus_cycle import reply

POINTS = [point(slot, f"1/holding/{1000 * slot}", "uint16", device=slot // 2) for slot in range(6)]
"""Far from each other: a read each, two of every device, in this order."""


class Heard(Recording):
    """Keeps when which device answered, too."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[int, int]] = []

    def answered(self, device_index: Sequence[int], received_ns: int) -> None:  # type: ignore[override]
        self.heard += [(int(device), received_ns) for device in device_index]


class Stepping:
    """A line on which a reply comes every nanosecond, the first at 1; behind some of them there is a pause."""

    is_open = True

    def __init__(self, pauses: Sequence[int]) -> None:
        self.done = asyncio.Event()
        self._pauses = pauses

    @asynccontextmanager
    async def turn(self, unit: int) -> AsyncIterator[None]:
        if self.done.is_set():
            await asyncio.get_running_loop().create_future()
        yield

    def close(self) -> None:
        self.is_open = False

    def is_swift(self, unit: int) -> bool:
        return True

    async def read_all(self, cycle: Cycle, times: list[int]) -> None:
        cycle.number(1)
        burst = Burst(cycle, times, lambda data: None, in_flight=1, timeout_s=60.0,
                      clock_ns=lambda: len(times) + 1, problem=lambda code, **args: Problem.of("line", code, **args))
        for number in range(cycle.size):
            burst.received(reply(cycle, 1, number))
            if len(times) in self._pauses:
                await asyncio.sleep(0.001)  # a moment in which the poll so far is delivered
        await burst.ended
        self.done.set()


@pytest.mark.parametrize("pauses", [(), (1,), (3,), (2, 4), (1, 2, 3, 4, 5)],
                         ids=["whole", "after the first", "within a device", "device by device", "each alone"])
async def test_each_device_answered_and_each_sample_came_with_its_own_reply(
        pauses: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll, "TAKE_S", 0.0)
    sink, line = Heard(), Stepping(pauses)
    at = endpoint(502)
    requests = make_requests(POINTS, at)
    assert [request.device_index for request in requests] == [0, 0, 1, 1, 2, 2]
    poller = Poller(at, requests, line, sink, lambda: 0)  # type: ignore[arg-type] # as much of a line as it needs
    running = asyncio.create_task(poller.run())
    await asyncio.wait_for(line.done.wait(), 10)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    rows = [batch.samples() if isinstance(batch, PollBatch) else batch for batch in sink.batches]
    samples = [sample for batch in rows
               for sample in zip(batch.point_index.tolist(), batch.received_ns.tolist(), strict=True)]
    assert samples == [(slot, slot + 1) for slot in range(6)]
    assert sorted(set(sink.heard)) == [(slot // 2, slot + 1) for slot in range(6)]
    assert len(sink.batches) == len(pauses) + 1


class Scripted(Stepping):
    """Answers one poll after the other, some reads with an exception: slot of its point -> code."""

    def __init__(self, polls: Sequence[dict[int, int]]) -> None:
        super().__init__(())
        self._polls = list(polls)

    async def read_all(self, cycle: Cycle, times: list[int]) -> None:
        if not cycle.is_numbered:
            cycle.number(1)
        burst = Burst(cycle, times, lambda data: None, in_flight=1, timeout_s=60.0, clock_ns=lambda: 1,
                      problem=lambda code, **args: Problem.of("line", code, **args))
        while not burst.ended.done():
            number = len(times)
            request, good = cycle.requests[number], reply(cycle, 1, number)
            code = self._polls[0].get(request.points[0].point_index)
            burst.received(good if code is None else good[:4] + bytes((0, 3, 1, request.function | 0x80, code)))
        await burst.ended
        if cycle.is_done:
            self._polls.pop(0)
            if not self._polls:
                self.done.set()


@pytest.mark.parametrize(("polls", "codes"), [
    ([{0: 2}, {}, {}], ["modbus.points_refused", "modbus.points_back"]),
    ([{1: 6}, {}, {1: 6}, {1: 6}], ["modbus.exception", "modbus.exception"])], ids=["refused", "busy"])
async def test_what_was_wrong_is_over_when_all_replies_are_good(
        polls: list[dict[int, int]], codes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused read is asked again and works; a device that was busy and is again is told again."""
    monkeypatch.setattr(plan, "RETRY_FIRST_S", 0.0)
    sink, line, at = Recording(), Scripted(polls), endpoint(502)
    poller = Poller(at, make_requests(POINTS, at), line, sink, lambda: 0)  # type: ignore[arg-type] # as above
    running = asyncio.create_task(poller.run())
    await asyncio.wait_for(line.done.wait(), 10)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert sink.codes() == codes
    assert [len(sink.values[slot]) for slot in range(6)] == [
        sum(slot not in wrong for wrong in polls) for slot in range(6)]
