"""Documents of a chunk, read together, are what they are one by one: very many, and those that lean on others."""

from __future__ import annotations

import json
import random

import pytest

from protocols.errors import DeviceError
from protocols.mqtt import bulk
from protocols.mqtt.bulk import add_messages
from protocols.mqtt.columns import Columns
from protocols.mqtt.documents import Clock, Topic
from protocols.mqtt.frames import RETAINED, Arrived, Messages
from tests.unit.protocols.mqtt.mqtt_recording import json_point
from tests.unit.protocols.mqtt.test_mqtt_shapes import MESSAGES, PLAIN, POINTERS, changed, rows

Row = tuple[object, ...]


class Side:
    """Topics with the same points, read fast or slow; a chunk goes in, what became of each topic comes out."""

    def __init__(self, names: str, *, is_fast: bool, clock: str | None = "/ts", unit: str = "ms",
                 pointers: dict[str, str] = POINTERS) -> None:
        self.columns = Columns()
        self.topics = {}
        for at, name in enumerate(names):
            points = [json_point(number + 100 * at, f"{name}#{pointer}", kind, device=at)
                      for number, (pointer, kind) in enumerate(pointers.items())]
            topic = self.topics[name.encode()] = Topic(name, points, Clock.of(clock, unit))
            topic.is_fast = is_fast  # type: ignore[misc]  # of this one only
        self.left: list[Arrived] = []
        self.refused: list[tuple[bytes, str]] = []

    def teach(self, *documents: object) -> Side:
        for topic, document in zip(self.topics.values(), documents, strict=True):
            for _ in range(3):
                topic.add(json.dumps(document).encode(), 5, is_retained=False, columns=Columns())
            assert topic.shape is not None
        return self

    def _otherwise(self, name: bytes, payload: bytes | None, marks: int) -> tuple[int, ...]:
        self.left.append((name, payload, marks))
        topic = self.topics.get(name)
        if topic is None or payload is None:
            return ()
        try:
            return topic.add(payload, 7, is_retained=marks != 0, columns=self.columns).devices
        except DeviceError as error:
            self.refused.append((name, error.problems[0].code))
            return topic.devices

    def hear(self, messages: Messages) -> tuple[set[int], list[Row]]:
        """Return the devices that answered and the samples, those of a topic in the order they came."""
        devices = add_messages(messages, self.topics, 7, self.columns, self._otherwise)
        batch = self.columns.take()
        found = [] if batch is None else rows(batch)
        return devices, sorted(found, key=lambda row: int(str(row[0])) // 100)


def chunk(topics: str, *payloads: bytes) -> Messages:
    return Messages([name.encode() for name in topics], list(payloads))


def test_many_chunks_are_the_same_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    r = random.Random(11)
    other = {"a": 1.0, "b": {"c": 1, "on": True}, "n": 1, "deep": {"er": {"x": 1}}, "neg": 1, "ts": 1}
    fast = Side("abz", is_fast=True).teach(PLAIN, PLAIN, other)
    slow = Side("abz", is_fast=False)
    together = []
    read = bulk._is_together
    monkeypatch.setattr(bulk, "_is_together", lambda *args: together.append(read(*args)) or together[-1])
    at_once = left = 0
    while left < MESSAGES // 3:
        strange = r.choice((0.0, 0.0, 0.02, 0.3))
        messages = Messages.of(
            (r.choice((b"a", b"a", b"b", b"z")), changed(r) if r.random() < strange else _plain(r),
             RETAINED if r.random() < strange / 10 else 0) for _ in range(r.choice((1, 5, 40, 200))))
        left += len(messages)
        before = len(fast.left)
        assert fast.hear(messages) == slow.hear(messages)
        assert sorted(fast.refused) == sorted(slow.refused)
        at_once += len(fast.left) == before
        slow.refused.clear()
        fast.refused.clear()
    assert at_once > 5 and True in together and False in together


def _plain(r: random.Random) -> bytes:
    return json.dumps({**PLAIN, "ts": r.randrange(1, 2 * 10**12), "a": r.uniform(-1e9, 1e9), "neg": r.randrange(-9, 9),
                       "n": r.randrange(2**53)}).encode()


WHOLE = b'{"a":1,"v":[2,3]}'
LEAN = {
    "halves": [b'{"a":1,', b'"v":[2,3]}'],
    "halves, and one more": [b'{"a":1', b',"v":[2,3]}' + WHOLE],
    "the second cut in two": [WHOLE + b'{"a":1,', b'"v":[2,3]}'],
    "a value cut in two": [b'{"a":1,"v":[2', b'3]}'],
    "spaces cut in two": [b'{"a":1 ', b' ,"v":[2,3]}'],
    "two in one, and none": [WHOLE + b"\n" + WHOLE, b""],
    "two in one, and a space": [WHOLE + b" " + WHOLE, b" "],
    "one begins what the next ends": [b'{"a":1,"v":[2,3]},{"a":', b'1,"v":[2,3]}'],
    "begins and ends like one": [b'{"a":1,"v":[{}', b'{}]}'],
    "line feeds": [b'{\n"a":1,\n"v":[2,3]\n}', WHOLE + b"\n"],
    "twice in one, missing in another": [b'{"a":1,"a":1,"v":[2,3]}', b'{"v":[2,3]}'],
    "twice in one": [b'{"a":1,"a":2,"v":[2,3]}', WHOLE],
    "a mark more, a mark less": [b'{"a":1,"v":[2,3],"x":1}', b"{}"],
    "a line feed in a text": [b'{"a":1,"v', b'":[2,3]}'],
    "bare brackets": [b"{", b"}"],
    "a byte order mark": [b"\xef\xbb\xbf" + WHOLE, WHOLE]}


NESTED = b'{"o":{"x":1},"a":1}'
LEAN_NESTED = {
    "an object inside begins the next": [b'{"o":', b'{"x":1},"a":1}', NESTED + b"\n" + NESTED],
    "an object inside ends the one before": [b'{"o":{"x":1}', b',"a":1}', NESTED + b"\n" + NESTED]}


@pytest.mark.parametrize(
    ("whole", "strange"),
    [*((WHOLE, each) for each in LEAN.values()), *((NESTED, each) for each in LEAN_NESTED.values())],
    ids=[name.replace(" ", "-") for name in (*LEAN, *LEAN_NESTED)])
def test_no_document_leans_on_its_neighbour(whole: bytes, strange: list[bytes]) -> None:
    fast = Side("a", is_fast=True, clock=None, pointers={"/a": "float64"}).teach(json.loads(whole))
    slow = Side("a", is_fast=False, clock=None, pointers={"/a": "float64"})
    for before in (0, 10, 20):
        payloads = [whole] * before + strange + [whole] * (20 - before)
        messages = chunk("a" * len(payloads), *payloads)
        assert fast.hear(messages) == slow.hear(messages)
    assert sorted(fast.refused) == sorted(slow.refused)


@pytest.mark.parametrize(("unit", "stamp"), [
    ("ms", 2**63), ("ms", -1), ("ms", 0), ("s", 10**400), ("ms", 1.5), ("ns", 2**62 + 1), ("us", 9223372036854776)],
    ids=["far", "negative", "zero", "absurd", "fraction", "exact", "beyond"])
def test_times(unit: str, stamp: float) -> None:
    fast = Side("a", is_fast=True, unit=unit, pointers={"/a": "float64"}).teach({"a": 1, "ts": 5})
    slow = Side("a", is_fast=False, unit=unit, pointers={"/a": "float64"})
    usual = [b'{"a":1,"ts":9007199254740993}', b'{"a":2,"ts":8.25}', b'{"a":2,"ts":8}']
    messages = chunk("a" * 31, *usual[::2] * 5, *usual[:1] * 5, *usual * 5, json.dumps({"a": 1, "ts": stamp}).encode())
    integers = chunk("a" * 21, *usual[-1:] * 20, json.dumps({"a": 1, "ts": stamp}).encode())
    for some in (messages.part(0, 20), integers, messages):
        assert fast.hear(some) == slow.hear(some)
    assert fast.refused == slow.refused


def test_what_is_alike_is_read_together_and_one_stranger_leaves_the_rest_fast() -> None:
    fast = Side("ab", is_fast=True).teach(PLAIN, PLAIN)
    body = json.dumps(PLAIN).encode()
    devices, found = fast.hear(chunk("ab" * 20, *[body] * 40))
    assert (devices, len(found), fast.left) == ({0, 1}, 40 * len(POINTERS), [])
    devices, found = fast.hear(chunk("ab" * 20, *[body] * 39, b"no"))
    assert (devices, len(found), fast.left) == ({0, 1}, 39 * len(POINTERS), [(b"b", b"no", 0)])
    too_large = Messages([b"a"] * 40, [body] * 39 + [None])
    devices, found = fast.hear(too_large)
    assert (devices, len(found), fast.left[-1]) == ({0}, 39 * len(POINTERS), (b"a", None, 0))
