"""The hand-over between threads: bounded, in order, and every message either taken or counted."""

from __future__ import annotations

import threading

from protocols.errors import Problem
from protocols.mqtt.inbox import ITEM_BYTES, Down, Inbox, Incoming, Subscribed


def incoming(number: int, size: int = 0) -> Incoming:
    return Incoming(f"t/{number}", b"x" * size, False, number)


def one() -> int:
    return 1


def test_in_order_and_bounded_by_messages() -> None:
    inbox = Inbox(lambda: None, messages_max=3)
    for number in range(5):
        inbox.put(incoming(number), "t", lambda: 7)
    down = Down(Problem("a", "b"))
    inbox.put_note(down)  # a note has room where a message has none
    assert [i.received_ns for i in inbox.take(2) if isinstance(i, Incoming)] == [0, 1]
    assert inbox.take(10) == [incoming(2), down]
    lost = inbox.take_dropped()
    assert (lost["t"].messages, lost["t"].samples) == (2, 14)
    assert inbox.take_dropped() == {} and inbox.is_empty
    inbox.put(incoming(9), "t", one)
    assert inbox.take(10) == [incoming(9)]


def test_bounded_by_bytes() -> None:
    inbox = Inbox(lambda: None, bytes_max=2 * (ITEM_BYTES + 100))
    for number in range(3):
        inbox.put(incoming(number, 100), "t", one)
    assert inbox.take_dropped()["t"].messages == 1
    assert len(inbox.take(1)) == 1
    inbox.put(incoming(3, 101), "t", one)
    assert inbox.take_dropped()["t"].messages == 1
    inbox.put(incoming(4, 100), "t", one)
    assert inbox.take_dropped() == {}


def test_counting_is_left_undone_while_there_is_room() -> None:
    inbox = Inbox(lambda: None)
    inbox.put(incoming(0), "t", lambda: 1 // 0)
    assert len(inbox.take(1)) == 1


def test_who_sleeps_is_woken_once() -> None:
    woken: list[int] = []
    inbox = Inbox(lambda: woken.append(1), messages_max=1)
    inbox.put(incoming(0), "t", one)
    inbox.put(incoming(1), "t", one)
    inbox.put_note(Subscribed(()))
    assert len(woken) == 1
    inbox.take(10)
    assert not inbox.is_empty  # what was dropped is still to be told
    inbox.take_dropped()
    inbox.put_note(Subscribed(()))
    assert len(woken) == 2


def test_threads_lose_nothing() -> None:
    inbox = Inbox(lambda: None, messages_max=50)
    sent_each, threads_n = 3_000, 4

    def send(name: str) -> None:
        for number in range(sent_each):
            inbox.put(Incoming(name, b"", False, number), name, one)

    threads = [threading.Thread(target=send, args=(str(n),)) for n in range(threads_n)]
    for thread in threads:
        thread.start()
    taken: dict[str, list[int]] = {str(n): [] for n in range(threads_n)}
    dropped = 0
    while any(t.is_alive() for t in threads) or not inbox.is_empty:
        for item in inbox.take(17):
            assert isinstance(item, Incoming)
            taken[item.topic].append(item.received_ns)
        dropped += sum(lost.samples for lost in inbox.take_dropped().values())
    assert sum(map(len, taken.values())) + dropped == sent_each * threads_n
    for numbers in taken.values():
        assert numbers == sorted(set(numbers))
