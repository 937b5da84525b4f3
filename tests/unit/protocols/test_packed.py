"""Objects as columns are the same objects again, whatever their fields hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.packed import BLOCK, Packed, Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    name: str
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    at: Inner | Other
    text: str
    whole: int
    scale: float
    flag: bool | int | float | None
    labels: tuple[tuple[int, str], ...] = ()


TEXTS = st.text(max_size=12) | st.sampled_from(["", "p1", "\ud800", "温度"])
INNERS = st.builds(Inner, name=TEXTS, number=st.none() | st.integers())
OTHERS = st.builds(Other, path=st.tuples() | st.tuples(TEXTS))
OUTERS = st.builds(
    Outer, at=INNERS | OTHERS, text=TEXTS, whole=st.integers(-2**70, 2**70) | st.integers(0, 3),
    scale=st.floats(allow_nan=True), flag=st.sampled_from([True, False, 0, 1, 0.0, -0.0, 1.0, None]),
    labels=st.just(()) | st.just(((1, "on"),)))


def exactly(value: object) -> object:
    """Tell apart what == does not: True from 1, 0.0 from -0.0; and not NaN from NaN."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value.hex()
    if isinstance(value, tuple):
        return tuple(map(exactly, value))
    if hasattr(value, "__dataclass_fields__"):
        return type(value), tuple(exactly(getattr(value, name)) for name in value.__dataclass_fields__)
    return type(value), value


@given(st.lists(OUTERS, max_size=40))
def test_packed_objects_are_the_same_again(items: list[Outer]) -> None:
    packed = Packed(items)
    assert len(packed) == len(items)
    assert [exactly(item) for item in packed] == [exactly(item) for item in items]
    assert [exactly(packed[i]) for i in range(-len(items), 0)] == [exactly(item) for item in items]


@given(st.lists(INNERS, min_size=1, max_size=40), st.slices(40), st.slices(40))
def test_a_view_of_a_view_is_the_slice_of_a_slice(items: list[Inner], first: slice, second: slice) -> None:
    assert list(Packed(items)[first][second]) == items[first][second]
    assert Packed(items)[first] == items[first]
    for part in (first, slice(None, None, -1)):
        assert list(Packed(items)[part].column("name")) == [item.name for item in items[part]]


@given(st.lists(TEXTS, max_size=30))
def test_texts_are_the_same_again(texts: list[str]) -> None:
    packed = Texts(texts)
    assert list(packed) == [packed[i] for i in range(len(texts))] == texts
    assert packed[1:5] == texts[1:5]
    assert packed == texts == Texts(texts) and packed != [*texts, ""] and packed != Texts([*texts, ""])


@pytest.mark.parametrize("count", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_texts_of_several_blocks(count: int) -> None:
    texts = [f"点 {i}\ud800" * (i % 3) for i in range(count)]
    packed = Texts(iter(texts))
    assert list(packed) == texts == packed[:] and [packed[i] for i in range(-count, count)] == texts * 2
    assert packed == Texts(texts) != Texts([*texts[:-1], "x"]) and len(packed) == count
    assert packed != Texts(texts[:-1]) and Texts([]) == [] and not [*Texts([])]


def test_a_thousand_equal_fields_and_a_thousand_different_ones() -> None:
    items = [Inner(name=f"p{i % 300}", number=i * 2**(i % 40)) for i in range(3000)]
    assert list(Packed(items)) == items == list(Packed(items)[:1500]) + list(Packed(items)[1500:])


def test_beyond_the_end_is_an_error() -> None:
    packed = Packed([Inner(name="a")])
    for wrong in (1, -2):
        with pytest.raises(IndexError):
            packed[wrong]
        with pytest.raises(IndexError):
            Texts(["a"])[wrong]


def test_only_one_dataclass_is_packed() -> None:
    assert list(Packed[Inner]([])) == [] and Packed[Inner]([]) == ()
    with pytest.raises(TypeError):
        Packed([Inner(name="a"), Other()])
    with pytest.raises(TypeError):
        Packed([1, 2])
    assert Packed([Inner(name="a")]) != [Inner(name="b")] and Packed([Inner(name="a")]) != 5
