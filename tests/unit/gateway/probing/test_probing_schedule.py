"""How often a server is challenged: weeks of a virtual clock, every limit at every moment."""

from __future__ import annotations

import random
from bisect import bisect_left
from itertools import pairwise

import pytest

from gateway.probing.schedule import (
    FIRST_SPREAD_S,
    HOUR_S,
    IN_FLIGHT_MAX,
    JITTER,
    MIN_GAP_S,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    Pace,
    Schedule,
    Server,
)

WEEK_S = 7 * 86_400.0


class Plant:
    """Servers by script on a virtual clock. fails(key, now_s) -> whether this challenge is not answered."""

    def __init__(self, keys: int, pace: Pace, seed: int, *, answer_s: float = 0.3) -> None:
        self.rng = random.Random(seed)
        self.pace = pace
        self.keys = [f"{n:02x}" * 32 for n in range(keys)]
        self.schedule = Schedule(pace)
        self.asked: dict[str, list[float]] = {key: [] for key in self.keys}
        self.answer_s = answer_s
        self.flying: list[tuple[float, str, bool]] = []
        self.now_s = 1000.0

    def run(self, seconds: float, failing: float = 0.0, tick_s: float = 1.0, restart_chance: float = 0.0) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            for landing in [f for f in self.flying if f[0] <= self.now_s]:
                self.flying.remove(landing)
                _, key, bad = landing
                if bad:
                    self.schedule.failed(key, self.now_s, self.rng.random())
                else:
                    self.schedule.answered(key, self.rng.random())
            if restart_chance and self.rng.random() < restart_chance:
                kept = {k: Server(due_s=s.due_s, asked_s=s.asked_s, failures=s.failures)
                        for k, s in self.schedule.servers.items()}
                self.flying.clear()
                self.schedule = Schedule(self.pace, kept)
            self.schedule.know(self.keys, self.now_s, self.rng.random())
            for key in self.schedule.due(self.now_s):
                self.asked[key].append(self.now_s)
                self.flying.append((self.now_s + self.answer_s, key, self.rng.random() < failing))
                assert sum(f[1] == key for f in self.flying) == 1, "one in flight"
            assert len(self.flying) <= IN_FLIGHT_MAX
            self.now_s += tick_s


def most_in_an_hour(times: list[float]) -> int:
    return max((i + 1 - bisect_left(times, at - HOUR_S + 1e-6) for i, at in enumerate(times)), default=0)


@pytest.mark.parametrize(("failing", "restarts"), [(0.0, 0.0), (0.2, 0.0), (1.0, 0.0), (0.5, 0.001)])
def test_a_simulated_week_keeps_every_limit(failing: float, restarts: float) -> None:
    pace = Pace(every_s=3600, max_per_hour=3)
    plant = Plant(3, pace, seed=7)
    plant.run(WEEK_S, failing, tick_s=5.0, restart_chance=restarts)
    for times in plant.asked.values():
        assert most_in_an_hour(times) <= pace.max_per_hour
        assert all(b - a >= MIN_GAP_S for a, b in pairwise(times))
        if failing == 0.0 and not restarts:
            gaps = [b - a for a, b in pairwise(times)]
            assert min(gaps) >= 3600 and max(gaps) <= 3600 * (1 + JITTER) + 10
            assert WEEK_S / 3600 / (1 + JITTER) - 2 <= len(times) <= WEEK_S / 3600
            assert len({round(gap) for gap in gaps}) > 10, "drawn, not a grid"
        if failing == 1.0:
            # 60 + 120 + ... doubles to a day: 11 tries in the first day, then one a day.
            assert len(times) <= 11 + 7
            assert times[-1] - times[-2] >= RETRY_MAX_S


def test_a_short_interval_is_still_bounded_by_the_hour() -> None:
    pace = Pace(every_s=5, max_per_hour=20)
    plant = Plant(1, pace, seed=3)
    plant.run(6 * HOUR_S)
    times, = plant.asked.values()
    assert most_in_an_hour(times) == 20
    assert 6 * 20 <= len(times) <= 7 * 20


def test_a_server_that_takes_longer_than_its_interval_has_one_challenge_in_flight() -> None:
    plant = Plant(2, Pace(every_s=5, max_per_hour=720), seed=4, answer_s=60.0)
    plant.run(HOUR_S, tick_s=1.0)  # `run` asserts it at each challenge
    assert all(55 <= len(times) <= 61 for times in plant.asked.values())


def test_the_first_challenges_of_many_servers_are_spread_and_few_at_a_time() -> None:
    plant = Plant(60, Pace(every_s=3600, max_per_hour=6), seed=5, answer_s=2.0)
    plant.run(120.0, tick_s=0.5)
    assert all(len(times) == 1 for times in plant.asked.values())


def test_a_new_server_is_asked_soon_and_at_a_drawn_time() -> None:
    for seed in range(20):
        plant = Plant(1, Pace(every_s=3600, max_per_hour=6), seed=seed)
        plant.run(FIRST_SPREAD_S + 2)
        times, = plant.asked.values()
        assert len(times) == 1 and times[0] - 1000.0 <= FIRST_SPREAD_S + 1


def test_a_success_ends_the_back_off() -> None:
    pace = Pace(every_s=3600, max_per_hour=60)
    schedule = Schedule(pace)
    schedule.know(["k"], 0.0, 0.0)
    now_s = 0.0
    waits = []
    for _ in range(5):
        assert schedule.due(now_s) == ["k"]
        schedule.failed("k", now_s, 0.0)
        waits.append(schedule.servers["k"].due_s - now_s)
        assert schedule.due(now_s) == [] and schedule.due(schedule.servers["k"].due_s - 1) == []
        now_s = schedule.servers["k"].due_s
    assert waits == [RETRY_FIRST_S * 2**n for n in range(5)]
    assert schedule.due(now_s) == ["k"]
    schedule.answered("k", 0.5)
    assert schedule.servers["k"].failures == 0
    assert schedule.servers["k"].due_s == now_s + 3600 * (1 + JITTER / 2)


def test_a_key_that_goes_and_comes_back_is_not_asked_sooner() -> None:
    schedule = Schedule(Pace(every_s=3600, max_per_hour=6))
    schedule.know(["k"], 0.0, 0.0)
    assert schedule.due(0.0) == ["k"]
    schedule.know([], 1.0, 0.0)
    assert "k" in schedule.servers, "in flight: its answer still comes"
    schedule.answered("k", 0.0)
    schedule.know([], 2.0, 0.0)
    assert not schedule.servers
    schedule.know(["k"], 3.0, 0.0)
    assert schedule.due(100.0) == [] and schedule.due(3600.0) == ["k"]
