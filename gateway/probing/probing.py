"""Joins prober and reads to a running gateway: what they ask is sealed right behind the window they asked in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from config.gateway import GatewayConfig
from gateway.commissioning.state import State, write_json
from gateway.counting.registry import Registry
from gateway.counting.window import ClosedWindow, WindowClock, Windows
from gateway.probing import transcripts
from gateway.probing.certificate import probe_certificate
from gateway.probing.prober import Event, Prober, Target
from gateway.probing.reads import Reader, Reads, Round, Tap
from gateway.probing.schedule import Pace
from gateway.sealing.sealer import Sealer
from protocols.evidence import reads
from protocols.opcua.target import OpcUaEndpoint

NS_PER_S = 1_000_000_000
OnDisk = Callable[..., Awaitable[Any]]
"""Runs what blocks on the disk in the one thread for it, in order."""


class Probing:
    """Challenges to servers and reads at drawn instants, of one gateway process."""

    def __init__(self, config: GatewayConfig, state: State, sealer: Sealer, windows: Windows, clock: WindowClock,
                 tell: Event, on_disk: OnDisk, *, seen: Callable[[], Mapping[str, Any] | None] | None,
                 tap: Tap) -> None:
        """`seen`: the newest co-signed checkpoint, None without a platform: then nothing is ever asked."""
        self._config = config
        self._state = state
        self._sealer = sealer
        self._windows = windows
        self._clock = clock
        self._tell = tell
        self._on_disk = on_disk
        self._seen = seen
        self._tap = tap
        self._prober: Prober | None = None
        self._drivers: Mapping[str, Any] = {}
        self._has_server = asyncio.Event()
        self._reads: Reads | None = None
        self._keeping = asyncio.Lock()
        self._sealed_s: int | None = None  # start of the newest window in the log that this process sealed
        self._last_reads: dict[str, int] | None = None
        self._registry: Registry | None = None  # of which `_keys` were taken
        self._keys: frozenset[str] = frozenset()

    def start(self, drivers: Mapping[str, Any]) -> list[asyncio.Task[None]]:
        """Begin to ask. `drivers` by connection: what reads on demand, and what knows its server's certificate.

        It is looked up each time: whoever exchanges drivers in it calls `follow` afterwards.
        """
        self._drivers = drivers
        settings, seen = self._config.probing, self._seen
        if seen is None:
            return []
        self._reads = Reads(
            gateway=self._sealer.gateway, len_s=self._config.len_s, per_window=settings.reads_per_window,
            every_s=settings.reads_every_s, now_ns=self._clock.now_ns, seen=seen,
            registry_at=self._windows.registry_at, readers=self._readers(), tap=self._tap)
        tasks = [asyncio.create_task(self._reads.run(), name="reads")]
        if settings.opcua:
            if self._secured():
                self._prober = self._new_prober(seen)
                self._has_server.set()
            tasks.append(asyncio.create_task(self._challenge(seen), name="prober"))
        return tasks

    def follow(self, config: GatewayConfig) -> None:
        """Go on with another configuration, whose drivers are in place. Its [probing] is the same."""
        self._config = config
        if self._reads is not None:
            self._reads.follow(self._readers())
        if self._secured():
            self._has_server.set()

    async def _challenge(self, seen: Callable[[], Mapping[str, Any] | None]) -> None:
        """Challenge servers for ever, from the first one on that has a key."""
        await self._has_server.wait()
        if self._prober is None:
            self._prober = self._new_prober(seen)
        await self._prober.run()

    def _readers(self) -> list[Reader]:
        return [driver for driver in self._drivers.values() if hasattr(driver, "read_once")]

    def _secured(self) -> dict[str, OpcUaEndpoint]:
        """Return the endpoints whose servers have a key, of connections that are collected."""
        return {name: end for name, end in self._config.endpoints.items()
                if isinstance(end, OpcUaEndpoint) and end.is_secured and name in self._drivers}

    def _new_prober(self, seen: Callable[[], Mapping[str, Any] | None]) -> Prober:
        from gateway.probing.driver import ask  # a library that only OPC UA needs

        def targets() -> list[Target]:
            shown = ((end, getattr(self._drivers[name], "server_certificate", lambda: None)())
                     for name, end in self._secured().items())
            known = self._keys_in_force()
            found = [Target(endpoint=end, certificate=certificate) for end, certificate in shown if certificate]
            return [target for target in found if target.key in known]

        settings, len_s, journal = self._config.probing, self._config.len_s, self._sealer.journal
        return Prober(
            gateway=self._sealer.gateway, signer=lambda: bytes.fromhex(journal.history.key_at(journal.size)),
            certificate=lambda: probe_certificate(self._state.pki_dir, self._sealer.gateway),
            pace=Pace(every_s=settings.every_s, max_per_hour=settings.max_per_hour), len_s=len_s, targets=targets,
            seen=seen, start_s=self._open_s, tell=self._tell, ask=ask, keep=self._keep,
            remembered=self._state.probes())

    def _open_s(self) -> int:
        """Return the start of the window that is open now."""
        return self._clock.now_ns() // NS_PER_S // self._config.len_s * self._config.len_s

    def _keys_in_force(self) -> frozenset[str]:
        """Return the server keys that the rows in force name: one that was just shown waits for its roster."""
        registry = self._windows.registry_at(self._open_s())
        if registry is not self._registry:
            self._registry = registry
            self._keys = frozenset(row["server"]["spki_sha256"] for row in registry.device_rows)
        return self._keys

    async def _keep(self, body: Mapping[str, Any]) -> None:
        # Not on the thread that seals: a slow disk there must not make a challenge late for its window.
        async with self._keeping:
            with contextlib.suppress(OSError):  # the limits hold in this process; they are only not remembered
                await asyncio.to_thread(write_json, self._state.probes_file, body)

    async def window_sealed(self, window: ClosedWindow) -> None:
        """Take note that this window is in the log now, and seal the reads of it if it was drawn."""
        self._sealed_s = window.start_s
        drawn = self._reads.take(window.start_s, window.registry) if self._reads is not None else None
        if drawn is not None:
            await self._recorded(self._record_reads, drawn)

    async def seal_answers(self) -> int:
        """Seal the answers of servers that belong behind the newest window; return how many were sealed."""
        sealed = 0
        if self._prober is not None and self._sealed_s is not None:
            for fields in self._prober.take(self._sealed_s):
                sealed += await self._recorded(self._sealer.record, "probe", fields)
        return sealed

    def report(self) -> dict[str, Any]:
        """Return what `status` shows: see `Prober.report`; `reads`: the last round that was sealed, or null."""
        if self._prober is not None:
            report = self._prober.report()
        else:
            why = "off" if not self._config.probing.opcua else "no_nonce" if self._seen is None else "no_server"
            report = {"why": why, "servers": []}
        return {**report, "reads": self._last_reads}

    def _record_reads(self, drawn: Round) -> None:
        """Make the transcript durable, then seal the entry that commits to it."""
        rows, seq = drawn.rows, self._sealer.next_seq()
        transcripts.write(self._state.reads_dir, self._sealer.gateway, seq, rows)
        self._sealer.record("reads", {
            "start_s": drawn.start_s, "roster": self._sealer.journal.history.roster, "seen": drawn.seen,
            "rows": len(rows), "answered": drawn.answered, "root": reads.root(rows)})
        self._last_reads = {"start_s": drawn.start_s, "seq": seq, "rows": len(rows), "answered": drawn.answered}

    async def _recorded(self, work: Callable[..., object], *args: Any) -> bool:
        """Seal what is no window. A disk that does not take it costs this entry, not the gateway."""
        try:
            await self._on_disk(work, *args)
        except OSError as error:
            self._tell("probing.not_sealed", self._sealer.journal.where, reason=error.strerror or error)
            return False
        return True
