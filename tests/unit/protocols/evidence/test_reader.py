"""The fast way to read an object agrees with the slow one on every byte string, good, bent or hostile."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols.errors import Problem, VerificationError
from protocols.evidence import entry, jcs, register, roster
from protocols.evidence.encoding import is_base64, to_base64
from protocols.evidence.reader import Reader, TypedReader
from protocols.evidence.shape import (
    Base64,
    Boolean,
    Hex,
    Integer,
    ListOf,
    Nullable,
    Object,
    OneOf,
    Shape,
    Text,
    problems,
)
from verifier.conformance.world import World, device_row, point_row, small

BYTES_MAX = 65_535
SHAPES: dict[str, Object] = {
    **{f"entry {kind}": shape for kind, shape in entry.SHAPES.items()},
    **{f"register {kind}": shape for kind, shape in register.SHAPES.items()},
    "device row": roster.DEVICE_ROW, "point row": roster.POINT_ROW, "opening": roster.OPENING,
}
READERS = {name: Reader(shape) for name, shape in SHAPES.items()}

ODD_TEXT = st.text(st.sampled_from('a0"\\/\x00\n\x7fé符\U0001f600 =}'), max_size=6)


def values(shape: Shape) -> st.SearchStrategy[Any]:
    """Values of a shape: mostly of it, at its limits and a little beyond."""
    match shape:
        case Integer(low, high):
            return st.integers(low, high) | st.sampled_from([low - 1, low, -1, 0, 9, 10, high, high + 1, 2**53, 10**15])
        case Boolean():
            return st.booleans()
        case Text(most, None):
            return st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=min(most, 12)) | ODD_TEXT
        case Text(_, pattern):
            return st.from_regex(re.compile(pattern or ""), fullmatch=True) | ODD_TEXT
        case Hex(length):
            return st.binary(min_size=length, max_size=length).map(bytes.hex) | st.just("0" * length)
        case Base64(length, most):
            size = {"min_size": length, "max_size": length} if length is not None else {"max_size": min(most, 200)}
            return st.binary(**size).map(to_base64) | st.sampled_from(["", "A", "AA==", "AB==", "AAA=", "AAB=", "===="])
        case OneOf(allowed):
            return st.sampled_from([*allowed, ""])
        case Nullable(inner):
            return st.none() | values(inner)
        case ListOf(inner, most):
            return st.lists(values(inner), max_size=min(most + 1, 4))
        case Object(fields):
            return st.fixed_dictionaries({name: values(inner) for name, inner in fields.items()})
    raise AssertionError(shape)


def bent(data: bytes) -> st.SearchStrategy[bytes]:
    """What a hostile hand makes of the bytes: one stretch replaced, left out or doubled."""
    stretch = st.tuples(st.integers(0, len(data)), st.integers(0, 12)).map(lambda t: (t[0], min(len(data), sum(t))))
    new = st.sampled_from([b"", b" ", b"0", b"-0", b"1.0", b"1e2", b'"', b",", b"null", b"\xff", b"\\u0061", b"A",
                           b"=", b"\n", b'"x":1,', b"9007199254740993", b"{}", b"[]", b"true"]) | st.binary(max_size=3)
    replaced = st.builds(lambda at, text: data[: at[0]] + text + data[at[1] :], stretch, new)
    doubled = stretch.map(lambda at: data[: at[1]] + data[at[0] :])
    return st.just(data) | replaced | doubled


def outcome(read: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    try:
        value = read(*args, **kwargs)
    except VerificationError as error:
        return "refused", error.problems
    return "taken", value


@st.composite
def hostile(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(sorted(SHAPES)))
    value = draw(values(SHAPES[name]))
    if draw(st.booleans()) and isinstance(value, dict) and value:
        value.pop(draw(st.sampled_from(sorted(value))))
    try:
        data = jcs.encode(value)
    except ValueError:  # an integer beyond what JCS writes
        data = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return name, draw(bent(data))


@given(hostile())
def test_fast_and_slow_say_the_same(case: tuple[str, bytes]) -> None:
    name, data = case
    reader = READERS[name]
    fast = outcome(reader.decode, data, where="w", bytes_max=BYTES_MAX)
    assert fast == outcome(reader.decode_slowly, data, where="w", bytes_max=BYTES_MAX)
    if fast[0] == "taken":
        assert jcs.encode(fast[1]) == data


ENTRIES = TypedReader(entry.SHAPES, {"type": Text(64), "seq": Integer()}, bytes_max=BYTES_MAX)


@given(hostile())
@example(("entry key", b'{"type":"window"}'))
@example(("entry key", b'{"seq":0,"type":"window","type":"later"}'))
@example(("entry key", b'{"seq":0,"type":"later","zone":{"type":"window"}}'))
@example(("entry key", b'{"seq":0,"type":"window\\""}'))
def test_the_type_is_not_guessed(case: tuple[str, bytes]) -> None:
    _, data = case
    assert outcome(ENTRIES.decode, data, where="w") == outcome(ENTRIES.decode_slowly, data, where="w")


@cache
def honest_window() -> dict[str, Any]:
    """Numbers that differ from field to field."""
    window: dict[str, Any] = json.loads(small(World())[1].entries[3])
    return window | {"life": 3, "roster": 2}


@st.composite
def hostile_windows(draw: st.DrawFn) -> bytes:
    """An honest window with up to two fields drawn: one where all are is hardly ever taken, by either way."""
    value = honest_window() | {"seq": draw(st.sampled_from([7, 7, 8]))}
    for name in draw(st.lists(st.sampled_from(sorted(value)), max_size=2)):
        value[name] = draw(values(entry.WINDOW.fields[name]))
    names = ["changing", "connected", "producing", "sampled"]
    if draw(st.booleans()):
        value["columns"] = {name: draw(COLUMN_TEXTS) for name in draw(st.sampled_from([names, names, names[:3]]))}
    try:
        return draw(bent(jcs.encode(value)))
    except ValueError:
        return draw(bent(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()))


COLUMN_TEXTS = st.binary(max_size=400).map(to_base64) | st.text("AQgwEM048=+/-_ \"", max_size=9) | st.sampled_from(
    ["A" * 59_996, "A" * 60_000, "A" * 60_004, "A" * 59_999 + "=", "AA=A", "A=AABBBB", "QUJD\\", "符" * 4])


def slow_decode(data: bytes, *, seq: int) -> dict[str, Any]:
    value = SLOW.decode_slowly(data, where=entry.name(seq))
    if value["seq"] != seq:
        raise VerificationError(Problem.of(entry.name(seq), "entry.misplaced", seq=value["seq"]))
    return value


HEADER: dict[str, Shape] = {"type": Text(64), "gateway": Hex(16), "seq": Integer(), "life": Integer(-1)}
SLOW = TypedReader(entry.SHAPES, HEADER, bytes_max=BYTES_MAX)


@given(hostile_windows())
@settings(max_examples=120)
def test_windows_are_read_as_the_slow_way_reads_them(data: bytes) -> None:
    slow = outcome(slow_decode, data, seq=7)
    for cut_bytes in (0, BYTES_MAX):  # columns apart, and the entry whole
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(entry, "_CUT_BYTES", cut_bytes)
            assert outcome(entry.decode, data, seq=7) == slow


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("text", ["A", "AA", "AAA", "AAA*", "A===", "====", "AB==", "AAB=", "AA=A", "AA==AAAA", "=AAA",
                                  "AAAA\n", " AAA", "A" * 60_004, "AAAé", "AAAA\x00"])
def test_a_bent_column_is_refused_as_the_slow_way_refuses_it(at: int, text: str,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns of a window are looked at apart from the rest of it."""
    _, gateway = small(World())
    value = json.loads(gateway.entries[3])
    value["columns"][sorted(value["columns"])[at]] = text
    data = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    said, problems_ = outcome(entry.decode, data, seq=3)
    assert said == "refused" and (said, problems_) == outcome(slow_decode, data, seq=3)
    monkeypatch.setattr(entry, "_CUT_BYTES", 0)
    assert (said, problems_) == outcome(entry.decode, data, seq=3)


@given(st.binary(max_size=40).map(to_base64).map(str.encode).flatmap(bent))
def test_base64_is_what_encodes_to_itself_again(text: bytes) -> None:
    try:
        holds = base64.b64encode(base64.b64decode(text, validate=True)) == text
    except ValueError:
        holds = False
    assert is_base64(text) == holds


def test_every_short_base64() -> None:
    for length in range(9):
        for letters in itertools.product("AB8/=\n" if length < 7 else "A8=", repeat=length):
            text = "".join(letters).encode()
            try:
                holds = base64.b64encode(base64.b64decode(text, validate=True)) == text
            except ValueError:
                holds = False
            assert is_base64(text) == holds, text


def honest() -> Iterator[tuple[str, bytes]]:
    world, gateway = small(World())
    gateway.outage(gateway.now_s + 120)
    gateway.rotate("second key")
    gateway.window()
    world.round()
    for data in gateway.entries:
        yield "entry " + json.loads(data)["type"], data
    for data in world.entries:
        yield "register " + json.loads(data)["type"], data
    yield "device row", jcs.encode(device_row(0))
    yield "point row", jcs.encode(point_row(0, 0, gateway.id))


@pytest.mark.parametrize(("name", "data"), list(honest()), ids=lambda v: v if isinstance(v, str) else "")
def test_honest_bytes_go_the_fast_way(name: str, data: bytes) -> None:
    """Else the year's speed is lost and nobody notices."""
    assert READERS[name].matches(data)


@pytest.mark.parametrize("spare", range(1, 4))
@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 125, 767, 768, 1250, 12_500])
def test_columns_of_every_length_go_the_fast_way(size: int, spare: int) -> None:
    shape = entry.WINDOW.fields["columns"]
    assert isinstance(shape, Object)
    column = Reader(shape.fields["sampled"])
    text = to_base64(bytes(range(256)) * (size // 256) + bytes(size % 256))
    assert column.matches(f'"{text}"'.encode())
    assert not column.matches(f'"{text[:-spare]}"'.encode()) or not text
    assert not column.matches(f'"{text}{"A" * spare}"'.encode())


SMALL = [
    Integer(), Integer(-1), Integer(1), Integer(2), Integer(0, 0), Integer(0, 8), Integer(0, 9), Integer(1, 10),
    Integer(-10, 11), Integer(-9, -1), Integer(-5, 100), Integer(5, 3600), Boolean(), Text(2), Text(2, "[a-b]?"),
    Text(3, "[A0]{1,2}|a"), Text(3, "."), Text(3, '[^a]*'), Text(3, "(?:a|A[0-1])*"), Hex(1), Hex(2),
    Base64(0), Base64(1), Base64(2), Base64(3), Base64(most=1), Base64(most=2), Base64(most=3), Base64(most=6),
    OneOf(("a", "A0")), OneOf(('"', "a")), Nullable(Integer(0, 9)), ListOf(Integer(0, 1), 0), ListOf(Integer(0, 1), 1),
    ListOf(Integer(0, 1), 3), Object({}), Object({"a": Integer(0, 1)}), Object({'"': Integer(0, 1)}),
]


@pytest.mark.parametrize("shape", SMALL, ids=repr)
def test_what_matches_is_canonical_and_of_the_shape(shape: Shape) -> None:
    """Every short string over the letters that matter."""
    reader = Reader(shape)
    for length in range(1, 6):
        for letters in itertools.product('01-"aAQ=', repeat=length):
            data = "".join(letters).encode()
            for whole in (data, b'"' + data + b'"', b"[" + data.replace(b"=", b",") + b"]",
                          b'{"a":' + data + b"}") if length < 5 else (data,):
                if reader.matches(whole):
                    value = jcs.decode(whole, where="w", bytes_max=99)
                    assert not problems(shape, value, where="w"), whole


@pytest.mark.parametrize("high", [1, 9, 12, 100, 3600, 65_535, 299_999])
def test_an_integer_up_to_a_small_limit_goes_the_fast_way(high: int) -> None:
    """An hour, 3600 s, is a usual length of a window: all such windows went the slow way once."""
    reader = Reader(Integer(1, high))
    near = {*range(4000), *range(high - 2, high + 3), *range(9 * high, 11 * high, high), 10 ** len(str(high))}
    for value in near:
        assert reader.matches(str(value).encode()) is (1 <= value <= high), value
    assert not any(reader.matches(text) for text in (b"01", b"+1", b"-1", b"1.0", b"1e0", b" 1"))


def test_a_longer_list_goes_the_slow_way_and_holds() -> None:
    reader = Reader(ListOf(Integer(), 10_000))
    for length in (0, 1, 64, 65, 10_000):
        data = jcs.encode(list(range(length)))
        assert reader.matches(data) is (length <= 64)
        assert reader.decode(data, where="w", bytes_max=99_999) == list(range(length))


def test_a_run_of_letters_takes_no_more_than_linear_time() -> None:
    """60 000 letters that fail at their end: tried once, not in every way to cut them."""
    shape = entry.WINDOW.fields["columns"]
    columns = Reader(shape)
    text = b'"' + b"A" * 59_396
    whole = b'{"changing":' + text + b'","connected":' + text + b'","producing":' + text + b'","sampled":' + text
    for end in (b"", b"=", b'="', b'=="}', b"!"):
        assert not columns.matches(whole + end)
