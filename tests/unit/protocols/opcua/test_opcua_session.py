from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from protocols.opcua import session
from protocols.opcua.session import IdleDevices, Retries, Sequence32


def test_batches_keep_order_and_lose_nothing() -> None:
    assert [list(b) for b in session.batches(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_keep_alives_come_every_five_seconds_and_an_orphan_lives_a_minute() -> None:
    assert session.keep_alive_counts(500) == (10, 120)
    assert session.keep_alive_counts(60_000) == (1, 12)
    assert session.stale_after_s(500, 10, 5) == 20


@given(attempt=st.integers(0, 10**6), seed=st.integers())
def test_backoff_stays_below_its_cap(attempt: int, seed: int) -> None:
    pause_s = session.backoff_s(attempt, session.BACKOFF_REFUSED_CAP_S, random.Random(seed))
    assert 0.25 <= pause_s <= 30.0


def test_sequence_names_what_is_missing() -> None:
    numbers = Sequence32()
    assert numbers.missing(1, is_keep_alive=True) == []
    assert numbers.missing(1, is_keep_alive=False) == []
    assert numbers.missing(2, is_keep_alive=False) == []
    assert numbers.missing(5, is_keep_alive=False) == [3, 4]
    assert numbers.missing(8, is_keep_alive=True) == [6, 7], "a keep-alive tells what was lost before it"
    assert numbers.missing(8, is_keep_alive=False) == []
    assert numbers.missing(7, is_keep_alive=False) == [], "a repeat moves nothing"
    assert numbers.missing(9, is_keep_alive=False) == []
    numbers.skip()
    assert numbers.missing(11, is_keep_alive=False) == []


def test_sequence_wraps_to_one_and_never_counts_zero() -> None:
    numbers = Sequence32()
    last = 2**32 - 1
    assert numbers.missing(2**31, is_keep_alive=False) == []
    assert numbers.missing(last - 1, is_keep_alive=False) == []
    assert numbers.missing(2, is_keep_alive=False) == [last, 1]


def test_idle_devices_are_read_in_turn() -> None:
    idle = IdleDevices([[0, 1, 2], [3]], 10.0, now_s=0.0)
    usable = [True, False, True, True]
    assert idle.due(9.9, usable) == [], "nobody is due: nobody comes along"
    assert idle.due(10.0, usable) == [0, 3]
    assert idle.due(10.0, usable) == [], "its period starts again"
    idle.heard(np.array([1]), 15.0)
    assert idle.next_due_s() == 20.0
    assert idle.due(20.0, usable) == [2], "the next usable point"
    assert idle.due(30.0, usable) == [0, 3]
    assert idle.due(50.0, [False] * 4) == []
    idle.heard(np.array([0]), 51.9)
    assert idle.due(60.0, usable) == [2, 3], "one that is nearly due comes along"


def test_refused_points_are_told_once_and_tried_for_ever() -> None:
    retries = Retries(random.Random(1))
    assert retries.failed(4, "BadNodeIdUnknown", 0.0)
    assert not retries.failed(4, "BadNodeIdUnknown", 10.0)
    assert retries.failed(4, "BadUserAccessDenied", 30.0)
    now_s, tries = 30.0, 0
    while now_s < 86_400:
        now_s = retries.next_due_s()
        assert retries.due(now_s) == [4]
        retries.failed(4, "BadUserAccessDenied", now_s)
        tries += 1
    assert 280 < tries < 600, "a pause of 150 to 300 s in the long run"
    assert retries.mended(4)
    assert not retries.mended(4)
    assert retries.due(10**9) == []
    assert len(retries) == 0


def test_reads_are_sent_together_as_long_as_they_are_answered_quickly() -> None:
    at_once = [1]
    for took_s in (0.01, 0.01, 0.01, 0.01, 0.3, 0.3, 0.3, 0.2):
        at_once.append(session.reads_at_once(at_once[-1], took_s, 4))
    assert at_once == [1, 2, 3, 4, 4, 2, 1, 1, 2]
    assert session.reads_at_once(1, 0.0, 1) == 1, "what the kind of server bears"
