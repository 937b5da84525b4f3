"""What is kept small for a year of windows says the same as the plain form of it."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import VerificationError
from protocols.evidence import column
from protocols.evidence.encoding import to_base64
from protocols.evidence.policy import Policy
from verifier.proof.bracket import Brackets
from verifier.proof.findings import Findings
from verifier.proof.recount import Recount, Unpacker, mask, slots
from verifier.proof.rows import Roster


@given(st.lists(st.integers(-3, 9), min_size=1, max_size=12))
def test_the_median_delay_of_counts_is_the_median_of_the_delays(delays_s: list[int]) -> None:
    brackets = Brackets(cast(Policy, None), (), {}, Findings())
    assert brackets.delay_median_s is None
    brackets.delays_s = Counter(delays_s)
    assert brackets.delay_median_s == round(median(delays_s))


@given(st.sets(st.integers(0, 300)))
def test_slots_are_the_bits_of_a_mask(wanted: set[int]) -> None:
    assert list(slots(mask(wanted))) == sorted(wanted)
    assert mask(wanted) == sum(1 << slot for slot in wanted)


@given(st.binary(max_size=6), st.integers(0, 50))
def test_a_column_whose_base64_was_proven_is_what_the_plain_way_reads(data: bytes, slots: int) -> None:
    text, plain = to_base64(data), None
    with suppress(VerificationError):
        plain = column.unpack(text, slots, where="", name="")
    assert column.bits_of(text, slots) == plain


@dataclass(frozen=True)
class Row:
    slot: int
    alive: bool
    device: int = 0


@st.composite
def plants(draw: st.DrawFn) -> tuple[Roster, list[dict[str, Any]]]:
    """A roster, and windows that mostly hold; neighbours often have equal columns."""
    devices = [Row(slot, draw(st.booleans())) for slot in range(draw(st.integers(1, 20)))]
    points = [Row(slot, draw(st.integers(0, 9)) > 0, draw(st.integers(0, len(devices) - 1)))
              for slot in range(draw(st.integers(0, 40)))]
    few = st.lists(st.tuples(*[st.integers(0, 2**len(devices) - 1)] + [st.integers(0, 2**len(points) - 1)] * 3),
                   min_size=1, max_size=3)
    pool = draw(few)
    windows = []
    for number in range(draw(st.integers(1, 8))):
        connected, sampled, producing, changing = draw(st.sampled_from(pool))
        if draw(st.booleans()):
            connected, sampled, producing = 2**len(devices) - 1, sampled | producing | changing, producing | changing
        counted = draw(st.sampled_from([producing.bit_count(), 50]))
        windows.append({
            "seq": number, "columns": {
                "connected": column.pack(connected, len(devices)), "sampled": column.pack(sampled, len(points)),
                "producing": column.pack(producing, len(points)), "changing": column.pack(changing, len(points))},
            "samples": {"received": counted + draw(st.sampled_from([0, 0, 1])), "counted": counted,
                        "discarded": {"late": 0}}})
    return Roster(3, cast(Any, tuple(devices)), cast(Any, tuple(points))), windows


def plain(roster: Roster, window: dict[str, Any]) -> set[str]:
    """Every fault of one window, bit by bit."""
    bits = {name: column.unpack(text, len(roster.devices if name == "connected" else roster.points), where="", name="")
            for name, text in window["columns"].items()}
    found = set()
    if any(bits["connected"] >> row.slot & 1 and not row.alive for row in roster.devices) or any(
            bits["sampled"] >> row.slot & 1 and not row.alive for row in roster.points):
        found.add("column.tombstone")
    for row in roster.points:
        if bits["changing"] >> row.slot & 1 > bits["producing"] >> row.slot & 1 or (
                bits["producing"] >> row.slot & 1 > bits["sampled"] >> row.slot & 1):
            found.add("column.nesting")
        if bits["producing"] >> row.slot & 1 and not bits["connected"] >> row.device & 1:
            found.add("column.unconnected")
    samples = window["samples"]
    if samples["received"] != samples["counted"]:
        found.add("samples.conservation")
    elif bits["sampled"].bit_count() > samples["received"] or bits["producing"].bit_count() > samples["counted"]:
        found.add("samples.columns")
    return found


@given(plants())
def test_what_is_carried_from_window_to_window_changes_no_finding(case: tuple[Roster, list[dict[str, Any]]]) -> None:
    roster, windows = case
    found = Findings()
    recount, unpacker = Recount(roster, found), Unpacker()
    for window in windows:
        expected = plain(roster, window)
        assert recount.holds(window) is (not expected)
        assert {f.code for f in found.sorted() if f.seq == window["seq"]} == expected
        assert unpacker.columns(window, len(roster.devices), len(roster.points)) == Unpacker().columns(
            window, len(roster.devices), len(roster.points))
