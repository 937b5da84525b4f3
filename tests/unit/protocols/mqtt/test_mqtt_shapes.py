"""Documents read in one call are what they are when they are read the slow way: very many, and the nasty ones."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable

import pytest

from protocols.errors import DeviceError
from protocols.mqtt.bulk import add_messages
from protocols.mqtt.columns import Columns
from protocols.mqtt.documents import MAX_PAYLOAD_BYTES, Clock, DocumentTally, Topic
from protocols.mqtt.frames import Messages
from protocols.samples import SampleBatch
from tests.unit.protocols.mqtt.mqtt_recording import json_point

POINTERS = {"/a": "float64", "/b/c": "int16", "/b/on": "bool", "/n": "uint64", "/deep/er/x": "float32", "/neg": "int64"}
PLAIN = {"ts": 1763700000123, "a": 1.5, "b": {"c": -7, "on": True, "text": "läuft"}, "n": 4, "list": [1, 2.5, "x"],
         "deep": {"er": {"x": 3}}, "none": None, "neg": -3, "flag": False}


def topic(*, is_fast: bool, pointers: dict[str, str] = POINTERS, clock: str | None = "/ts") -> Topic:
    made = Topic("t", [json_point(number, f"t#{pointer}", kind, device=number % 2)
                       for number, (pointer, kind) in enumerate(pointers.items())], Clock.of(clock, "ms"))
    made.is_fast = is_fast  # type: ignore[misc]  # of this one only
    return made


Heard = tuple[DocumentTally | str, list[tuple[object, ...]], tuple[tuple[int, str], ...]]


def heard(to: Topic, payload: bytes, *, is_retained: bool = False) -> Heard:
    columns = Columns()
    try:
        tally: DocumentTally | str = to.add(payload, 5, is_retained=is_retained, columns=columns)
    except DeviceError as error:
        return error.problems[0].code, [], ()
    batch = columns.take()
    return tally, [] if batch is None else rows(batch), () if batch is None else batch.texts


def rows(batch: SampleBatch) -> list[tuple[object, ...]]:
    return list(zip(batch.point_index.tolist(), batch.received_ns.tolist(), batch.source_ns.tolist(),
                    map(repr, (batch.value + 0.0).tolist()), batch.quality.tolist(), strict=True))


def taught(document: object = PLAIN, **more: object) -> Topic:
    learner = topic(is_fast=True, **more)  # type: ignore[arg-type]  # keywords of a test
    for _ in range(3):
        learner.add(json.dumps(document).encode(), 5, is_retained=False, columns=Columns())
    return learner


def test_the_third_document_is_read_in_one_call() -> None:
    fast = taught()
    assert fast.shape is not None and fast.hits == 1
    assert heard(fast, json.dumps(PLAIN, indent=2).encode()) == heard(topic(is_fast=False), json.dumps(PLAIN).encode())
    assert fast.hits == 2, "spaces make no other shape"
    assert heard(fast, json.dumps(PLAIN).encode(), is_retained=True) == heard(
        topic(is_fast=False), json.dumps(PLAIN).encode(), is_retained=True)


def test_equal_machines_share_a_shape() -> None:
    assert taught().shape is taught().shape is not taught({**PLAIN, "more": 1}).shape


@pytest.mark.parametrize("pointers", [
    {"/b/text": "string"}, {"/list/0": "float64"}, {"": "float64"}, {"/a": "datetime"}, {"/b": "float64"},
    {"/nowhere": "float64"}, {"/none": "float64"}, {"/flag": "int8"}],
    ids=["text", "array", "whole", "time", "object", "absent", "null", "switch"])
def test_what_is_left_to_the_slow_way(pointers: dict[str, str]) -> None:
    assert taught(pointers=pointers).shape is None


NASTY = [
    b'{"a": 1, "a": 2}', b'{"a": 1, "\\u0061": 2}', b'{"a": "1"}', b'{"a": null}', b'{"a": NaN}', b'{"a": Infinity}',
    b'{"a": 1e400}', b'{"a": -1e400}', b'{"a": 1e-400}', b'{"a": 01}', b'{"a": .5}', b'{"a": 5.}', b'{"a": +5}',
    b'{"a": 1}x', b'{"a": 1} ', b'\xef\xbb\xbf{"a": 1}', b'{"a": true}', b'{"a": 1, "b": 2}', b'{}', b'[]', b'1', b'',
    b'{"a": 123456789012345678901234567890}', b'{"a": 0.1000000000000000055511151231257827}',
    b'{"a": 9007199254740993}',
    b'{"a": -0}', b'{"a": -0.0}', b'{"a": 1E+2}', b'{"a":\t1\n}', b'{"a"\x00: 1}', b'{"a": 1,}', b'{"A": 1}',
    b'{"a": [1]}', b'{"a": {"b": 1}}', b"{'a': 1}", b'{"a\\u0000": 1}', b'{"\xff": 1}', b'{"a": 1, "x": 2, "x": 3}']


@pytest.mark.parametrize("kind", ["float64", "float32", "int8", "uint64", "int64", "bool"])
def test_nasty_documents(kind: str) -> None:
    """Each is taught as well, so that the nasty one is not only refused for being another."""
    for first in ({"a": 1}, {"a": True}, {"a": 1.5}, {"a": 1, "x": 2}):
        for payload in NASTY:
            fast = taught(first, pointers={"/a": kind}, clock=None)
            slow = topic(is_fast=False, pointers={"/a": kind}, clock=None)
            assert heard(fast, payload) == heard(slow, payload), payload


TEXTS = [b'"x"', b'"\\""', b'"\\u00e4"', '"ä"'.encode(), b'"\xff"', b'"\n"', b'"\\ud800"', b'"\\x"', b'"a:b"', b'"']


def test_texts_that_nobody_wants_are_held_to_the_same_rules() -> None:
    fast, slow = taught({"a": 1, "t": "x"}, pointers={"/a": "float64"}, clock=None), topic(
        is_fast=False, pointers={"/a": "float64"}, clock=None)
    for text in TEXTS:
        payload = b'{"a": 4, "t": ' + text + b"}"
        assert heard(fast, payload) == heard(slow, payload), text


def test_a_topic_that_changes_its_shape_all_the_time_learns_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: Counter[str] = Counter()
    monkeypatch.setattr("protocols.mqtt.shapes.learn", lambda document, wanted: learnt.update(["again"]))
    changing = topic(is_fast=True, pointers={"/a": "float64"}, clock=None)
    for number in range(1_000):
        changing.add(json.dumps({"a": 1, f"k{number}": 1}).encode(), 5, is_retained=False, columns=Columns())
    assert learnt["again"] == 9  # at 2, 4, 8 ... 512


VALUES: list[Callable[[random.Random], object]] = [
    lambda r: r.uniform(-1e6, 1e6), lambda r: r.randint(-40_000, 40_000), lambda r: r.randint(-2**70, 2**70),
    lambda r: r.choice([True, False, None, "x", "1", [], {}, [1], {"a": 1}, 2**53, -2**53, 2**53 + 1, 1e308, 5.0]),
    lambda r: 10 ** r.uniform(-320, 308)]


def changed(r: random.Random) -> bytes:
    """Return the document with most of its numbers changed, and now and then something else."""
    strange = r.random()
    if strange > 0.25:
        return COMPACT % (r.randrange(1, 2 * 10**12), r.uniform(-1e3, 1e3), r.randrange(-32768, 32768),
                          r.choice((b"true", b"false")), r.randrange(-10**9, 10**9))
    document = json.loads(json.dumps(PLAIN))
    if strange < 0.15:
        at = r.choice([document, document["b"], document["deep"]["er"]])
        at[r.choice([*at, "new"])] = r.choice(VALUES)(r)
    body = json.dumps(document, ensure_ascii=r.random() < 0.5).encode()
    if 0.15 < strange < 0.22:
        at = r.randrange(len(body))
        body = body[:at] + r.choice([b"", b'"', b"\\", b"0", b",", b":", b"\xff", b'"a":1,', b"e9"]) + body[at + 1:]
    elif strange > 0.22:
        body = body.replace(b'"a"', r.choice([b'"b"', b'"n"', b'"\\u0061"']), 1)
    return body


COMPACT = (b'{"ts":%d,"a":%f,"b":{"c":%d,"on":%b,"text":"l\\u00e4uft"},"n":4,"list":[1,2.5,"x"],"deep":{"er":{"x":3}},'
           b'"none":null,"neg":%d,"flag":false}')
MESSAGES = int(os.environ.get("TALLYSTICK_MESSAGES", "10000"))
"""How many documents are read both ways."""


def test_many_documents_are_the_same_both_ways() -> None:
    r = random.Random(7)
    fast, slow = taught(), topic(is_fast=False)
    fast_columns, slow_columns = Columns(), Columns()
    at_once = 0
    for number in range(MESSAGES):
        body = changed(r)
        outcomes: list[DocumentTally | str] = []
        for to, columns in ((fast, fast_columns), (slow, slow_columns)):
            try:
                outcomes.append(to.add(body, number, is_retained=False, columns=columns))
            except DeviceError as error:
                outcomes.append(error.problems[0].code)
        assert outcomes[0] == outcomes[1], body
        at_once += outcomes[0] is fast._whole
        if number % 1_000 == 999:
            ours, theirs = fast_columns.take(), slow_columns.take()
            assert ours is not None and theirs is not None and ours.texts == theirs.texts
            assert rows(ours) == rows(theirs)
    assert 0.6 * MESSAGES < at_once < 0.95 * MESSAGES


def test_a_document_beyond_the_limit_is_not_read_whatever_was_learnt() -> None:
    fast, columns, left = taught(), Columns(), list[bytes]()

    def otherwise(name: bytes, payload: bytes | None, marks: int) -> tuple[int, ...]:
        left.append(payload or b"")
        return ()

    body = json.dumps(PLAIN).encode()
    largest = body + b" " * (MAX_PAYLOAD_BYTES - len(body))
    messages = Messages([b"t", b"t"], [largest, largest + b" "])
    assert add_messages(messages, {b"t": fast}, 5, columns, otherwise) == {0, 1}
    assert (len(columns), left) == (len(POINTERS), [largest + b" "])
