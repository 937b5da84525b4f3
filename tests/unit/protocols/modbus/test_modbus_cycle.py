"""Many reads as one piece: the frames are pymodbus's, and no reply is taken that `frames.match` would not take."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest

from protocols.modbus import frames
from protocols.modbus.cycle import REQUEST_SIZE, TRANSACTION_MAX, Cycle
from protocols.modbus.plan import Request
from protocols.modbus.target import READ_FUNCTION, TABLES, Table
from tests.unit.protocols.modbus.recording import point

STOCK = {"coil": ReadCoilsRequest, "discrete": ReadDiscreteInputsRequest, "holding": ReadHoldingRegistersRequest,
         "input": ReadInputRegistersRequest}


def read(unit: int, table: Table, address: int, count: int) -> Request:
    kind = "bool" if table in ("coil", "discrete") else "uint16"
    return Request(unit=unit, table=table, address=address, count=count, device_index=0,
                   points=(point(0, f"{unit}/{table}/{address}", kind),))


reads = st.builds(read, st.integers(0, 255), st.sampled_from(TABLES), st.integers(0, 65_000), st.integers(1, 125))
cycles = st.lists(reads, min_size=1, max_size=20).map(Cycle)


def reply(cycle: Cycle, first: int, number: int, data: bytes | None = None) -> bytes:
    request = cycle.requests[number]
    held = bytes(number % 251 for _ in range(request.data_size)) if data is None else data
    transaction = (first - 1 + number) % TRANSACTION_MAX + 1
    return (transaction.to_bytes(2, "big") + b"\0\0" + (3 + len(held)).to_bytes(2, "big")
            + bytes([request.unit, request.function, len(held)]) + held)


def begun(cycle: Cycle, first: int = 1, in_flight: int = 1) -> bytes:
    cycle.begin()
    cycle.number(first)
    return cycle.next_frames(in_flight)


@given(cycles, st.integers(1, TRANSACTION_MAX))
def test_the_frames_are_what_pymodbus_would_send(cycle: Cycle, first: int) -> None:
    sent = begun(cycle, first, in_flight=cycle.size)
    framer = FramerSocket(DecodePDU(False))
    for number, request in enumerate(cycle.requests):
        pdu = STOCK[request.table](address=request.address, count=request.count, dev_id=request.unit)
        pdu.transaction_id = (first - 1 + number) % TRANSACTION_MAX + 1
        assert sent[REQUEST_SIZE * number:REQUEST_SIZE * (number + 1)] == framer.buildFrame(pdu)
    assert len(sent) == REQUEST_SIZE * cycle.size


@given(cycles, st.integers(1, TRANSACTION_MAX), st.integers(1, 8), st.randoms(use_true_random=False))
def test_replies_in_any_pieces_are_taken_in_order(cycle: Cycle, first: int, in_flight: int, rng: random.Random) -> None:
    for _ in range(2):  # a cycle may be asked again
        waiting, sent, buffer = begun(cycle, first, in_flight), 0, b""
        while not cycle.is_done:
            for _ in range(len(waiting) // REQUEST_SIZE):
                buffer += reply(cycle, first, sent)
                sent += 1
            assert cycle.outstanding <= in_flight
            cut = rng.randint(1, len(buffer))
            assert cycle.received(buffer[:cut]) is None
            buffer = buffer[cut:]
            waiting = cycle.next_frames(in_flight)
        assert not buffer
        assert list(cycle.replies) == [bytes(n % 251 for _ in range(r.data_size)) for n, r in enumerate(cycle.requests)]


@given(cycles, st.integers(1, 8), st.binary(max_size=300), st.data())
def test_whatever_arrives_no_reply_is_taken_that_a_single_request_would_refuse(
    cycle: Cycle, in_flight: int, garbage: bytes, data: st.DataObject
) -> None:
    """One hostile chunk in place of the next reply, sometimes one that begins like it."""
    begun(cycle, 7, in_flight)
    good = reply(cycle, 7, 0)
    chunk = data.draw(st.sampled_from([garbage, good + garbage, good[:5] + garbage, garbage + good,
                                       good[:data.draw(st.integers(0, len(good)))] + good]))
    expected = frames.expect(begun(cycle, 7, 1)[:REQUEST_SIZE], is_rtu=False)
    found = frames.match(expected, chunk)
    wrong = cycle.received(chunk)  # one in flight
    if isinstance(found, frames.Reply):
        assert wrong is None
        assert list(cycle.replies) == [found.exception or found.body]
    elif isinstance(found, frames.Mismatch):
        assert wrong == found
        assert list(cycle.replies) == []
    else:
        assert wrong is None
        assert list(cycle.replies) == []


def three(in_flight: int) -> Cycle:
    cycle = Cycle([read(1, "holding", 10 * n, 4) for n in range(3)])
    begun(cycle, 100, in_flight)
    return cycle


def test_a_reply_that_was_cut_is_not_taken_with_the_bytes_of_the_next() -> None:
    cycle = three(3)
    first, cut, last = (reply(cycle, 100, n) for n in range(3))
    assert cycle.received(first + cut[:-3] + last) == frames.Mismatch("transaction")
    assert list(cycle.replies) == [bytes(8)], "the first is confirmed by the head behind it, the second is not"


def test_what_follows_a_cut_reply_in_the_next_segment_takes_it_back() -> None:
    cycle = three(3)
    first, cut, last = (reply(cycle, 100, n) for n in range(3))
    assert cycle.received(first + cut[:-3] + last[:4]) is None
    assert len(cycle.replies) <= 1
    assert cycle.received(last[4:]) == frames.Mismatch("transaction")
    assert list(cycle.replies) == [bytes(8)]


def test_bytes_behind_the_last_reply_take_it_back() -> None:
    cycle = three(1)
    assert cycle.received(reply(cycle, 100, 0) + b"\0") == frames.Mismatch("surplus")
    assert list(cycle.replies) == []


def test_replies_in_another_order_are_no_replies() -> None:
    cycle = three(3)
    assert cycle.received(reply(cycle, 100, 1)) == frames.Mismatch("transaction")


def test_an_exception_reply_takes_its_place() -> None:
    cycle = three(3)
    exception = (101).to_bytes(2, "big") + bytes.fromhex("0000 0003 01 83 02")
    assert cycle.received(reply(cycle, 100, 0) + exception + reply(cycle, 100, 2)) is None
    assert list(cycle.replies) == [bytes(8), 2, bytes([2] * 8)]


def test_a_cycle_refuses_what_is_no_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READ_FUNCTION, "holding", 6)
    with pytest.raises(ValueError, match="no read"):
        Cycle([read(1, "holding", 0, 1)])


@pytest.mark.parametrize("count", [0, 0x4001])
def test_a_cycle_has_reads_but_not_more_than_transaction_ids(count: int) -> None:
    with pytest.raises(ValueError, match="reads in one cycle"):
        Cycle([read(1, "coil", 0, 1)] * count)
