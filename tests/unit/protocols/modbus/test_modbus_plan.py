from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import ConfigError
from protocols.modbus.plan import (
    MUTE_AFTER,
    MUTE_RETRY_S,
    RETRY_FIRST_S,
    PointsBySlot,
    ReadPlan,
    Request,
    describe,
    make_requests,
    split,
)
from protocols.modbus.target import ModbusEndpoint, ModbusPoint, parse_address


def endpoint(**more: object) -> ModbusEndpoint:
    settings_ = {"name": "line", "protocol": "modbus_tcp", "endpoint": "tcp://127.0.0.1:502"} | more
    return ModbusEndpoint(**settings_)  # type: ignore[arg-type] # by name


def points(*texts: str, device: int = 0) -> list[ModbusPoint]:
    """Points from "UNIT/TABLE/ADDRESS TYPE"; their slot is their place."""
    found = []
    for index, text in enumerate(texts):
        address, _, type_ = text.partition(" ")
        found.append(ModbusPoint(point_index=index, device_index=device, address=parse_address(address, type_)))
    return found


def spans(requests: list[Request]) -> list[tuple[str, int, int]]:
    return [(r.table, r.address, r.count) for r in requests]


def test_498_contiguous_fields_need_at_most_five_reads() -> None:
    requests = make_requests(points(*(f"1/holding/{i} uint16" for i in range(498))), endpoint())
    assert spans(requests) == [("holding", 0, 125), ("holding", 125, 125), ("holding", 250, 125), ("holding", 375, 123)]


def test_no_register_is_skipped_or_read_twice_at_a_border() -> None:
    """thingsboard-gateway#2052: the second block started one register late."""
    requests = make_requests(points(*(f"1/holding/{i} uint16" for i in range(40))), endpoint(max_registers=16))
    read = [a for r in requests for a in range(r.address, r.address + r.count)]
    assert read == list(range(40))


def test_gaps_up_to_the_limit_are_bridged() -> None:
    texts = ("1/holding/0 uint16", "1/holding/9 uint16", "1/holding/19 uint16")
    assert spans(make_requests(points(*texts), endpoint(max_gap=8))) == [("holding", 0, 10), ("holding", 19, 1)]
    assert spans(make_requests(points(*texts), endpoint(max_gap=9))) == [("holding", 0, 20)]
    assert spans(make_requests(points(*texts), endpoint(max_gap=0))) == [
        ("holding", 0, 1), ("holding", 9, 1), ("holding", 19, 1)]


def test_a_long_value_is_never_split_at_the_limit() -> None:
    requests = make_requests(points("1/holding/0 float64", "1/holding/4 float64", "1/holding/8 float64"),
                             endpoint(max_registers=10))
    assert spans(requests) == [("holding", 0, 8), ("holding", 8, 4)]


def test_a_value_that_no_read_can_hold_is_refused_with_all_others() -> None:
    with pytest.raises(ConfigError) as caught:
        make_requests(points("1/holding/0 float64", "1/holding/4:5 string", "1/holding/50 int32"),
                      endpoint(max_registers=3))
    assert [p.code for p in caught.value.problems] == ["modbus.value_too_long"] * 2


def test_units_on_a_serial_line() -> None:
    bad = points("0/holding/0 uint16", "248/coil/0", "247/coil/0", "1/coil/0")
    with pytest.raises(ConfigError) as caught:
        make_requests(bad, endpoint(protocol="modbus_rtu_over_tcp"))
    assert [p.code for p in caught.value.problems] == ["modbus.bad_rtu_unit"] * 2
    assert len(make_requests(bad, endpoint())) == 4


def test_bits_and_overlaps_share_a_read() -> None:
    requests = make_requests(points("1/holding/5.0", "1/holding/5.15", "1/holding/4 float32", "1/holding/5 uint16"),
                             endpoint())
    assert spans(requests) == [("holding", 4, 2)]
    assert {p.point_index for p in requests[0].points} == {0, 1, 2, 3}


def test_a_short_value_inside_a_long_one_does_not_shorten_the_read() -> None:
    held = points("1/holding/0 float64", "1/holding/1 uint16", "1/holding/12 uint16")
    assert spans(make_requests(held, endpoint(max_gap=8))) == [("holding", 0, 13)]
    assert spans(make_requests(held, endpoint(max_gap=7))) == [("holding", 0, 4), ("holding", 12, 1)]


def test_tables_units_and_devices_never_share_a_read() -> None:
    one = points("1/holding/0 uint16", "1/input/0 uint16", "2/holding/0 uint16", "1/coil/0", "1/discrete/0")
    other = points("1/holding/1 uint16", device=1)
    requests = make_requests(one + other, endpoint())
    assert len(requests) == 6
    assert [r.function for r in requests if r.unit == 1 and r.device_index == 0] == [1, 2, 3, 4]


def test_2000_coils_are_one_read() -> None:
    assert len(make_requests(points(*(f"1/coil/{i}" for i in range(2000))), endpoint())) == 1
    assert len(make_requests(points(*(f"1/coil/{i}" for i in range(2001))), endpoint())) == 2


def test_the_plan_is_printable() -> None:
    rows = describe(make_requests(points("3/input/7 float32"), endpoint()), endpoint())
    assert rows == [{"connection": "line", "endpoint": "tcp://127.0.0.1:502", "unit": "3", "function": "4",
                     "table": "input", "address": "7", "count": "2", "points": "1", "device_index": "0",
                     "poll_s": "1"}]


TYPES = ("uint16", "float32", "int64", "bool")


@st.composite
def plants(draw: st.DrawFn) -> tuple[list[ModbusPoint], ModbusEndpoint]:
    n = draw(st.integers(1, 60))
    found = []
    for index in range(n):
        table = draw(st.sampled_from(["holding", "input", "coil"]))
        type_ = "bool" if table == "coil" else draw(st.sampled_from(TYPES))
        text = f"{draw(st.integers(1, 2))}/{table}/{draw(st.integers(0, 300))}"
        found.append(ModbusPoint(point_index=index, device_index=draw(st.integers(0, 1)),
                                 address=parse_address(text, type_)))
    return found, endpoint(max_registers=draw(st.integers(4, 125)), max_bits=draw(st.integers(1, 2000)),
                           max_gap=draw(st.integers(0, 20)))


@given(plants())
def test_every_point_is_read_exactly_once_wholly_and_within_the_limits(
    plant: tuple[list[ModbusPoint], ModbusEndpoint]
) -> None:
    held, at = plant
    requests = make_requests(held, at)
    assert sorted(p.point_index for r in requests for p in r.points) == [p.point_index for p in held]
    for r in requests:
        assert 1 <= r.count <= (at.max_bits if r.table == "coil" else at.max_registers)
        for p in r.points:
            assert (p.address.unit, p.address.table, p.device_index) == (r.unit, r.table, r.device_index)
            assert r.address <= p.address.address
            assert p.address.end <= r.address + r.count
        covered: set[int] = set().union(*(range(p.address.address, p.address.end) for p in r.points))
        gap = 0
        for address in range(r.address, r.address + r.count):
            gap = 0 if address in covered else gap + 1
            assert gap <= at.max_gap


class Device:
    """A unit that refuses every read which touches an address it does not have."""

    def __init__(self, illegal: set[int]) -> None:
        self.illegal = illegal

    def answers(self, request: Request) -> bool:
        return not self.illegal.intersection(range(request.address, request.address + request.count))

    def poll(self, plan: ReadPlan, now_s: float) -> tuple[set[int], int]:
        """One cycle. Return the points that gave a value and how many reads it took."""
        got: set[int] = set()
        due = plan.due(now_s)
        for request in due:
            if self.answers(request):
                plan.answered(request)
                got |= {p.point_index for p in request.points}
            else:
                plan.refused(request, 2, now_s)
        return got, len(due)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 120), bad=st.integers(0, 12))
def test_bisecting_ends_at_exactly_the_illegal_points(seed: int, n: int, bad: int) -> None:
    rng = random.Random(seed)
    held = points(*(f"1/holding/{a} uint16" for a in rng.sample(range(300), n)))
    addresses = {p.point_index: p.address.address for p in held}
    illegal = set(rng.sample(range(300), bad))
    plan, device = ReadPlan(make_requests(held, endpoint())), Device(illegal)
    for cycle in range(140):
        device.poll(plan, cycle * 0.1)
    legal = {i for i, a in addresses.items() if a not in illegal}
    assert device.poll(plan, 20.0)[0] == legal
    assert {p.point_index for p in plan.given_up} == set(addresses) - legal or not legal
    # healed: a reloaded controller has every address, and after the retries one read per block is left again
    device.illegal = set()
    now_s = 20.0
    for _ in range(200):
        now_s += RETRY_FIRST_S
        device.poll(plan, now_s)
    assert device.poll(plan, now_s + 1)[0] == set(addresses)
    assert plan.given_up == ()
    assert len(plan.active) <= len(make_requests(held, endpoint()))


def test_without_gaps_bisecting_halves_and_keeps_the_good_half_going() -> None:
    plan = ReadPlan(make_requests(points(*(f"1/holding/{i} uint16" for i in range(100))), endpoint()))
    device = Device({99})
    got = [len(device.poll(plan, float(cycle))[0]) for cycle in range(9)]
    assert got == [0, 50, 75, 87, 93, 96, 98, 99, 99]


def test_a_refused_gap_is_cut_out_first() -> None:
    texts = ("1/holding/0 uint16", "1/holding/1 uint16", "1/holding/2 uint16", "1/holding/9 uint16")
    request = make_requests(points(*texts), endpoint())[0]
    halves = split(request)
    assert halves is not None
    assert spans(list(halves)) == [("holding", 0, 3), ("holding", 9, 1)]


def test_a_unit_that_refuses_everything_is_still_asked_once_a_cycle() -> None:
    plan = ReadPlan(make_requests(points(*(f"1/holding/{i} uint16" for i in range(8))), endpoint()))
    device = Device(set(range(8)))
    for cycle in range(10):
        device.poll(plan, float(cycle))
    assert len(plan.due(11.0)) == 1
    assert len(plan.given_up) == 8
    assert plan.answered(plan.due(12.0)[0])
    assert len(plan.given_up) == 7


def test_an_illegal_function_gives_up_the_whole_table_at_once() -> None:
    plan = ReadPlan(make_requests(points(*(f"1/input/{i} uint16" for i in range(8))), endpoint()))
    assert len(plan.refused(plan.active[0], 1, 0.0)) == 8
    assert plan.active == []


@pytest.mark.parametrize("exception", [4, 5, 6, 8, 0x0A, 0x0B, 0x55])
def test_other_exceptions_change_no_plan(exception: int) -> None:
    plan = ReadPlan(make_requests(points("1/holding/0 uint16", "1/holding/1 uint16"), endpoint()))
    before = plan.due(0.0)
    assert plan.refused(before[0], exception, 0.0) == ()
    assert plan.due(0.0) == before


def test_retries_grow_rarer_and_come_one_at_a_time() -> None:
    plan = ReadPlan(make_requests(points(*(f"1/holding/{i} uint16" for i in range(64))), endpoint()))
    device = Device({7})
    retries = []
    for minute in range(60 * 24):
        now_s = minute * 60.0
        active = len(plan.active)
        _, reads = device.poll(plan, now_s)
        assert reads <= active + 1
        if minute > 10 and reads > active:
            retries.append(minute)
    assert 10 < len(retries) < 80, "a day of a point that never works costs few requests"


def test_a_read_that_the_device_never_answers_is_found_and_costs_the_others_nothing() -> None:
    """Address 13 makes the device mute. In each poll the first read without an answer ends it."""
    plan = ReadPlan(make_requests(points(*(f"1/holding/{a} uint16" for a in range(40))), endpoint(max_registers=8)))
    replies, read, mute = 0, dict.fromkeys(range(40), 0), []
    for poll in range(60):
        for request in plan.due(float(poll)):
            if request.address <= 13 < request.address + request.count:
                mute += plan.unanswered(request, replies, float(poll))
                break
            replies += 1
            plan.answered(request)
            for p in request.points:
                read[p.address.address] += 1
    assert [p.address.address for p in mute] == [13]
    assert read.pop(13) == 0
    assert min(read.values()) >= 20, "also what comes behind it, and what shared a read with it"
    assert [p.address.address for p in plan.given_up] == [13]


def test_a_unit_that_answers_nothing_loses_no_read() -> None:
    plan = ReadPlan(make_requests(points(*(f"1/holding/{a} uint16" for a in (0, 100, 200))), endpoint()))
    for poll in range(100):
        assert plan.unanswered(plan.due(float(poll))[0], 7, float(poll)) == ()
    assert len(plan.active) == 3 and plan.given_up == ()


def test_an_answer_in_between_forgives_a_read() -> None:
    plan = ReadPlan(make_requests(points("1/holding/0 uint16", "1/holding/100 uint16"), endpoint()))
    for poll in range(100):
        first = plan.active[0]
        assert plan.unanswered(first, 2 * poll, float(poll)) == ()
        if poll % 3 == 0:
            for request in plan.active:
                plan.answered(request)
    assert len(plan.active) == 2


def test_a_mute_read_is_tried_again_and_comes_back() -> None:
    plan = ReadPlan(make_requests(points("1/holding/0 uint16", "1/holding/100 uint16"), endpoint()))
    mute = plan.active[0]
    for replies in range(MUTE_AFTER):
        given_up = plan.unanswered(mute, replies, 0.0)
    assert given_up == mute.points and mute not in plan.due(1.0)
    assert plan.due(MUTE_RETRY_S)[-1] is mute
    assert plan.unanswered(mute, 99, MUTE_RETRY_S) == ()
    assert mute not in plan.due(2 * MUTE_RETRY_S), "it waits twice as long now"
    assert plan.due(3 * MUTE_RETRY_S)[-1] is mute
    assert plan.answered(mute)
    assert plan.given_up == ()


def test_a_silent_unit_is_asked_for_one_point_after_the_other() -> None:
    plan = ReadPlan(make_requests(points(*(f"1/holding/{a} uint16" for a in range(3))), endpoint()))
    probes = [plan.probe(0.0) for _ in range(6)]
    assert [(p.address, p.count) for p in probes] == [(0, 1), (1, 1), (2, 1)] * 2
    assert probes[0] is probes[3], "made once"
    assert plan.refused(probes[1], 2, 0.0) == () and plan.unanswered(probes[1], 5, 0.0) == ()
    assert len(plan.active) == 1 and plan.given_up == (), "what a probe meets changes no plan"
    alone = ReadPlan(make_requests(points("1/holding/7 float32"), endpoint()))
    assert alone.probe(0.0) is alone.active[0]


def test_points_are_found_by_slot_in_whatever_read_they_are() -> None:
    held = points("3/coil/1", "1/holding/9 uint16", "1/holding/3 float32", "2/input/100 int16",
                  "1/holding/400:2 string", "1/coil/5")
    by_slot = PointsBySlot(make_requests(held, endpoint()))
    assert sorted(by_slot) == list(range(6)) and len(by_slot) == 6
    assert [by_slot[slot] for slot in range(6)] == held
    assert by_slot.get(6) is None and by_slot.get(-1) is None
    apart = split(make_requests(points(*(f"1/holding/{i} uint16" for i in range(7))), endpoint())[0])
    assert apart is not None and {s: p.point_index for s, p in PointsBySlot(apart).items()} == {i: i for i in range(7)}
