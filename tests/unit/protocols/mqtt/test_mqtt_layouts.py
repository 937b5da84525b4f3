"""Sparkplug data read by its layout is what protobuf reads: any metrics in any order, and whatever nodes write."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from protocols.mqtt.births import AliasTable, Binding
from protocols.mqtt.frames import RETAINED, Messages
from protocols.mqtt.inbox import Chunk
from protocols.mqtt.layouts import Block, Layouts
from protocols.mqtt.router import Router
from protocols.mqtt.sparkplug_pb2 import Payload
from protocols.mqtt.target import Point
from protocols.samples import SampleBatch
from tests.unit.protocols.mqtt.mqtt_recording import Recording, metric_point, payload, sparkplug_endpoint

NOW_MS = 1_763_700_000_123
NBIRTH, DBIRTH, DDATA = (b"spBv1.0/G/NBIRTH/N", b"spBv1.0/G/DBIRTH/N/D", b"spBv1.0/G/DDATA/N/D")
TYPES = {"double": 10, "float": 9, "switch": 11, "int": 3, "long": 8, "text": 12}


class Pair:
    """Two hosts of one node: one reads by layout, the other leaves everything to protobuf. They must hear the same."""

    def __init__(self, kinds: list[str], *, first_alias: int | None = 1000, wanted: float = 1.0) -> None:
        self.kinds = kinds
        self.alias = {n: n + first_alias for n in range(len(kinds))} if first_alias is not None else {}
        points: list[Point] = [metric_point(n, f"G/N/D#m{n}", device=0) for n in range(int(len(kinds) * wanted))]
        self.sinks = Recording(), Recording()
        self.routers = [Router(sparkplug_endpoint(), points, sink) for sink in self.sinks]
        self.routers[1].is_fast = False  # type: ignore[misc]  # of this one only
        self.seq = 0
        self.hear(NBIRTH, payload(0, sent_ms=NOW_MS))
        self.hear(DBIRTH, self.message(range(len(kinds)), births=True))

    def message(self, numbers: range | list[int], *, births: bool = False,
                change: Callable[[Payload], None] | None = None, r: random.Random | None = None) -> bytes:
        self.seq = (self.seq + 1) % 256
        made = Payload()
        made.timestamp, made.seq = NOW_MS + self.seq, self.seq
        for number in numbers:
            metric, kind = made.metrics.add(), self.kinds[number]
            if births or number not in self.alias:
                metric.name = f"m{number}"
            if number in self.alias:
                metric.alias = self.alias[number]
            metric.timestamp = NOW_MS + (r.randrange(99) if r else 0)
            if births or number % 2:
                metric.datatype = TYPES[kind]
            self.put(metric, kind, r or random.Random(number))
        if change is not None:
            change(made)
        return made.SerializeToString()

    @staticmethod
    def put(metric: Payload.Metric, kind: str, r: random.Random) -> None:
        match kind:
            case "double":
                metric.double_value = r.choice([r.uniform(-1e9, 1e9), 0.0, -0.0, float("inf"), 5e-324])
            case "float":
                metric.float_value = r.uniform(-1e9, 1e9)
            case "switch":
                metric.boolean_value = r.random() < 0.5
            case "int":
                metric.int_value = r.randrange(2**32)
            case "long":
                metric.long_value = r.randrange(2**64)
            case _:
                metric.string_value = str(r.random())

    def hear(self, topic: bytes, body: bytes, marks: int = 0) -> None:
        for router in self.routers:
            router.receive_chunk(Chunk(9, Messages.of([(topic, body, marks)]), len(body)), 10**12)

    @property
    def at_once(self) -> Layouts:
        return next(iter(self.routers[0]._layouts.values()))

    def agree(self) -> list[SampleBatch]:
        """Compare what was heard since the last time, and return it."""
        for router in self.routers:
            router.tick(9, 2 * 10**12)
            router.connected(2 * 10**12)  # changes nothing for who is online, and tells the session of all turns
            router.flush()
        ours, theirs = self.sinks
        assert (ours.calls, ours.discards, ours.events, ours.texts) == (
            theirs.calls, theirs.discards, theirs.events, theirs.texts)
        assert [(*map(repr, row), t, u) for row, t, u in self.rows(ours)] == [
            (*map(repr, row), t, u) for row, t, u in self.rows(theirs)]
        heard = list(ours.batches)
        for sink in self.sinks:
            sink.rows.clear()
            sink.batches.clear()
            sink.texts.clear()
        assert self.routers[0]._sessions.keys() == self.routers[1]._sessions.keys()
        assert [s.next_seq for s in self.routers[0]._sessions.values()] == [
            s.next_seq for s in self.routers[1]._sessions.values()]
        return heard

    @staticmethod
    def rows(sink: Recording) -> list[tuple[tuple[int, float, int], int, int]]:
        times = [pair for batch in sink.batches
                 for pair in zip(batch.source_ns.tolist(), batch.received_ns.tolist(), strict=True)]
        return [(row, *pair) for row, pair in zip(sink.rows, times, strict=True)]


def shuffled(pair: Pair, r: random.Random) -> list[int]:
    numbers = list(range(len(pair.kinds)))
    r.shuffle(numbers)
    return numbers[:r.randrange(1, len(numbers) + 1)]


@pytest.mark.parametrize("first_alias", [0, 100, 1000, 16_380, None], ids=["short", "both", "long", "longer", "names"])
@pytest.mark.parametrize("kinds", [["double"] * 40, ["double", "float", "switch"] * 15,
                                   ["double", "int", "text", "long"] * 8, ["float"] * 5],
                         ids=["doubles", "floats", "integers", "few"])
def test_all_layouts_are_read_alike(kinds: list[str], first_alias: int | None) -> None:
    r = random.Random(first_alias)
    pair = Pair(kinds, first_alias=first_alias, wanted=0.8)
    for number in range(120):
        chosen: range | list[int] = range(len(kinds)) if number % 3 else shuffled(pair, r)
        pair.hear(DDATA, pair.message(chosen, r=r))
    assert sum(len(batch.value) for batch in pair.agree()) > 1_000 or len(kinds) < 10


def test_the_usual_ones_need_no_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(["double"] * 100)
    for _ in range(4):
        pair.hear(DDATA, pair.message(range(100)))
    mixed = Pair(["double", "float", "switch"] * 20)
    for _ in range(4):
        mixed.hear(DDATA, mixed.message(range(60)))
    for one, numbers in ((pair, range(100)), (pair, list(range(0, 100, 3))), (mixed, range(60)), (mixed, [5, 1, 2])):
        assert isinstance(one.at_once.read(one.message(numbers)), Block)  # type: ignore[arg-type]  # a range or a list


def strange(message: Payload) -> list[Callable[[Payload], None]]:
    """What an edge node may write, that is not like its other data."""
    def first(name: str, value: object) -> Callable[[Payload], None]:
        return lambda m: setattr(m.metrics[0], name, value)

    return [
        first("is_historical", True), first("is_null", True), first("timestamp", 0), first("timestamp", 1),
        first("timestamp", 2**63), first("alias", 77_777), first("name", "m1"), first("datatype", 3),
        first("datatype", 9), first("string_value", "x"), first("float_value", 1.5), first("boolean_value", True),
        first("is_transient", True), lambda m: m.metrics[0].properties.keys.append("Quality"),
        lambda m: setattr(m, "timestamp", 0),
        lambda m: setattr(m, "uuid", "x"), lambda m: setattr(m, "body", b"x"), lambda m: m.ClearField("seq"),
        lambda m: m.ClearField("metrics"), lambda m: m.metrics[0].ClearField("timestamp"),
        lambda m: m.metrics[0].ClearField("alias"), lambda m: m.metrics[0].ClearField("double_value"),
        lambda m: m.metrics.add().MergeFrom(m.metrics[0])]


@pytest.mark.parametrize("number", range(len(strange(Payload()))))
@pytest.mark.parametrize("kinds", [["double"] * 6, ["double", "float", "switch"] * 2], ids=["doubles", "mixed"])
def test_what_is_not_like_the_others(number: int, kinds: list[str]) -> None:
    pair = Pair(kinds)
    for turn in range(12):
        change = strange(Payload())[number] if turn % 4 == 3 else None
        pair.hear(DDATA, pair.message(range(6), change=change))
    pair.agree()


def test_turns_that_are_taken_at_once_are_known_to_the_session() -> None:
    """A message that is missing, one that comes twice, a retained one and a death, each after some read at once."""
    pair = Pair(["double"] * 5)
    for _ in range(6):
        pair.hear(DDATA, pair.message(range(5)))
    again = pair.message(range(5))
    for _ in range(2):
        pair.hear(DDATA, again)
    pair.hear(DDATA, pair.message(range(5)), RETAINED)
    pair.seq -= 1
    early = [pair.message(range(5)) for _ in range(3)]
    for at in (0, 2, 1):
        pair.hear(DDATA, early[at])
    pair.agree()
    assert pair.sinks[0].discards == {"not_live": 10}
    pair.hear(DDATA, pair.message(range(5)))
    pair.hear(b"spBv1.0/G/DDEATH/N/D", payload(pair.seq + 1))
    pair.seq += 1
    pair.hear(DDATA, pair.message(range(5)))
    pair.agree()


def test_a_birth_changes_what_aliases_mean() -> None:
    table = AliasTable({1: Binding("a", 10, 0), 2: Binding("b", 10, 1)}, {})
    other = AliasTable({1: Binding("b", 10, 1), 2: Binding("a", 10, 0)}, {})
    pair = Pair(["double"] * 3)
    for _ in range(3):
        pair.hear(DDATA, pair.message(range(3)))
    before = pair.at_once
    pair.hear(NBIRTH, payload(0, sent_ms=NOW_MS + 5_000))
    pair.seq, pair.alias = 0, {0: 1002, 1: 1001, 2: 1000}
    pair.hear(DBIRTH, pair.message(range(3), births=True))
    for _ in range(3):
        pair.hear(DDATA, pair.message(range(3)))
    assert pair.at_once is not before and table != other
    pair.agree()


MESSAGES = int(os.environ.get("TALLYSTICK_MESSAGES", "3000"))
"""How many messages are read both ways."""


def test_many_messages_whole_and_damaged() -> None:
    r = random.Random(11)
    for kinds in (["double"] * 12, ["double", "float", "switch", "double"] * 3, ["double", "int", "text"] * 4):
        pair = Pair(kinds, first_alias=r.choice([1, 120, 1000]))
        for number in range(MESSAGES // 3):
            before = pair.seq
            body = pair.message(range(12) if r.random() < 0.6 else shuffled(pair, r), r=r)
            if r.random() < 0.1:
                at = r.randrange(len(body))
                damaged = body[:at] + bytes([r.randrange(256)]) + body[at + r.choice([0, 1, 2]):]
                fast, slow = (router._layouts for router in pair.routers)
                assert not slow
                found = next(iter(fast.values())).read(damaged) if fast else None
                if found is not None:
                    check(found, damaged, pair)
                pair.seq = before
                continue
            pair.hear(DDATA, body)
            if number % 200 == 0:
                pair.agree()
        pair.agree()


def check(found: Block, damaged: bytes, pair: Pair) -> None:
    """What is read of a damaged message is what protobuf reads of it."""
    read = Payload()
    read.ParseFromString(damaged)
    by_alias = {alias: number for number, alias in pair.alias.items()}
    values = [getattr(metric, str(metric.WhichOneof("value"))) for metric in read.metrics]
    assert (found.seq, found.sent_ms) == (read.seq, read.timestamp)
    assert found.points.tolist() == [by_alias[metric.alias] for metric in read.metrics]
    assert found.source_ns.tolist() == [metric.timestamp * 1_000_000 for metric in read.metrics]
    assert [repr(float(value)) for value in values] == [repr(value) for value in found.values.tolist()]
