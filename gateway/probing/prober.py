"""Carries out what the schedule decides: challenges to the servers that drivers are connected to, and their answers.

An answer belongs to the window in which it was asked for: it is handed out for sealing right behind that window, so
that `start_s` of a probe is always the start of the newest window before it in the log. What comes later is let go.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.probing.certificate import ProbeCertificate, spki_of
from gateway.probing.schedule import HOUR_S, JITTER, RETRY_MAX_S, Pace, Schedule, Server
from protocols.errors import ConfigError, DeviceError, Problem
from protocols.evidence import keys, probe
from protocols.evidence.encoding import to_base64
from protocols.opcua.target import SECURITY_POLICIES, OpcUaEndpoint

TICK_S = 0.5
DEADLINE_S = 10.0
"""For one challenge. Never longer than a window: an answer must find its own window or the one behind it."""
LATE_S = 60.0
"""An answer whose window never comes, as the clock was set back, is let go after two windows and this."""

FORMAT = 1
ARG_CHARS_MAX = 500
Event = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One secured connection: its endpoint, and the certificate (DER) that its server proved."""

    endpoint: OpcUaEndpoint
    certificate: bytes

    @property
    def spki(self) -> bytes:
        """DER SubjectPublicKeyInfo of the server."""
        return spki_of(self.certificate)

    @property
    def key(self) -> str:
        """Digest of the server's key: several connections may lead to one."""
        return probe.spki_sha256(self.spki)


Ask = Callable[..., Awaitable[bytes]]
"""As `gateway.probing.driver.ask`."""


@dataclass(slots=True)
class _Told:
    """What is known of one server key, in wall-clock seconds: for `status`, and for the run after this."""

    connections: list[str]
    asked_s: list[int] = field(default_factory=list)
    answered_s: int | None = None
    code: str = ""
    args: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Answer:
    start_s: int
    endpoint: str
    fields: Mapping[str, Any]
    at_s: float


class Prober:
    """Challenges server keys for ever. Everything real is an argument; `take` hands out what is to be sealed."""

    def __init__(self, *, gateway: str, signer: Callable[[], bytes], certificate: Callable[[], ProbeCertificate],
                 pace: Pace, len_s: int, targets: Callable[[], Sequence[Target]],
                 seen: Callable[[], Mapping[str, Any] | None], start_s: Callable[[], int], tell: Event, ask: Ask,
                 keep: Callable[[Mapping[str, Any]], Awaitable[object]], remembered: object = None,
                 monotonic_s: Callable[[], float] = time.monotonic, wall_s: Callable[[], float] = time.time,
                 rng: random.Random | None = None) -> None:
        """Prepare; nothing is sent.

        Args:
            signer: raw public key that signs the log now. certificate: blocks, may make the certificate.
            start_s: start of the window that is open now. keep: write what `remembered` was, before a server is asked,
            so that a gateway that is started again and again asks no more often. seen: None means nothing is asked.
        """
        self._gateway = gateway
        self._signer = signer
        self._certificate = certificate
        self._pace = pace
        self._len_s = len_s
        self._deadline_s = min(DEADLINE_S, float(len_s))
        self._targets = targets
        self._seen = seen
        self._start_s = start_s
        self._tell = tell
        self._ask = ask
        self._keep = keep
        self._monotonic_s = monotonic_s
        self._wall_s = wall_s
        self._rng = rng or random.Random()
        self._own: ProbeCertificate | None = None
        self._said: dict[str, str] = {}  # server key -> the trouble that was told last, in this run
        self._told: dict[str, _Told] = {}
        self.schedule = Schedule(pace, self._remember(remembered))
        self._answers: list[_Answer] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0

    async def run(self) -> None:
        """Challenge until cancelled. No server and no answer ends it."""
        try:
            while True:
                self.step()
                await asyncio.sleep(TICK_S)
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def step(self) -> None:
        """Ask those that are due now."""
        if self._seen() is None:
            return
        by_key: dict[str, list[Target]] = {}
        for target in self._targets():
            by_key.setdefault(target.key, []).append(target)
        now_s = self._monotonic_s()
        self.schedule.know(by_key, now_s, self._rng.random())
        for key in self.schedule.due(now_s):
            targets = by_key[key]
            self._turn += 1
            told = self._told.setdefault(key, _Told([]))
            told.connections = sorted(target.endpoint.name for target in targets)
            wall_s = int(self._wall_s())
            told.asked_s = [*(at for at in told.asked_s if wall_s - HOUR_S < at <= wall_s), wall_s]
            task = asyncio.create_task(self._probe(key, targets[self._turn % len(targets)]), name=f"probe {key[:8]}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def take(self, newest_start_s: int) -> list[Mapping[str, Any]]:
        """Return the fields of the `probe` entries that belong right behind the window that starts then, just sealed.

        Answers of a window that is further behind are told and let go.
        """
        waiting, found = [], []
        for answer in self._answers:
            if answer.start_s == newest_start_s:
                found.append(answer.fields)
            elif answer.start_s < newest_start_s or \
                    self._monotonic_s() - answer.at_s > 2 * self._len_s + LATE_S:
                self._tell("probing.late", "probing", endpoint=answer.endpoint)
            else:
                waiting.append(answer)
        self._answers = waiting
        return found

    def report(self) -> dict[str, Any]:
        """Return what `status` shows: each server key, and why none was asked if none was."""
        why = None
        if not self._told:
            why = "no_nonce" if self._seen() is None else "no_server" if not self._targets() else "soon"
        return {"why": why, "servers": [
            {"server": key, "connections": told.connections, "asked_s": told.asked_s[-1] if told.asked_s else None,
             "answered_s": told.answered_s, "code": told.code, "args": told.args}
            for key, told in sorted(self._told.items())]}

    # One challenge

    async def _probe(self, key: str, target: Target) -> None:
        end = target.endpoint
        try:
            await self._keep(self._kept())
            if self._own is None:
                self._own = await asyncio.to_thread(self._certificate)
            own = self._own
            seen, start_s = self._seen(), self._start_s()
            assert seen is not None, "a nonce that was known is known"
            c = probe.challenge(seen, gateway_spki=keys.spki(self._signer()), start_s=start_s, server_spki=target.spki)
            signature = await self._ask(end, server_certificate=target.certificate, own=own, gateway=self._gateway,
                                        c=c, deadline_s=self._deadline_s)
        except (DeviceError, ConfigError) as error:
            self._failed(key, error.problems[0])
        except asyncio.CancelledError:
            raise
        except Exception as error:  # probing must never end the gateway
            self._failed(key, Problem.of(end.name, "probing.failed", endpoint=end.url,
                                         reason=f"{type(error).__name__}: {error}"[:200]))
        else:
            self._answered(key, end)
            self._answers.append(_Answer(start_s, end.url, {
                "start_s": start_s, "seen": dict(seen), "policy_uri": SECURITY_POLICIES[end.security_policy],
                "server_spki": to_base64(target.spki), "client_certificate": to_base64(own.certificate), "c": c.hex(),
                "signature": to_base64(signature)}, self._monotonic_s()))
        await self._keep(self._kept())

    def _answered(self, key: str, end: OpcUaEndpoint) -> None:
        self.schedule.answered(key, self._rng.random())
        told = self._told[key]
        if self._said.pop(key, None) is not None:
            self._tell("probing.back", end.name, endpoint=end.url)
        told.code, told.args, told.answered_s = "probing.ok", {}, int(self._wall_s())

    def _failed(self, key: str, problem: Problem) -> None:
        """Say once why a server does not answer, and again only when the cause is another one."""
        self.schedule.failed(key, self._monotonic_s(), self._rng.random())
        self._own = None  # looked at anew: it may have run out, or have been made when the clock was wrong
        told = self._told[key]
        if self._said.get(key) != problem.code:
            self._tell(problem.code, problem.where, **dict(problem.args))
        self._said[key] = problem.code
        told.code, told.args = problem.code, {name: value[:ARG_CHARS_MAX] for name, value in problem.args}

    # Over a restart

    def _kept(self) -> dict[str, Any]:
        now_s, wall_s = self._monotonic_s(), self._wall_s()
        servers = {}
        for key, told in self._told.items():
            server = self.schedule.servers.get(key)
            if server is not None:
                servers[key] = {"connections": told.connections, "asked_s": told.asked_s,
                                "answered_s": told.answered_s, "code": told.code, "args": told.args,
                                "failures": server.failures, "due_s": int(wall_s + server.due_s - now_s)}
        return {"format": FORMAT, "servers": servers}

    def _remember(self, body: object) -> dict[str, Server]:
        """Read what `_kept` wrote. It is no evidence: what cannot be read is as if it were not there.

        A time in the future, after a step of the clock, counts as now; no wait is longer than the longest there is.
        """
        found: dict[str, Server] = {}
        now_s, wall_s = self._monotonic_s(), self._wall_s()
        longest_s = max(RETRY_MAX_S, self._pace.every_s) * (1 + JITTER)
        try:
            assert isinstance(body, dict) and body["format"] == FORMAT
            for key, value in body["servers"].items():
                asked_s = sorted(int(at) for at in value["asked_s"])
                ages = [max(0.0, wall_s - at) for at in asked_s]
                due_s = min(longest_s, float(value["due_s"]) - wall_s)
                server = Server(due_s=now_s + due_s, failures=int(value["failures"]),
                                asked_s=tuple(now_s - age for age in ages if age < HOUR_S))
                if ages and due_s <= 0:  # in flight when this was written: whoever stopped us then, it was no answer
                    server = server.failed(now_s - ages[-1], self._pace, 0.0)
                found[str(key)] = server
                answered_s = value["answered_s"]
                self._told[str(key)] = _Told(
                    [str(name) for name in value["connections"]], asked_s,
                    None if answered_s is None else int(answered_s), str(value["code"]),
                    {str(name): str(arg) for name, arg in value["args"].items()})
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError, OverflowError):
            self._told.clear()
            return {}
        return found
