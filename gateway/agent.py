"""The gateway as a process: the only place where clock, disk, network and drivers are real and joined.

    drivers -> Intake (loop thread) -> windows -> sealer (one worker thread, disk) -> submitter (its own task)

Counting never waits: drivers call `Intake`, which only touches arrays. What blocks on the disk runs in one thread, in
order. The submitter and the exporter have their own queues; neither can hold a window open.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from config.gateway import GatewayConfig, load_gateway
from gateway import reload
from gateway.commissioning.connect import build_drivers
from gateway.commissioning.point_slots import Names
from gateway.commissioning.roster import Roster
from gateway.commissioning.state import State, write_json
from gateway.counting.figures import LocalFigures, Recent
from gateway.counting.kernel import Columns
from gateway.counting.rule import Rule
from gateway.counting.window import ClosedWindow, Gap, WindowClock, Windows
from gateway.crew import STOP_S, Crew
from gateway.identifying import Identifying
from gateway.intake import Intake
from gateway.keeping.retention import Limits, Retention, use_of
from gateway.probing import transcripts
from gateway.probing.probing import Probing
from gateway.sealing.disk import RealDisk
from gateway.sealing.journal import Journal
from gateway.sealing.link import Address
from gateway.sealing.receipts import RECEIPTS_BYTES_MAX
from gateway.sealing.sealer import Sealer, Software
from gateway.sealing.submitter import Submitter
from gateway.standing import Exchange, Standing
from gateway.web.facts import Facts
from gateway.web.live import Live
from protocols import system
from protocols.errors import ConfigError, EvidenceError, Problem, TallystickError
from protocols.evidence import column
from protocols.evidence.encoding import from_base64
from protocols.samples import PollBatch, SampleBatch
from protocols.terms.say import Say

if TYPE_CHECKING:
    from gateway.keeping.keeping import Keeping

log = logging.getLogger(__name__)

TICK_S = 0.1
RELOAD_LOOK_S = 1.0
REMEMBERED_S = 86_400
"""How much of the journal the local figures look back on: the freshness of the default basis."""

SWEEP_S = 3_600
RELEASE_S = 10
"""What windows, raw data and rosters leave free is given back at most so often: 10 MB at 100 000 points, half a ms."""

SEEN_AHEAD_S = 86_400
"""Promises end by window time, but never more than this beyond what a witness last co-signed: a clock may run away."""

MB = 2**20
EVENTS_KEPT = 50
Result = TypeVar("Result")


class Agent:
    """One gateway process. `run` collects, seals and submits until it is cancelled."""

    def __init__(self, config: GatewayConfig, say: Say) -> None:
        """Open the state folder.

        Raises: ConfigError when not enrolled, or not at the platform that is configured; EvidenceError when the
        journal is broken.
        """
        self._say = say
        self._events: list[dict[str, Any]] = []
        self._over_budget = False
        self._begun = False
        self.crew = Crew()
        self._reload_wanted = asyncio.Event()
        self._waiting: ClosedWindow | None = None  # for the disk's thread, to be sealed
        self._untold: ClosedWindow | None = None  # sealed, and not in status.json yet
        self.state = State(config.state_dir)
        enrolment = self.state.enrolment()
        if enrolment is None:
            raise ConfigError(Problem.of(str(config.file), "agent.not_enrolled", config=config.file.name))
        if config.platform is not None and "register" not in enrolment:
            raise ConfigError(Problem.of(str(config.file), "agent.self_with_platform", url=config.platform.url,
                                         gateway=self.state.gateway_id()))
        self._enrolment = enrolment
        self._disk = ThreadPoolExecutor(1, "disk")
        self.journal = Journal(RealDisk(self.state.journal_dir), where=str(self.state.journal_dir))
        self.sealer = Sealer(self.journal, self.state.gateway_keys(), self.tell, clock_source=clock_source)
        self.sealer.enrol(enrolment["certificate"])
        self.standing = Standing(config, self.state, self._on_disk)
        self.clock = WindowClock()
        self.rule = Rule(
            len_s=config.len_s, grace_ms=config.window.grace_ms, max_source_age_s=config.window.max_source_age_s,
            usable=tuple(config.window.usable), queued_samples=config.limits.queued_samples)
        self.windows = Windows(self.standing.registry(), self.rule, self.clock)
        self.intake = Intake(self.windows, self.tell)
        self.recent = Recent()
        self.figures: LocalFigures | None = None  # and below, what was last written to status.json
        self.status: dict[str, Any] | None = None
        self.software = Software(version=version("tallystick"), sha256="")
        self._begun_s = int(time.time())
        if config.web is not None:
            self.intake.live = Live(self.windows.registry.devices, self.windows.registry.owner,
                                    values=config.web.values)
        self.submitter: Submitter | None = None
        if config.platform is not None:
            address = Address(url=config.platform.url, ca_file=config.platform_ca, proxy=config.platform.proxy,
                              answer_s=config.platform.timeout_s)
            # Receipts may take an eighth of the disk budget; entries are evidence and are never deleted.
            self.submitter = Submitter(
                address, self.sealer, enrolment, self.tell, register_poll_s=config.platform.register_poll_s,
                receipts_bytes_max=min(RECEIPTS_BYTES_MAX, config.limits.disk_budget_mb * MB // 8))
        self.retention = Retention(
            Limits(budget_bytes=config.limits.disk_budget_mb * MB, raw_bytes=config.keep.budget_mb * MB,
                   receipts_bytes=min(RECEIPTS_BYTES_MAX, config.limits.disk_budget_mb * MB // 8),
                   retain_s=config.keep.retain_days * 86_400, transcripts_s=config.keep.transcripts_days * 86_400),
            measure=lambda: use_of(config.state_dir, self.journal.branch.log), journal=self.journal.disk,
            thin=(lambda most: None) if self.submitter is None else self.submitter.limit_receipts,
            expire_reads=lambda before_s: transcripts.expire(self.state.dir / transcripts.FOLDER, before_s))
        self._swept_s = 0
        self._released_s = 0
        self.keeping: Keeping | None = None
        if config.keep.raw:
            from gateway.keeping import keeping  # pyarrow: only for who keeps raw data

            self.keeping = keeping.Keeping(
                RealDisk(self.state.raw_dir), self.windows, self.retention, memory_bytes=config.keep.memory_mb * MB,
                record=lambda kept: self._on_disk(keeping.seal_promise, self.sealer, kept), event=self.tell,
                now_ns=self.clock.now_ns)
        self.probing = Probing(
            config, self.state, self.sealer, self.windows, self.clock, self.tell, self._on_disk,
            seen=None if self.submitter is None else self._seen, tap=self._set_tap)
        self.identifying = Identifying(self.standing, self.crew.drivers, self.windows.adopt, self.tell,
                                       every_s=config.identity.every_s)

    @property
    def config(self) -> GatewayConfig:
        """The configuration in force."""
        return self.standing.config

    @property
    def roster(self) -> Roster:
        """The roster of that configuration, possibly not in force before the next window."""
        return self.standing.roster

    def tell(self, code: str, where: str, **args: object) -> None:
        """Log an event and keep it for the status page."""
        log.warning("%s: %s", where, self._say(code, where=where, **args))
        self._events.append({"time_s": int(time.time()), "code": code, "where": where,
                             "args": {name: str(value) for name, value in args.items()},
                             "message": self._say.english(code, where=where, **args)})
        del self._events[:-EVENTS_KEPT]

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Collect, seal and submit until cancelled; then leave word of a clean stop."""
        tasks: list[asyncio.Task[None]] = []
        clean = False
        try:
            await self._begin()
            drivers = build_drivers(self.config, self.roster, self.intake, self.clock.now_ns)
            async with contextlib.AsyncExitStack() as stack:
                self._start_exporter(stack)
                if self.config.web is not None and self.intake.live is not None:
                    from gateway.web.server import Page  # templates and a server: only for who wants the page

                    page = Page(self.config.web, self._say, self._facts, self.intake.live, self.tell)
                    tasks.append(asyncio.create_task(page.run(), name="page"))
                if self.submitter is not None:
                    tasks.append(asyncio.create_task(self.submitter.run(), name="submitter"))
                await self._on_disk(system.release_memory)  # reading 100 000 points took 100 MB for a moment
                await self._until_open()
                ready()
                self.crew.start(drivers)
                tasks += [asyncio.create_task(work, name=name) for name, work in (
                    ("drivers", self.crew.watch()), ("tick", self._tick()), ("reload", self._reloads()))]
                tasks += self.probing.start(self.crew.drivers)
                if self.config.identity.read:
                    tasks.append(asyncio.create_task(self.identifying.run(), name="identity"))
                if self.keeping is not None:
                    tasks.append(asyncio.create_task(self.keeping.run(), name="keeping"))
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()  # a driver never returns; what it raises ends the gateway loudly
        except asyncio.CancelledError:
            clean = True
            raise
        finally:
            for task in tasks:
                task.cancel()
            await self.crew.stop(list(self.crew.drivers))
            if tasks:
                await asyncio.wait(tasks, timeout=STOP_S)
            if self.submitter is not None:  # its task may not have begun: the size is asked before
                await self.submitter.close()
            await self._stop(clean)

    async def _begin(self) -> None:
        """Compare sizes with the platform, take its tail over if it is ahead, and seal start, outage and roster."""
        size = None
        if self.submitter is not None:
            size = await self.submitter.compare()
        self.software = Software(version=version("tallystick"), sha256=await self._on_disk(software_digest))
        await self._on_disk(self.sealer.begin, software=self.software, rule=self.rule, registry=self.windows.registry,
                            opens_s=self.windows.opens_s, platform_size=size)
        self._begun = True
        await self._on_disk(self._remember)
        registry = self.windows.registry
        self.retention.grows(registry.devices, registry.points, self.config.len_s)
        if self.keeping is not None:
            await self.keeping.begin(self.journal)
        await self._on_disk(self._sweep, self.windows.opens_s)

    def _remember(self) -> None:
        """Take the windows of the last day from the journal: the figures of the page do not start at zero."""
        newest: int | None = None
        found = []
        for seq in range(self.journal.size - 1, -1, -1):
            value = self.journal.entry(seq)
            if value["type"] != "window":
                continue
            end_s = value["start_s"] + value["len_s"]
            newest = end_s if newest is None else newest
            if end_s <= newest - REMEMBERED_S:
                break
            bits = [int.from_bytes(from_base64(value["columns"][name], where="journal"), "little")
                    for name in column.NAMES]
            found.append((end_s, Columns(*bits)))
        for end_s, columns in reversed(found):
            self.recent.add_columns(end_s, columns)
        if found and self.config.web is not None:  # the page does not wait for the first window
            self.figures = self.recent.figures(self.windows.registry)

    def _sweep(self, now_s: int) -> None:
        """Delete what may go from the state folder. Told once when what stays passes its budget: sealing goes on."""
        seen = self._seen()
        self._swept_s = now_s
        retention = self.retention
        retention.sweep(self.journal.branch, now_s=now_s if seen is None else min(now_s, seen["time_s"] + SEEN_AHEAD_S),
                        wall_s=time.time())
        over = retention.over_bytes > 0
        if over and not self._over_budget:
            self.tell("agent.disk_over", str(self.config.state_dir), used_mb=sum(retention.use.values()) // MB,
                      budget_mb=self.config.limits.disk_budget_mb)
        self._over_budget = over

    async def _until_open(self) -> None:
        """Wait for the first window: what arrives before it would only be counted as late."""
        await asyncio.sleep(max(0.0, self.windows.opens_s - self.clock.now_ns() / 1e9))

    async def _tick(self) -> None:
        while True:
            self.intake.flush()
            sealed = False
            for item in self.windows.due():
                if item is None:  # a large window is closed in parts
                    await asyncio.sleep(0)
                else:
                    await self._seal(item)
                    sealed = True
                self.intake.flush()  # the next step may set the clock anew: what came before has the old one
            if await self.probing.seal_answers() or sealed:
                if self.submitter is not None:
                    self.submitter.grew()
                await self.standing.follow_server_keys(self.crew.drivers, self.windows.adopt)
            await asyncio.sleep(TICK_S)

    async def _seal(self, item: ClosedWindow | Gap) -> None:
        if isinstance(item, Gap):
            self.sealer.gap(item)
            return
        self._waiting = item
        seq = await self._on_disk(self._seal_window, item, self._seen(), asyncio.get_running_loop())
        if seq is not None:
            await self.probing.window_sealed(item)
        await self._tell_status(item)
        if item.start_s >= self._swept_s + SWEEP_S:
            await self._beside_the_log(self._sweep, item.start_s + item.len_s)
        if abs(item.start_s - self._released_s) >= RELEASE_S:
            self._released_s = item.start_s
            await self._on_disk(system.release_memory)

    async def _tell_status(self, item: ClosedWindow) -> None:
        await self._beside_the_log(self._report, item, list(self._events), self.probing.report(),
                                   self.identifying.report())
        self._untold = None

    def _seal_window(self, item: ClosedWindow, seen: Mapping[str, Any] | None,
                     loop: asyncio.AbstractEventLoop) -> int | None:
        """Return the seq of a window that is sealed now, None if the disk did not take it. In the disk's thread."""
        self._waiting = None
        seq = self.journal.size - 1 if self.sealer.seal(item, seen) else None
        # From here: who waits for this may be cancelled, and it is sealed all the same.
        self._untold = item
        if seq is not None:
            loop.call_soon_threadsafe(self.recent.add, item)
        if self.keeping is not None:
            loop.call_soon_threadsafe(self.keeping.sealed, item, seq)
        return seq

    def _seen(self) -> Mapping[str, Any] | None:
        return self.submitter.seen if self.submitter is not None else None

    def _set_tap(self, tap: Callable[[SampleBatch | PollBatch], None] | None) -> None:
        self.intake.tap = tap

    def request_reload(self) -> None:
        """Read the configuration anew, soon. Call it on the loop."""
        self._reload_wanted.set()

    async def _reloads(self) -> None:
        """Take over a changed configuration whenever somebody asks for it, by signal or through the state folder."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reload_wanted.wait(), RELOAD_LOOK_S)
            number = None
            with contextlib.suppress(OSError):
                number = await asyncio.to_thread(reload.asked, self.state.dir)
            if number is None and not self._reload_wanted.is_set():
                continue
            self._reload_wanted.clear()
            result, exchange = await self._reload()
            for problem in result.problems[:reload.PROBLEMS_MAX]:
                log.warning("%s: %s", problem.where, self._say(problem.code, where=problem.where, **dict(problem.args)))
            self.tell(result.code, self.config.file.name, **result.args)
            if number is not None:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(reload.answer, self.state.dir, number, result)
            if exchange is not None:
                await self._exchange_drivers(exchange)

    async def _reload(self) -> tuple[reload.Result, Exchange | None]:
        """Read the files, and take over what they say: all of it, or nothing and the reason."""
        try:
            config = await asyncio.to_thread(load_gateway, self.config.file)
            keys = reload.needs_restart(self.config, config)
            if keys:
                return reload.Result(ok=False, code="reload.needs_restart", args={"keys": ", ".join(keys)}), None
            exchange = await self.standing.exchange(config, self.intake, self.clock.now_ns, self.windows.adopt)
        except TallystickError as error:
            return reload.Result(ok=False, code="reload.refused", args={"problems": len(error.problems)},
                                 problems=error.problems), None
        except OSError as error:
            return reload.Result(ok=False, code="reload.not_written", args={"reason": error.strerror or error}), None
        changes = exchange.changes
        if not changes.touched and not exchange.is_new_roster:
            return reload.Result(ok=True, code="reload.nothing", args={}), exchange
        return reload.Result(ok=True, code="reload.done", args={
            "devices": len(config.devices), "points": len(config.points), "kept": len(changes.kept),
            "touched": ", ".join(changes.touched) or "-",
            "since": datetime.fromtimestamp(exchange.at_s).astimezone().isoformat(sep=" ")}), exchange

    async def _exchange_drivers(self, exchange: Exchange) -> None:
        """At the window from which the roster is in force, end the connections that changed and begin the new ones."""
        registry, changes = self.windows.registry, exchange.changes
        self.retention.grows(registry.devices, registry.points, self.config.len_s)
        if self.intake.live is not None:
            self.intake.live.grow(registry.devices, registry.owner)
        if changes.touched:
            left_s = exchange.at_s - self.clock.now_ns() / 1e9
            while 0 < left_s <= 2 * self.config.len_s:  # further away: the clock was set, and nobody waits for that
                await asyncio.sleep(min(left_s, RELOAD_LOOK_S))
                left_s = exchange.at_s - self.clock.now_ns() / 1e9
            await self.crew.stop(changes.stop)
            self.intake.offline(exchange.devices, self.clock.now_ns())
            self.crew.start(exchange.drivers)
        self.probing.follow(self.config)

    def _start_exporter(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.config.influx
        if settings is None:
            return
        from gateway.exporters.influx import InfluxExporter  # a library that only this option needs

        token = "" if settings.token_file is None else \
            (self.config.file.parent / settings.token_file).read_text(encoding="utf-8").strip()
        made: tuple[object, Names] | None = None

        def series() -> Names:
            nonlocal made
            roster = self.roster
            if made is None or made[0] is not roster:
                made = roster, Names([device.id for device in roster.devices], roster.points)
            return made[1]

        exporter = InfluxExporter(settings, token, series)
        exporter.start()
        self.intake.export = exporter.put
        stack.callback(exporter.close)
        stack.callback(self.intake.flush)  # called first: what waits is exported too

    def _report(self, window: ClosedWindow, events: list[dict[str, Any]], probing: dict[str, Any],
                identity: dict[str, Any]) -> None:
        """Write status.json for `tallystick status` and the local page."""
        figures = self.recent.figures(window.registry)
        status = {
            "gateway": self.sealer.gateway, "site": self.config.site, "uscc": self.config.uscc,
            "written_s": int(time.time()), "len_s": self.config.len_s,
            "window": {"start_s": window.start_s, "received": window.received, "counted": window.counted,
                       "discarded": dict(window.discarded), "offset_ms": window.offset_ms,
                       "step_ms": window.step_ms},
            "devices": {"configured": figures.configured, "counted": figures.counted,
                        "not_counted": [{"id": self.roster.devices[slot].id, "slot": slot, "reason": reason,
                                         "name": self.roster.devices[slot].private["name"]}
                                        for slot, reason in sorted(figures.reasons.items())]},
            "log": {"size": self.journal.size,
                    "submitted": self.submitter.submitted if self.submitter is not None else None,
                    "proven": self.submitter.proven if self.submitter is not None else None},
            "said": None if self.submitter is None else self.submitter.said(),
            "probing": probing, "identity": identity,
            "disk": {"budget": self.retention.limits.budget_bytes, "use": dict(self.retention.use)},
            "keep": None if self.keeping is None else self.keeping.report(),
            "events": events}
        self.figures, self.status = figures, status
        write_json(self.state.status_file, status)

    def _facts(self) -> Facts:
        """Return the present for the local page. On the loop thread; copies what goes on changing."""
        live, roster = self.intake.live, self.roster
        assert live is not None, "there is a page"
        if len(roster.devices) > live.heard_ns.size or len(roster.points) > live.points:
            live.grow(len(roster.devices), roster.points.rows.devices())
        offsets = {name: getattr(driver, "clock_offset_s", lambda: None)()
                   for name, driver in self.crew.drivers.items()}
        return Facts(
            config=self.config, roster=roster, status=self.status, figures=self.figures, events=tuple(self._events),
            now_ns=self.clock.now_ns(), begun_s=self._begun_s, opens_s=self.windows.opens_s,
            heard_ns=live.heard_ns.copy(), is_online=live.is_online.copy(), servers=dict(self.standing.server_keys),
            offsets={name: offset for name, offset in offsets.items() if offset is not None},
            gateway=self.sealer.gateway, keys=self.journal.history.keys, enrolment=self._enrolment, seen=self._seen(),
            version=self.software.version, software_sha256=self.software.sha256, clock_source=clock_source())

    async def _stop(self, clean: bool) -> None:
        """Seal what has ended, and leave word that the stop was clean; the window it cuts becomes an outage.

        After an error nothing more is sealed, as it may be sealing that must stop: what is missing was a crash.
        """
        try:
            if self._begun and clean:
                # Asked in the disk's thread: what that has begun it has done by then, what it has not was called off.
                waiting = await self._on_disk(lambda: self._waiting)
                self.intake.flush()
                items, cut_samples = self.windows.finish()
                for item in items if waiting is None else [waiting, *items]:
                    await self._seal(item)
                await self.probing.seal_answers()
                if self._untold is not None:  # the stop came between a window and its status
                    await self._tell_status(self._untold)
                if self.keeping is not None:  # what takes longer is finished at the next start
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.keeping.finish(), STOP_S)
                await self._on_disk(self.sealer.stop, cut_samples)
        except (OSError, EvidenceError) as error:
            log.warning("the clean stop could not be noted: %s", error)
        finally:
            if self.keeping is not None:
                self.keeping.close()
            self.journal.close()
            self._disk.shutdown(wait=False)

    async def _beside_the_log(self, work: Callable[..., None], *args: Any) -> bool:
        """Write what is no evidence; return False when the disk does not take it, which is no reason to stop counting.

        It is tried again after the next window. What the log lost itself is told by the sealer.
        """
        try:
            await self._on_disk(work, *args)
        except OSError as error:
            log.warning("not written: %s", error)
            return False
        return True

    async def _on_disk(self, work: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Run what blocks on the disk in the one thread for it."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, lambda: work(*args, **kwargs))


def clock_source() -> str:
    """Return whether this machine's clock is told to be synchronised. Only systemd-timesyncd leaves such a mark."""
    return "ntp" if Path("/run/systemd/timesync/synchronized").exists() else "system"


def software_digest() -> str:
    """Return the digest of every source file of gateway, config and protocols as installed: what `start` names."""
    digest = hashlib.sha256()
    for package in ("config", "gateway", "protocols"):
        root = resources.files(package)
        with resources.as_file(root) as folder:
            for file in sorted(folder.rglob("*.py")):
                digest.update(f"{package}/{file.relative_to(folder).as_posix()}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


async def run_gateway(config: GatewayConfig, say: Say, ready: Callable[[], None] = lambda: None) -> None:
    """Run a gateway until cancelled."""
    agent = Agent(config, say)
    with system.hanging_up(agent.request_reload):
        await agent.run(ready)
