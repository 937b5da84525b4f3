"""JSON documents: every value, every way to be wrong, and limits that hold before anything is parsed."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DeviceError
from protocols.mqtt import documents
from protocols.mqtt.columns import Columns
from protocols.mqtt.documents import DEPTH_MAX, MAX_PAYLOAD_BYTES, Clock, DocumentTally, Topic
from protocols.mqtt.target import JSON_TYPES
from protocols.samples import BAD, GOOD, NOT_LIVE, fingerprint
from tests.unit.protocols.mqtt.mqtt_recording import json_point


def read(payload: bytes, pointer: str, type_: str) -> tuple[float, int, str | None] | str:
    """Value, quality and text at a pointer, or what became of it."""
    topic, columns = Topic("t", [json_point(4, f"t#{pointer}", type_)]), Columns()
    try:
        tally = topic.add(payload, 9, is_retained=False, columns=columns)
    except DeviceError as error:
        assert columns.take() is None
        return error.problems[0].code
    batch = columns.take()
    if batch is None:
        return "undecodable" if tally.undecodable else "absent"
    assert (batch.point_index.tolist(), batch.received_ns.tolist(), batch.source_ns.tolist()) == ([4], [9], [0])
    return float(batch.value[0]), int(batch.quality[0]), batch.texts[0][1] if batch.texts else None


BIG = 2**63 - 1


@pytest.mark.parametrize(("text", "type_", "expected"), [
    ("true", "bool", 1.0), ("false", "bool", 0.0), ("1", "bool", 1.0), ("0", "bool", 0.0), ("2", "bool", None),
    ('"true"', "bool", None), ("1.0", "bool", 1.0),
    ("-128", "int8", -128.0), ("-129", "int8", None), ("128", "int8", None), ("255", "uint8", 255.0),
    ("-1", "uint16", None), ("65535", "uint16", 65535.0), ("3.0", "int16", 3.0), ("3.5", "int16", None),
    ("1e3", "uint32", 1000.0), ("true", "int16", None), ('"5"', "int16", None),
    ("9007199254740992", "int64", 2.0**53), ("9007199254740993", "int64", fingerprint(b"9007199254740993")),
    (str(BIG), "int64", fingerprint(str(BIG).encode())), (str(BIG + 1), "int64", None),
    (str(2**64 - 1), "uint64", fingerprint(str(2**64 - 1).encode())), ("1e19", "uint64", fingerprint(b"1" + b"0" * 19)),
    ("36.6", "float64", 36.6), ("7", "float32", 7.0), ("false", "float64", None), ('"36.6"', "float64", None),
    ("1" + "0" * 400, "float64", None),
    ('"on"', "string", fingerprint(b"on")), ('"\\u70ed"', "string", fingerprint("热".encode())), ("5", "string", None),
    ('"\\ud800"', "string", fingerprint(b"\xed\xa0\x80")),
    ('"1970-01-01T00:00:01Z"', "datetime", 1000.0), ('"1970-01-01T08:00:01+08:00"', "datetime", 1000.0),
    ('"1970-01-01T00:00:01"', "datetime", 1000.0), ('"yesterday"', "datetime", None), ("5", "datetime", None),
    ('"0001-01-01T00:00:00+14:00"', "datetime", -62135647200000.0),
    ("{}", "float64", None), ("[1]", "float64", None), ("{}", "string", None), ("[]", "bool", None),
])
def test_values(text: str, type_: str, expected: float | None) -> None:
    got = read(f'{{"v": {text}}}'.encode(), "/v", type_)
    if expected is None:
        assert got == "undecodable"
    else:
        assert isinstance(got, tuple) and got[:2] == (expected, GOOD)


@pytest.mark.parametrize("text", ["null", "NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("type_", JSON_TYPES)
def test_what_is_no_value_is_a_bad_one(text: str, type_: str) -> None:
    got = read(f'{{"v": {text}}}'.encode(), "/v", type_)
    assert isinstance(got, tuple) and math.isnan(got[0]) and got[1] == BAD


@pytest.mark.parametrize(("pointer", "expected"), [
    ("/a/0/b", 1.0), ("/a/1", 2.0), ("/a/2", None), ("/a/-", None), ("/a/01", None), ("/a/-1", None), ("/a/x", None),
    ("/a/99999999999999999999", None), ("/a/²", None), ("/", 3.0), ("/m~1n", 4.0), ("/~0", 5.0), ("/0", 6.0),
    ("/none", None), ("/0/x", None),
])
def test_pointers(pointer: str, expected: float | None) -> None:
    payload = json.dumps({"a": [{"b": 1}, 2], "": 3, "m/n": 4, "~": 5, "0": 6}).encode()
    got = read(payload, pointer, "float64")
    assert got == ("absent" if expected is None else (expected, GOOD, None))


def test_the_whole_payload() -> None:
    assert read(b" 23.5 ", "", "float64") == (23.5, GOOD, None)
    assert read(b"\xef\xbb\xbf23.5", "", "float64") == (23.5, GOOD, None)  # a byte order mark
    assert read(b"RUNNING", "", "string") == (fingerprint(b"RUNNING"), GOOD, "RUNNING")
    assert read(b"\xff\xfe", "", "string") == "undecodable"
    assert read(b"RUNNING", "", "float64") == "mqtt.not_json"


def test_a_raw_text_does_not_excuse_its_neighbours_from_json() -> None:
    topic = Topic("t", [json_point(0, "t#", "string"), json_point(1, "t#/v")])
    columns = Columns()
    with pytest.raises(DeviceError, match=r"mqtt\.not_json"):
        topic.add(b"RUNNING", 0, is_retained=False, columns=columns)
    assert columns.take() is None
    assert topic.add(b'{"v": 1}', 0, is_retained=False, columns=columns) == DocumentTally(2, 0, (0, 1))


@pytest.mark.parametrize(("payload", "code"), [
    (b"", "mqtt.not_json"), (b"{", "mqtt.not_json"), (b"\xff{}", "mqtt.not_json"), (b'{"v": 1} x', "mqtt.not_json"),
    (b"{'v': 1}", "mqtt.not_json"), (b'{"v": ' + b"9" * 5000 + b"}", "mqtt.not_json"),
    (b'{"v": 1, "v": 2}', "mqtt.duplicate_key"), (b'{"v": 1, "w": [{"x": 1, "y": 2, "x": 1}]}', "mqtt.duplicate_key"),
    (b"[" * 1000 + b"]" * 1000, "mqtt.too_deep"), (b"[" * 200_000, "mqtt.too_deep"),
    (b'{"v": "' + b" " * MAX_PAYLOAD_BYTES + b'"}', "mqtt.payload_too_large"),
])
def test_hostile_payloads(payload: bytes, code: str) -> None:
    assert read(payload, "/v", "float64") == code


def test_depth_is_counted_outside_of_texts_only() -> None:
    deepest = b'{"v": 1, "d": ' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}"
    assert read(deepest, "/v", "float64") == (1.0, GOOD, None)
    assert read(deepest.replace(b"[", b"[[", 1).replace(b"]", b"]]", 1), "/v", "float64") == "mqtt.too_deep"
    brackets = json.dumps({"v": 1, 'a"\\': "[{" * 500 + '"\\' + "[" * 500, "flat": [[]] * 500}).encode()
    assert read(brackets, "/v", "float64") == (1.0, GOOD, None)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=6), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=120))
def test_depth_agrees_with_a_plain_walk(value: object) -> None:
    def depth(node: object) -> int:
        if isinstance(node, dict | list):
            return 1 + max((depth(child) for child in (node.values() if isinstance(node, dict) else node)), default=0)
        return 0

    deep: object = value
    for _ in range(DEPTH_MAX - 3):
        deep = [deep, {"": '"[\\'}] if depth(value) % 2 else {"k": deep}
    assert documents.is_too_deep(json.dumps(deep).encode()) == (depth(deep) > DEPTH_MAX)


def test_the_largest_payload_takes_no_longer_than_its_parsing() -> None:
    """The event loop waits for it. What is done besides json.loads is a fraction; ten times would be another order."""
    worst = b"[" + b"[]," * (MAX_PAYLOAD_BYTES // 3 - 2) + b"[]]"
    assert read(worst, "/v", "float64") == "absent"
    gc.disable()  # its time grows with what other tests have left
    try:
        taken, parsing = (min(_cpu_s(work) for _ in range(3)) for work in (
            lambda: read(worst, "/v", "float64"), lambda: json.loads(worst)))
    finally:
        gc.enable()
    assert taken < 10 * parsing


def _cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def test_retained_values_are_not_live() -> None:
    topic, columns = Topic("t", [json_point(0, "t#/a"), json_point(1, "t#/b")]), Columns()
    topic.add(b'{"a": 1, "b": null}', 0, is_retained=True, columns=columns)
    batch = columns.take()
    assert batch is not None and batch.quality.tolist() == [GOOD | NOT_LIVE, BAD | NOT_LIVE]


def test_devices_that_share_a_topic_are_told_apart() -> None:
    topic = Topic("t", [json_point(0, "t#/0/v", device=7), json_point(1, "t#/1/v", device=8),
                        json_point(2, "t#/1/s", "string", device=8)])
    columns = Columns()
    assert topic.add(b'[{"v": 1}]', 0, is_retained=False, columns=columns) == DocumentTally(1, 0, (7,))
    assert topic.add(b'[{}, {"v": "x", "s": "x"}]', 0, is_retained=False, columns=columns) == DocumentTally(1, 1, (8,))


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode), st.sampled_from(JSON_TYPES),
       st.sampled_from(["", "/a", "/0"]))
def test_any_bytes_are_read_or_refused(payload: bytes, type_: str, pointer: str) -> None:
    read(payload, pointer, type_)


@given(st.dictionaries(st.sampled_from("ab0"), st.integers() | st.floats() | st.text() | st.booleans() | st.none()
                       | st.datetimes().map(str)), st.sampled_from(JSON_TYPES))
def test_any_values_are_delivered_or_counted(values: dict[str, object], type_: str) -> None:
    topic, columns = Topic("t", [json_point(i, f"t#/{key}", type_) for i, key in enumerate("ab0")]), Columns()
    tally = topic.add(json.dumps(values).encode(), 0, is_retained=False, columns=columns)
    batch = columns.take()
    assert tally.delivered == (0 if batch is None else batch.value.size)
    assert tally.delivered + tally.undecodable == len(values)


# Times in the payload


@pytest.mark.parametrize(("format_", "text", "time_ns"), [
    ("s", "1763700000", 1763700000 * 10**9), ("s", "1763700000.123456", 1763700000123456000),
    ("ms", "1763700000123", 1763700000123 * 10**6), ("us", "1763700000123456", 1763700000123456000),
    ("ns", "1763700000123456789", 1763700000123456789), ("iso", '"2025-11-21T04:40:00.123456Z"', 1763700000123456000),
    ("iso", '"2025-11-21T12:40:00+08:00"', 1763700000 * 10**9), ("iso", '"2025-11-21T04:40:00"', 1763700000 * 10**9)])
def test_the_time_of_a_message(format_: str, text: str, time_ns: int) -> None:
    topic = Topic("t", [json_point(0, "t#/x"), json_point(1, "t#/y")], Clock.of("/meta/ts", format_))
    columns = Columns()
    topic.add(f'{{"meta": {{"ts": {text}}}, "x": 1, "y": 2}}'.encode(), 9, is_retained=False, columns=columns)
    batch = columns.take()
    assert batch is not None and batch.source_ns.tolist() == [time_ns] * 2 and batch.received_ns.tolist() == [9, 9]


@pytest.mark.parametrize(("format_", "document"), [
    ("ms", "{}"), ("ms", '{"ts": "1763700000123"}'), ("ms", '{"ts": null}'), ("ms", '{"ts": true}'),
    ("ms", '{"ts": -1}'), ("ms", '{"ts": 0}'), ("ms", '{"ts": 1e300}'), ("ms", '{"ts": NaN}'), ("s", '{"ts": [1]}'),
    ("ns", '{"ts": 9223372036854775808}'), ("iso", '{"ts": 1763700000}'), ("iso", '{"ts": "yesterday"}'),
    ("iso", '{"ts": "0001-01-01T00:00:00+08:00"}'), ("iso", '{"ts": "9999-12-31T00:00:00Z"}')])
def test_a_message_without_its_time_is_not_counted(format_: str, document: str) -> None:
    topic = Topic("t", [json_point(0, "t#")], Clock.of("/ts", format_))
    columns = Columns()
    with pytest.raises(DeviceError, match=r"mqtt\.no_timestamp"):
        topic.add(document.encode(), 9, is_retained=False, columns=columns)
    assert len(columns) == 0
