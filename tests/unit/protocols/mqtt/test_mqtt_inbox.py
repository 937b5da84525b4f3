"""The hand-over between threads: bounded, in order, and every message either taken or counted."""

from __future__ import annotations

import threading

from protocols.errors import Problem
from protocols.mqtt.frames import Messages
from protocols.mqtt.inbox import ITEM_BYTES, Chunk, Down, Inbox, Note, Subscribed


def chunk(*numbers: int, size: int = 0) -> Chunk:
    messages = Messages.of((b"t", b"x" * size, number) for number in numbers)
    return Chunk(7, messages, (size + 1) * len(messages))


def count(topic: bytes, payload: bytes | None) -> tuple[str, int]:
    return topic.decode(), 7


def take_all(inbox: Inbox) -> list[Chunk | Note]:
    return list(iter(inbox.take, None))


def numbers_of(items: list[Chunk | Note]) -> list[int]:
    return [message[2] for item in items if isinstance(item, Chunk) for message in item.messages]


def test_in_order_and_bounded_by_messages() -> None:
    inbox = Inbox(lambda: None, messages_max=3)
    inbox.put(chunk(0, 1), count)
    inbox.put(chunk(2, 3, 4), count)  # one of them fits
    down = Down(Problem("a", "b"))
    inbox.put_note(down)  # a note has room where a message has none
    first = inbox.take()
    assert first is not None and numbers_of([first]) == [0, 1], "what came together is taken together"
    rest = take_all(inbox)
    assert numbers_of(rest) == [2] and rest[-1] == down
    lost = inbox.take_dropped()
    assert (lost["t"].messages, lost["t"].samples) == (2, 14)
    assert inbox.take_dropped() == {} and inbox.is_empty
    inbox.put(chunk(9), count)
    assert numbers_of(take_all(inbox)) == [9]


def test_bounded_by_bytes() -> None:
    inbox = Inbox(lambda: None, bytes_max=2 * (ITEM_BYTES + 101))
    inbox.put(chunk(0, 1, 2, size=100), count)
    assert inbox.take_dropped()["t"].messages == 1
    assert numbers_of(take_all(inbox)) == [0, 1]
    inbox.put(chunk(3, 4, size=101), count)
    assert inbox.take_dropped()["t"].messages == 1
    inbox.put(chunk(5, size=99), count)
    assert inbox.take_dropped() == {} and numbers_of(take_all(inbox)) == [3, 5]
    inbox.put(chunk(6, 7, size=100), count)
    assert inbox.take_dropped() == {}, "all room is there again"


def test_counting_is_left_undone_while_there_is_room() -> None:
    inbox = Inbox(lambda: None)
    inbox.put(chunk(0), lambda *_: 1 // 0)  # type: ignore[arg-type, return-value]  # never called
    assert len(take_all(inbox)) == 1


def test_who_sleeps_is_woken_once() -> None:
    woken: list[int] = []
    inbox = Inbox(lambda: woken.append(1), messages_max=1)
    inbox.put(chunk(0), count)
    inbox.put(chunk(1), count)
    inbox.put_note(Subscribed(()))
    assert len(woken) == 1
    take_all(inbox)
    assert not inbox.is_empty  # what was dropped is still to be told
    inbox.take_dropped()
    inbox.put_note(Subscribed(()))
    assert len(woken) == 2


def test_who_empties_the_queue_while_losses_are_counted_is_woken_for_them() -> None:
    woken: list[str] = []
    inbox = Inbox(lambda: woken.append("up"), messages_max=1)
    inbox.put(chunk(0), count)
    assert woken == ["up"]

    def take_meanwhile(topic: bytes, payload: bytes | None) -> tuple[str, int]:
        assert numbers_of(take_all(inbox)) == [0] and inbox.is_empty, "who was woken goes back to sleep"
        return count(topic, payload)

    inbox.put(chunk(1), take_meanwhile)
    assert woken == ["up", "up"], "else nobody is ever woken again: what comes finds a queue that is not empty"
    assert inbox.take_dropped()["t"].messages == 1


def test_threads_lose_nothing() -> None:
    inbox = Inbox(lambda: None, messages_max=50)
    sent_each, threads_n = 1_000, 4

    def send(name: str) -> None:
        for number in range(sent_each):
            three: list[bytes | None] = [b"%d" % (3 * number + part) for part in range(3)]
            inbox.put(Chunk(0, Messages([name.encode()] * 3, three), 3), count)

    threads = [threading.Thread(target=send, args=(str(n),)) for n in range(threads_n)]
    for thread in threads:
        thread.start()
    taken: dict[bytes, list[int]] = {str(n).encode(): [] for n in range(threads_n)}
    dropped = 0
    while any(t.is_alive() for t in threads) or not inbox.is_empty:
        for item in take_all(inbox):
            assert isinstance(item, Chunk)
            for topic, number, _ in item.messages:
                taken[topic].append(int(number or -1))
        dropped += sum(lost.messages for lost in inbox.take_dropped().values())
    assert sum(map(len, taken.values())) + dropped == 3 * sent_each * threads_n
    for numbers in taken.values():
        assert numbers == sorted(set(numbers))


def test_who_reads_gives_way_to_who_empties_and_to_nobody_else() -> None:
    inbox = Inbox(lambda: None, messages_max=10)
    inbox.put(chunk(*range(5)), count)
    inbox.give_way()  # half full is not crowded
    inbox.put(chunk(5, 6), count)
    released = threading.Event()

    def read() -> None:
        inbox.give_way()
        released.set()

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert released.is_set(), "nobody took anything: the wait has an end"
    inbox.give_way()
    assert inbox._is_stuck, "and is not tried again before somebody does"
    assert len(take_all(inbox)) == 2 and not inbox._is_stuck
