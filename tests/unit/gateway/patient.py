"""Window time of a machine that never stands still, for tests of a whole gateway in this process.

A gateway that gets no processor for a whole window puts an outage on record, and reads nothing in it: so it must be,
and tests/unit/gateway/counting/test_counting_windows.py is about it. Windows of a second see that on a loaded machine.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest

from gateway import agent
from gateway.counting.window import WindowClock
from protocols import system

BEAT_S = 0.02
STEP_NS = 200_000_000


class PatientClock(WindowClock):
    """While the process stands still, window time does too, but for STEP_NS.

    Looked at every BEAT_S as long as the loop runs that made it: who sleeps until a window opens wakes up in time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked_ns = self._passed_ns = system.boottime_ns()
        super().__init__(monotonic_ns=self._patient_ns)
        with suppress(RuntimeError):  # a test without a loop
            self._beat(asyncio.get_running_loop())

    def _patient_ns(self) -> int:
        with self._lock:
            now_ns = system.boottime_ns()
            self._passed_ns += min(now_ns - self._looked_ns, STEP_NS)
            self._looked_ns = now_ns
            return self._passed_ns

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._patient_ns()
        loop.call_later(BEAT_S, self._beat, loop)


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every Agent that is made from now on a clock like that."""
    monkeypatch.setattr(agent, "WindowClock", PatientClock)
