"""Listens in place of the counting window while `check` runs, and judges each device."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Problem
from protocols.mqtt.router import Router, named
from protocols.mqtt.target import MqttEndpoint, Point
from protocols.samples import NOT_LIVE, PollBatch, SampleBatch
from protocols.terms.check import CheckResult


class Observer:
    """A sink that keeps what it saw. subscribed: the broker answered; complete: every device passes already."""

    def __init__(self, points: Sequence[Point], endpoint: MqttEndpoint) -> None:
        self.subscribed = asyncio.Event()
        self.complete = asyncio.Event()
        self._endpoint = endpoint
        self._router = Router(endpoint, points, self)
        self._points: dict[int, list[Point]] = {}
        for point in points:
            self._points.setdefault(point.device_index, []).append(point)
        self._is_sparkplug = endpoint.protocol == "sparkplug_b"
        self._live: set[int] = set()
        self._retained: set[int] = set()
        self._answered: set[int] = set()
        self._born: set[int] = set()
        self._refused: dict[int, list[str]] = {}
        self._events: dict[str, Problem] = {}

    def samples(self, batch: SampleBatch | PollBatch) -> None:
        """Note which points have a value."""
        assert isinstance(batch, SampleBatch)
        is_live = (batch.quality & NOT_LIVE) == 0
        self._live.update(batch.point_index[is_live].tolist())
        self._retained.update(batch.point_index[~is_live].tolist())
        self._judge()

    def answered(self, device_index: Sequence[int] | NDArray[np.int64], received_ns: int) -> None:
        """Note who was heard."""
        self._answered.update(int(device) for device in device_index)

    def online(self, device_index: Sequence[int], received_ns: int) -> None:
        """Note who was born."""
        self._born.update(device_index)

    def offline(self, device_index: Sequence[int], received_ns: int) -> None:
        """Forget who died."""
        self._born.difference_update(device_index)

    def discarded(self, reason: str, count: int) -> None:
        """Counts are of no interest here."""

    def event(self, code: str, where: str, **args: object) -> None:
        """Keep the first trouble of each topic or device."""
        if code != "mqtt.rebirth_asked":
            self._events.setdefault(where, Problem.of(where, code, **args))

    def refuse(self, filters: Iterable[str]) -> None:
        """Note which subscriptions the broker refused."""
        for name in filters:
            for device in self._router.devices_of(name):
                self._refused.setdefault(device, []).append(name)
        self.subscribed.set()
        self._judge()

    def _judge(self) -> None:
        if all(self._passes(device) or device in self._refused for device in self._points):
            self.complete.set()

    def _passes(self, device: int) -> bool:
        if device in self._refused:
            return False
        seen = [p.point_index in self._live for p in self._points[device]]
        # A birth names everything there is; JSON messages may each hold a part.
        return device in self._born and all(seen) if self._is_sparkplug else any(seen)

    def results(self, problem: Problem | None) -> list[CheckResult]:
        """Return the verdict on each device. problem: why the connection ended, None if it lasted."""
        return [self._result(device, problem) for device in sorted(self._points)]

    def _result(self, device: int, problem: Problem | None) -> CheckResult:
        def failed(code: str, **args: object) -> CheckResult:
            return CheckResult(device, False, code, Problem.of("", code, **args).args)

        points = self._points[device]
        waited = f"{self._endpoint.check_s:g}"
        seen = [p for p in points if p.point_index in self._live]
        if self._passes(device):
            code = "mqtt.check_ok"
            return CheckResult(device, True, code, Problem.of("", code, seen=len(seen), points=len(points)).args)
        if problem is not None:
            return CheckResult(device, False, problem.code, problem.args)
        if not self.subscribed.is_set():
            return failed("mqtt.no_answer", timeout_s=f"{self._endpoint.timeout_s:g}")
        if device in self._refused:
            return failed("mqtt.subscription_refused", count=len(self._refused[device]),
                          named=named(self._refused[device]))
        if self._is_sparkplug and device in self._born:
            missing = [p.address.canonical for p in points if p.point_index not in self._live]
            return failed("mqtt.check_metrics_missing", count=len(missing), named=named(missing))
        told = [self._events[where] for where in self._places(points) if where in self._events]
        if told:
            return CheckResult(device, False, told[0].code, told[0].args)
        if self._is_sparkplug:
            return failed("mqtt.check_no_birth", wait_s=waited)
        if device in self._answered:
            return failed("mqtt.check_no_value", points=len(points))
        if any(p.point_index in self._retained for p in points):
            return failed("mqtt.check_only_retained", wait_s=waited)
        return failed("mqtt.check_no_message", wait_s=waited)

    def _places(self, points: Iterable[Point]) -> list[str]:
        """Return what events about these points are filed under: topics; nodes, and devices below them."""
        places = []
        for point in points:
            place = point.address.base.partition("#")[0]
            places += [place, place.rpartition("/")[0]] if self._is_sparkplug else [place]
        return places
