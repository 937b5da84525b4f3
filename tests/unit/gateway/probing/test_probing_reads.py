"""Reads at drawn instants: what is drawn, what counts as an answer, and what the transcript and its entry say."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.counting.registry import Ledger, Registry
from gateway.probing import transcripts
from gateway.probing.reads import EXACT_MAX, Reads, Round, eligible, text_of
from protocols.errors import VerificationError
from protocols.evidence import reads
from protocols.evidence.encoding import to_base64
from protocols.evidence.shape import problems
from protocols.samples import BAD, GOOD, NOT_LIVE, UNCERTAIN, Block, PollBatch, Reading, SampleBatch
from verifier.conformance.world import device_row, point_row

GATEWAY = "ab" * 16
START_S = 1_790_000_040
LEN_S = 60
START_NS = START_S * 10**9
SEEN = {"size": 9, "root": "cd" * 32, "witness": "bureau", "time_s": START_S - 5, "signature": to_base64(bytes(64))}
PROTOCOLS = ("modbus_tcp", "mqtt", "sparkplug_b", "opc_ua")


def registry(points: int = 8, *, gone: tuple[int, ...] = (), protocols: tuple[str, ...] = PROTOCOLS) -> Registry:
    rows = [point_row(n, 0, GATEWAY, address=f"1/holding/{n}/uint16", protocol=protocols[n % len(protocols)],
                      state="gone" if n in gone else "alive") for n in range(points)]
    return Registry.of([device_row(0)], rows, Ledger(sha256="0" * 64, date="2026-11-01", rows=1))


def drawn(count: int = 40, known: Registry | None = None) -> Round:
    return Round(gateway=GATEWAY, seen=SEEN, start_s=START_S, len_s=LEN_S, registry=known or registry(), count=count)


def batch(point: int, at_ms: int, value: float, quality: int = GOOD, text: str | None = None) -> SampleBatch:
    return SampleBatch(
        point_index=np.array([point], dtype=np.int64), source_ns=np.zeros(1, dtype=np.int64),
        received_ns=np.array([START_NS + at_ms * 1_000_000], dtype=np.int64), value=np.array([value]),
        quality=np.array([quality], dtype=np.uint8), texts=() if text is None else ((0, text),))


def one(at_least_ms: int, *, passive: bool) -> tuple[Round, dict[str, Any]]:
    """A round and its first row of that kind that is due no sooner."""
    found = drawn()
    active = {i for i, _, _ in found.active}
    row = next(r for r in found.rows if (r["i"] not in active) == passive and r["at_ms"] >= at_least_ms)
    return found, row


def now(found: Round, row: dict[str, Any]) -> dict[str, Any]:
    return found.rows[row["i"]]


def test_the_drawn_points_and_instants_are_those_of_the_format() -> None:
    known = registry(gone=(0, 5))
    assert eligible(known) == [1, 2, 4, 6], "alive, and no OPC UA point"
    found = drawn(known=known)
    due = reads.schedule(SEEN, gateway=GATEWAY, start_s=START_S, len_s=LEN_S, points=[1, 2, 4, 6], count=40)
    assert [(r["point"], r["at_ms"]) for r in found.rows] == due
    assert {point for point, _ in due} == {1, 2, 4, 6}
    assert all(at_ns == START_NS + found.rows[i]["at_ms"] * 1_000_000 for i, _, at_ns in found.active)
    assert {known.point_rows[point]["protocol"] for _, point, _ in found.active} == {"modbus_tcp"}
    assert len({r["blind"] for r in found.rows}) == 40, "128 drawn bits for each row"


def test_no_point_that_can_be_read_is_an_empty_round() -> None:
    found = drawn(known=registry(protocols=("opc_ua",)))
    assert found.rows == [] and not found.waits


def test_rows_are_as_the_format_says() -> None:
    found, row = one(1, passive=False)
    at_ns = START_NS + row["at_ms"] * 1_000_000
    found.read(row["i"], Reading(asked_ns=at_ns + 5_000_000, answered_ns=at_ns + 9_000_000, value=21.5))
    assert now(found, row) | {"blind": ""} == row | {
        "asked_ms": row["at_ms"] + 5, "answered_ms": row["at_ms"] + 9, "value": "21.5", "blind": ""}
    assert found.answered == 1
    transcript = {"type": reads.TYPE, "gateway": GATEWAY, "seq": 3, "rows": found.rows}
    assert problems(reads.TRANSCRIPT, transcript, where="") == []
    assert all(reads.times_hold(r) for r in found.rows)


@pytest.mark.parametrize("reading", [
    Reading(asked_ns=START_NS + 10**9), Reading(asked_ns=START_NS + 10**9, answered_ns=START_NS + 2 * 10**9),
    Reading(asked_ns=START_NS + 10**9, answered_ns=START_NS + LEN_S * 10**9, value=1.0)])
def test_no_value_or_one_from_behind_the_window_is_no_answer(reading: Reading) -> None:
    found, row = one(0, passive=False)
    found.read(row["i"], reading)
    assert (now(found, row)["asked_ms"], now(found, row)["answered_ms"], now(found, row)["value"]) == (1000, None, None)
    assert found.answered == 0


def test_what_was_asked_behind_the_window_was_not_asked() -> None:
    found, row = one(0, passive=False)
    found.read(row["i"], Reading(asked_ns=START_NS + LEN_S * 10**9, answered_ns=None))
    assert now(found, row)["asked_ms"] is None


def test_the_first_live_message_from_the_instant_on_answers() -> None:
    found, row = one(1000, passive=True)
    point, at_ms = row["point"], row["at_ms"]
    for too_early_or_dead in (batch(point, at_ms - 1, 1.0), batch(point, at_ms + 1, 2.0, NOT_LIVE),
                              batch(point, at_ms + 2, 3.0, BAD), batch(point, LEN_S * 1000, 4.0)):
        found.samples(too_early_or_dead)
        assert now(found, row)["answered_ms"] is None
    found.samples(batch(point, at_ms, 5.0, UNCERTAIN))
    found.samples(batch(point, at_ms + 3, 6.0))
    assert now(found, row) == row | {"answered_ms": at_ms, "value": "5"}
    assert now(found, row)["asked_ms"] is None, "nobody asked"


def test_a_batch_answers_in_the_order_of_time_and_texts_stand_for_themselves() -> None:
    found, row = one(0, passive=True)
    point, at_ms = row["point"], row["at_ms"]
    later, earlier = batch(point, at_ms + 20, 1.0, text="later"), batch(point, at_ms + 10, 2.0, text="运行")
    both = SampleBatch(**{name: np.concatenate([getattr(later, name), getattr(earlier, name)]) for name in (
        "point_index", "received_ns", "source_ns", "value", "quality")}, texts=((0, "later"), (1, "运行")))
    found.samples(both)
    assert (now(found, row)["answered_ms"], now(found, row)["value"]) == (at_ms + 10, "运行")


def test_polls_and_other_points_answer_nothing() -> None:
    found, row = one(0, passive=True)
    found.samples(batch(3, row["at_ms"], 1.0))
    found.samples(PollBatch(block=Block(np.array([row["point"]]), 0), received_ns=START_NS + row["at_ms"] * 10**6,
                            value=np.array([1.0]), missing=np.zeros(0, dtype=np.int64)))
    assert found.answered == 0 and found.waits


@given(st.floats() | st.integers(-EXACT_MAX, EXACT_MAX).map(float))
def test_a_number_is_told_so_that_it_can_be_read_back(value: float) -> None:
    text = text_of(value)
    assert len(text) <= 30
    assert float(text) == value or (value != value and text == "nan")
    is_whole = value.is_integer() and abs(value) <= EXACT_MAX
    assert ("." not in text and "e" not in text) == (is_whole or text in ("nan", "inf", "-inf"))


@given(st.text(max_size=600))
def test_a_text_is_kept_as_far_as_the_format_goes(value: str) -> None:
    text = text_of(value)
    assert len(text) <= 256 and text.encode() is not None
    if len(value) <= 256 and value.isascii():
        assert text == value


# Drawing windows and reading.


class Line:
    """A Modbus driver by script."""

    def __init__(self, clock: Clock, points: set[int]) -> None:
        self.clock, self.readable, self.asked = clock, frozenset(points), []  # type: ignore[var-annotated]  # below

    async def read_once(self, point: int) -> Reading | None:
        self.asked.append((point, self.clock.now_ns()))
        return Reading(asked_ns=self.clock.now_ns(), answered_ns=self.clock.now_ns() + 10**6, value=float(point))


class Clock:
    """Window time that runs with the loop's clock, and stands still while a loaded machine lets the loop wait."""

    def __init__(self) -> None:
        self.looked_s, self.passed_s = asyncio.get_running_loop().time(), 0.0

    def now_ns(self) -> int:
        now_s = asyncio.get_running_loop().time()
        self.passed_s += min(now_s - self.looked_s, 0.1)
        self.looked_s = now_s
        return START_NS - 2 * 10**9 + int(self.passed_s * 1e9)


async def test_a_window_is_drawn_and_read_at_its_milliseconds() -> None:
    clock, known = Clock(), registry(protocols=("modbus_tcp", "mqtt"))
    line = Line(clock, {0, 2, 4, 6})
    taps: list[Any] = []
    work = Reads(gateway=GATEWAY, len_s=2, per_window=12, every_s=2, now_ns=clock.now_ns, seen=lambda: SEEN,
                 registry_at=lambda start_s: known, readers=[line], tap=taps.append)
    task = asyncio.create_task(work.run())
    try:
        async with asyncio.timeout(60):
            while clock.now_ns() < START_NS + 2 * 10**9 + 10**8:
                await asyncio.sleep(0.02)
                if taps and taps[-1] is not None:
                    ms = (clock.now_ns() - START_NS) // 10**6
                    for point in (1, 3, 5, 7):
                        if taps[-1] is not None:
                            taps[-1](batch(point, ms, float(point)))
        found = work.take(START_S, known)
        assert found is not None and work.take(START_S, known) is None
        assert len(found.rows) == 12 and all(reads.times_hold(row) for row in found.rows)
        active = {i for i, _, _ in found.active}
        assert active and len(active) < 12
        for row in found.rows:
            if row["i"] in active and row["answered_ms"] is not None:  # a busy machine may be late at the end
                assert 0 <= row["asked_ms"] - row["at_ms"] < 1500 and row["value"] == str(row["point"])
            elif row["i"] not in active and row["at_ms"] < 1000:
                assert row["value"] == str(row["point"]) and row["asked_ms"] is None
        assert len(line.asked) >= len(active)
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert taps[-1] is None


def make(known: Registry, *, every_s: int = 3600, seen: Any = SEEN, taps: list[Any] | None = None) -> Reads:
    return Reads(gateway=GATEWAY, len_s=LEN_S, per_window=4, every_s=every_s, now_ns=lambda: START_NS,
                 seen=lambda: seen, registry_at=lambda start_s: known, readers=[],
                 tap=(taps if taps is not None else []).append)


async def test_one_window_of_each_interval_is_drawn_also_after_a_start_in_its_middle() -> None:
    work, known = make(registry(every := 8)), registry(every)
    drawn_at = []
    for start_s in range(START_S, START_S + 4 * 3600, LEN_S):
        work.open(start_s)
        if work.take(start_s, known) is not None:
            drawn_at.append(start_s)
    assert drawn_at[0] == START_S
    assert [at % 3600 for at in drawn_at[1:]] == [0, 0, 0, 0]


async def test_without_a_nonce_the_interval_waits_for_one() -> None:
    known = registry()
    work = make(known, seen=None)
    work.open(START_S)
    assert work.take(START_S, known) is None
    work._seen = lambda: SEEN
    work.open(START_S + LEN_S)
    assert work.take(START_S + LEN_S, known) is not None


async def test_a_round_is_sealed_with_its_own_window_and_roster_or_not_at_all() -> None:
    known, other = registry(), registry(gone=(1,))
    work = make(known, every_s=60)
    work.open(START_S)
    assert work.take(START_S - LEN_S, known) is None, "the window before is sealed in the grace of this one"
    work.open(START_S + LEN_S)
    assert work.take(START_S, other) is None, "another roster than the one it was drawn from"
    assert work.take(START_S, known) is None, "and then it is gone"
    found = work.take(START_S + LEN_S, known)
    assert found is not None and found.start_s == START_S + LEN_S
    work.open(START_S + 2 * LEN_S)
    assert work.take(START_S + 3 * LEN_S, known) is None, "a window that was lost takes its reads along"


async def test_batches_are_looked_at_only_while_a_message_is_waited_for() -> None:
    known, taps = registry(), []  # type: ignore[var-annotated]  # taps
    work = make(known, taps=taps)
    work._per_window = 40
    work.open(START_S)
    assert taps[-1] is not None
    for point in (1, 2, 5, 6):
        taps[-1](batch(point, LEN_S * 1000 - 1, 1.0))
    assert taps[-1] is None, "all have their answer"
    only = make(registry(protocols=("modbus_tcp",)), taps=taps)
    only.open(START_S)
    assert taps[-1] is None


async def test_no_reads_at_all_when_none_are_wanted() -> None:
    work = make(registry())
    work._per_window = 0
    task = asyncio.create_task(work.run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


# Transcripts.


def test_a_transcript_is_private_canonical_and_opens_its_root(tmp_path: Path) -> None:
    found = drawn(4)
    transcripts.write(tmp_path / "reads", GATEWAY, 12, found.rows)
    path = transcripts.path(tmp_path / "reads", 12)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    body = json.loads(path.read_bytes())
    assert body["seq"] == 12 and reads.root(body["rows"]) == reads.root(found.rows)
    transcripts.write(tmp_path / "reads", GATEWAY, 12, drawn(3).rows)
    assert len(json.loads(path.read_bytes())["rows"]) == 3, "that of an entry which was never sealed is replaced"
    assert [p.name for p in path.parent.iterdir()] == ["12.json"]


def test_a_transcript_that_is_none_is_not_written(tmp_path: Path) -> None:
    row = drawn(1).rows[0] | {"value": "x" * 257, "answered_ms": 1}
    with pytest.raises(VerificationError):
        transcripts.write(tmp_path / "reads", GATEWAY, 12, [row])
    assert not (tmp_path / "reads").exists()


def test_old_transcripts_go(tmp_path: Path) -> None:
    for seq in (1, 2, 3):
        transcripts.write(tmp_path / "reads", GATEWAY, seq, drawn(1).rows)
        os.utime(transcripts.path(tmp_path / "reads", seq), (seq * 1000, seq * 1000))
    assert transcripts.expire(tmp_path / "reads", 2500) == 2
    assert [p.name for p in (tmp_path / "reads").iterdir()] == ["3.json"]
    assert transcripts.expire(tmp_path / "nothing", 2500) == 0
