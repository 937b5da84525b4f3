"""Signals that look like machines: idle phases, bursts, counters that reset, quantisation, slow drift, switches.

Pure and seeded: the same seed and the same steps give the same values. A `Machine` goes through phases (off, idle,
setup, run, burst); every signal follows the effort of the phase it is in. Most signals are quiet most of the time,
as on real machines; what a signal promises about change is its `moves`, and the plant's true counts rest on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Literal, TypeAlias

Value: TypeAlias = bool | int | float | str

CHANGE_HORIZON_S = 30
"""A signal that moves `always` takes at least two values within this many seconds of one-second steps."""

Shape = Literal["analog", "gated", "counter", "total", "switch", "program", "setpoint", "constant", "state",
                "heartbeat"]


class Moves(Enum):
    """What is certain about a signal's change over CHANGE_HORIZON_S: the ground of the plant's true counts."""

    ALWAYS = "always"
    NEVER = "never"
    MAYBE = "maybe"


class Phase(Enum):
    """What a machine is doing; the value is its place in the state code that controllers report."""

    OFF = 0
    IDLE = 1
    SETUP = 2
    RUN = 3
    BURST = 4


EFFORT = {Phase.OFF: 0.0, Phase.IDLE: 0.08, Phase.SETUP: 0.3, Phase.RUN: 0.7, Phase.BURST: 1.0}
NEXT_PHASE: dict[Phase, tuple[tuple[Phase, float], ...]] = {
    Phase.OFF: ((Phase.IDLE, 1.0),),
    Phase.IDLE: ((Phase.SETUP, 0.45), (Phase.RUN, 0.5), (Phase.OFF, 0.05)),
    Phase.SETUP: ((Phase.RUN, 0.8), (Phase.IDLE, 0.2)),
    Phase.RUN: ((Phase.BURST, 0.45), (Phase.IDLE, 0.4), (Phase.SETUP, 0.15)),
    Phase.BURST: ((Phase.RUN, 0.85), (Phase.IDLE, 0.15)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One quantity of a machine, before any protocol.

    Attributes:
        key: name in lower case with underscores; `name_1`, `name_2` are neighbours of one array.
        low, high: the value at no effort and at full effort, in `unit`.
        step: the resolution of the sensor; every numeric value is a multiple of it.
        noise_steps: standard deviation of the sensor noise, in steps.
        lag_s: time constant with which the quantity follows the machine.
        texts: the programs that a `program` signal names in turn.
    """

    key: str
    shape: Shape
    role: str
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    step: float = 1.0
    noise_steps: float = 0.0
    lag_s: float = 0.0
    texts: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = (Phase.RUN, Phase.BURST)

    @property
    def moves(self) -> Moves:
        """What is certain about this signal's change."""
        if self.shape == "heartbeat" or (self.shape == "analog" and self.noise_steps >= 2):
            return Moves.ALWAYS
        return Moves.NEVER if self.shape == "constant" else Moves.MAYBE

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers by nature: counts and codes."""
        return self.shape in ("counter", "state", "heartbeat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """Mean length of each phase and of one working cycle, seconds."""

    off_s: float = 120.0
    idle_s: float = 25.0
    setup_s: float = 12.0
    run_s: float = 60.0
    burst_s: float = 6.0
    cycle_s: float = 9.0

    def mean_s(self, phase: Phase) -> float:
        """Return the mean length of a phase."""
        return {Phase.OFF: self.off_s, Phase.IDLE: self.idle_s, Phase.SETUP: self.setup_s, Phase.RUN: self.run_s,
                Phase.BURST: self.burst_s}[phase]


class Machine:
    """One physical machine: a phase, its effort, and the present value of every signal, in the order given."""

    __slots__ = ("_cycle_s", "_inner", "_random", "_rest_s", "_started", "phase", "rhythm", "signals", "values")

    def __init__(self, signals: tuple[Signal, ...], rhythm: Rhythm, seed: str) -> None:
        self.signals = signals
        self.rhythm = rhythm
        self._random = Random(seed)
        self.phase = self._random.choice((Phase.IDLE, Phase.RUN, Phase.RUN, Phase.SETUP))
        self._rest_s = self._draw_length()
        self._cycle_s = self._random.uniform(0.0, rhythm.cycle_s)
        self._started = False
        self._inner = [self._first(signal) for signal in signals]
        self.values: list[Value] = []
        self.step(0.0)

    def step(self, dt_s: float) -> list[Value]:
        """Let `dt_s` seconds pass and return the values, in the order of the signals."""
        self._rest_s -= dt_s
        entered = False
        while self._rest_s <= 0:
            kinds, weights = zip(*NEXT_PHASE[self.phase], strict=True)
            self.phase = self._random.choices(kinds, weights)[0]
            self._rest_s += self._draw_length()
            entered = True
        self._cycle_s += dt_s
        cycles = 0
        while self._cycle_s >= self.rhythm.cycle_s:
            self._cycle_s -= self.rhythm.cycle_s
            cycles += 1
        effort = EFFORT[self.phase]
        if self.phase in (Phase.RUN, Phase.BURST):  # cutting is not even: the load swings within a cycle
            effort *= 0.88 + 0.12 * math.sin(2 * math.pi * self._cycle_s / self.rhythm.cycle_s)
        self.values = [self._value(i, signal, dt_s, effort, cycles, entered)
                       for i, signal in enumerate(self.signals)]
        self._started = True
        return self.values

    def _draw_length(self) -> float:
        return max(1.0, self._random.expovariate(1.0 / self.rhythm.mean_s(self.phase)))

    def _first(self, signal: Signal) -> float:
        """Return the state that a signal starts from: machines are not new when we meet them."""
        match signal.shape:
            case "counter" | "heartbeat":
                return float(self._random.randrange(int(signal.high)))
            case "total":
                return self._random.uniform(0.2, 0.8) * signal.high
            case "program":
                return float(self._random.randrange(len(signal.texts)))
            case "setpoint" | "constant":
                return self._random.uniform(signal.low, signal.high)
            case _:
                return signal.low + (signal.high - signal.low) * EFFORT[self.phase]

    def _value(self, i: int, signal: Signal, dt_s: float, effort: float, cycles: int, entered: bool) -> Value:
        state = self._inner[i]
        match signal.shape:
            case "analog":
                target = signal.low + (signal.high - signal.low) * effort
                state += (target - state) * (1.0 if signal.lag_s == 0 else 1.0 - math.exp(-dt_s / signal.lag_s))
                value: Value = quantise(state + self._random.gauss(0.0, signal.noise_steps * signal.step), signal)
            case "gated":  # an axis or a spindle stands still outside work: exactly zero
                working = self.phase in signal.phases
                noise = self._random.gauss(0.0, signal.noise_steps * signal.step)
                value = quantise(signal.low + (signal.high - signal.low) * effort + noise, signal) if working else 0.0
            case "counter":
                if self.phase in signal.phases:
                    state = (state + cycles) % signal.high  # the controller's counter starts again from zero
                value = int(state)
            case "heartbeat":
                state = (state + (1 if self._started else 0)) % signal.high
                value = int(state)
            case "total":
                state = (state + effort * signal.noise_steps * signal.step * dt_s) % signal.high
                value = quantise(state, signal)
            case "switch":
                value = self.phase in signal.phases
            case "program":
                if entered and self.phase is Phase.SETUP:
                    state = (state + 1) % len(signal.texts)
                value = signal.texts[int(state)]
            case "setpoint":  # somebody turns a knob now and then
                if self._started and self._random.random() < dt_s / 240.0:
                    state = self._random.uniform(signal.low, signal.high)
                value = quantise(state, signal)
            case "constant":
                value = quantise(state, signal)
            case "state":
                value = self.phase.value
        self._inner[i] = state
        return value


def quantise(value: float, signal: Signal) -> float:
    """Return `value` as a multiple of the signal's step; a quantity that starts at 0 or above never reads below."""
    steps = round(value / signal.step)
    if signal.low >= 0:
        steps = abs(steps)
    digits = max(0, -math.floor(math.log10(signal.step)))
    return float(round(steps * signal.step, digits))
