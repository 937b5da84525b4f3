"""The outbox as a table of events and effects, and its rules under any sequence of events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sealing.outbox import (
    BACKOFF_MAX_S,
    NS_PER_S,
    Answered,
    AskRegister,
    AskSize,
    Failed,
    Grew,
    Halt,
    Outbox,
    Proven,
    Submit,
    Tick,
)


def test_asks_before_it_sends_and_sends_in_order() -> None:
    box, effects = Outbox().step(Tick(), now_ns=0)
    assert effects == ()  # nothing is sealed yet
    box, effects = box.step(Grew(5), now_ns=0)
    assert effects == (AskSize(),)
    box, effects = box.step(Grew(6), now_ns=0)
    assert effects == ()  # one request at a time
    box, effects = box.step(Answered(2, True), now_ns=0)
    assert effects == (Submit(2),)
    box, effects = box.step(Answered(6, True), now_ns=0)
    assert effects == (AskRegister(),)
    box, effects = box.step(Proven(4), now_ns=0)
    assert effects == () and box.due_ns == 10 * NS_PER_S
    box, effects = box.step(Tick(), now_ns=10 * NS_PER_S)
    assert effects == (AskRegister(),)
    box, effects = box.step(Proven(6), now_ns=0)
    assert effects == () and box.due_ns is None


def test_after_a_failure_the_size_is_asked_again() -> None:
    box, _ = Outbox(local=5, remote=2).step(Tick(), now_ns=0)
    box, effects = box.step(Failed(0.0), now_ns=0)
    assert effects == () and box.due_ns == NS_PER_S // 2
    assert box.step(Tick(), now_ns=NS_PER_S // 2 - 1)[1] == ()
    assert box.step(Grew(9), now_ns=0)[1] == ()  # growing does not break the back-off
    box, effects = box.step(Tick(), now_ns=NS_PER_S)
    assert effects == (AskSize(),)


def test_back_off_doubles_to_its_cap() -> None:
    box, waits = Outbox(local=1), []
    for _ in range(100):
        box, _ = box.step(Failed(0.999999), now_ns=0)
        waits.append(box.wake_ns / NS_PER_S)
    assert [round(w) for w in waits[:5]] == [1, 2, 4, 8, 16]
    assert max(waits) <= BACKOFF_MAX_S and waits[-1] > 0.99 * BACKOFF_MAX_S


def failing_waits(refuse: type[Submit] | type[AskRegister], *, proven: int) -> tuple[Outbox, list[int]]:
    """Two hours with a platform that tells its size and refuses one kind of request; the seconds between the tries."""
    box, tried, now = Outbox(local=5, proven=proven), [], 0
    known = 5 if refuse is AskRegister else 2
    while now < 7200 * NS_PER_S:
        box, effects = box.step(Tick(), now_ns=now)
        while effects:
            effect, = effects
            if isinstance(effect, refuse):
                tried.append(now)
            event = Failed(0.999999) if isinstance(effect, refuse) else Answered(known, True)
            box, effects = box.step(event, now_ns=now)
        assert box.due_ns is not None
        now = box.due_ns
    return box, [round((b - a) / NS_PER_S) for a, b in pairwise(tried)]


@pytest.mark.parametrize(("refuse", "proven"), [(Submit, 0), (Submit, 2), (AskRegister, 2)])
def test_a_size_that_is_told_between_refusals_does_not_reset_the_back_off(
        refuse: type[Submit] | type[AskRegister], proven: int) -> None:
    box, waits = failing_waits(refuse, proven=proven)
    assert waits[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256] and set(waits[9:]) == {300}
    box, effects = box.step(Tick(), now_ns=box.wake_ns)
    box, effects = box.step(Answered(5, True), now_ns=box.wake_ns)
    if refuse is Submit:  # its answer was lost, and it had taken effect: progress
        assert box.tries == 0
    assert effects == (AskRegister(),)
    box, effects = box.step(Proven(5), now_ns=box.wake_ns)
    assert (box.tries, box.due_ns, effects) == (0, None, ())


@pytest.mark.parametrize("poll_s", [1.0, 10.0, 600.0])
def test_the_register_is_asked_as_often_as_it_is_told(poll_s: float) -> None:
    box, effects = Outbox(local=5, remote=5, poll_s=poll_s).step(Tick(), now_ns=0)
    assert effects == (AskRegister(),)
    box, effects = box.step(Proven(3), now_ns=0)
    assert effects == () and box.due_ns == int(poll_s * NS_PER_S)


def test_platform_ahead_or_with_another_root_stops_it() -> None:
    for event, why in ((Answered(9, None), "ahead"), (Answered(3, False), "fork"), (Answered(9, False), "ahead")):
        box, effects = Outbox(local=5).step(event, now_ns=0)
        assert effects == (Halt(why, event.size),)
        for later in (Tick(), Grew(7), Failed(0.5), Proven(5), Tick()):
            box, effects = box.step(later, now_ns=10**15)
            assert effects == ()


@given(st.lists(st.one_of(
    st.builds(Grew, st.integers(0, 50)), st.just(Tick()), st.builds(Failed, st.floats(0, 0.999)),
    st.builds(Proven, st.integers(0, 50)),
    st.builds(Answered, st.integers(0, 50), st.sampled_from([True, None, False]))),
    max_size=40), st.lists(st.integers(0, 400 * NS_PER_S), min_size=40, max_size=40))
def test_never_two_requests_at_once_and_never_beyond_what_is_sealed(events: list, gaps: list[int]) -> None:
    box, now, waiting = Outbox(), 0, False
    for event, gap in zip(events, gaps, strict=False):
        now += gap
        if isinstance(event, Answered | Failed | Proven):
            waiting = False
        box, effects = box.step(event, now_ns=now)
        requests = [e for e in effects if not isinstance(e, Halt)]
        assert len(requests) <= 1 and not (waiting and requests)
        waiting = waiting or bool(requests)
        assert all(e.first < box.local for e in requests if isinstance(e, Submit))


def test_a_journal_that_grew_while_its_entries_were_under_way_is_no_platform_ahead() -> None:
    """A batch takes what is sealed when it is built, which may be more than the outbox was told of before."""
    box, effects = Outbox(local=5, remote=3).step(Tick(), now_ns=0)
    assert effects == (Submit(3),)
    box, effects = box.step(Answered(6, True), now_ns=0)
    assert box.halted is None and (box.local, box.remote) == (6, 6)
    assert effects == (AskRegister(),)
