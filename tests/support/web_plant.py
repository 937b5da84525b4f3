"""A gateway that is not run, with windows put in by hand: what its page would be told, for tests of the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from aiohttp import web

from config.gateway import load_gateway
from config.web import WebPage
from gateway.agent import Agent
from gateway.commissioning.enrol import enrol_alone
from gateway.commissioning.identity import Finding
from gateway.commissioning.state import State
from gateway.counting.kernel import Columns
from gateway.counting.window import ClosedWindow
from gateway.web.facts import NS_PER_S, Facts
from gateway.web.live import Live
from gateway.web.server import Page
from protocols.terms.vocabulary import DISCARD_REASONS
from tallystick.words.lookup import Words
from tests.unit.gateway.commissioning.plants import LINE, write

WEB = '[web]\nlisten = "127.0.0.1:8421"\n'


class WebPlant:
    """The agent of a plant, and the page over it. Close it."""

    def __init__(self, folder: Path, devices: Sequence[str], points: Sequence[str], *, head: str = WEB,
                 connections: str = LINE, site: str = "一号车间", lang: str = "zh") -> None:
        self.config = load_gateway(write(folder, devices, points, head=head, tail=connections, site=site))
        state = State(self.config.state_dir)
        state.create_keys()
        enrol_alone(self.config, state, None)
        self.agent = Agent(self.config, Words(lang))
        self.slots = self.agent.roster.device_slots()
        assert self.agent.intake.live is not None
        self.live: Live = self.agent.intake.live
        assert self.config.web is not None
        self.where: WebPage = self.config.web
        self.told: list[tuple[str, dict[str, object]]] = []

    def close(self) -> None:
        """Let go of the disk."""
        self.agent.journal.close()
        self.agent._disk.shutdown()

    def window(self, producing: Iterable[str] = (), connected: Iterable[str] = (),
               changing: Iterable[str] = (), contradictions: Sequence[Finding] = ()) -> None:
        """Seal a window, as far as the page can see, in which these devices did so; with all of their points."""
        bits = {name: self._points(ids) for name, ids in (("producing", producing), ("changing", changing))}
        devices = sum(1 << self.slots[id_] for id_ in {*connected, *producing, *changing})
        columns = Columns(devices, bits["producing"] | bits["changing"], bits["producing"] | bits["changing"],
                          bits["changing"])
        windows, len_s = self.agent.windows, self.config.len_s
        window = ClosedWindow(start_s=windows.opens_s - len_s, len_s=len_s, registry=windows.registry, columns=columns,
                              received=7, counted=5, discarded=dict.fromkeys(DISCARD_REASONS, 0) | {"stale": 2})
        self.agent.recent.add(window)
        self.agent.identifying._findings = list(contradictions)
        self.agent._report(window, list(self.agent._events), self.agent.probing.report(),
                           self.agent.identifying.report())

    def _points(self, ids: Iterable[str]) -> int:
        slots = {self.slots[id_] for id_ in ids}
        return sum(1 << at for at, point in enumerate(self.agent.roster.points) if point.row["device"] in slots)

    def point(self, device: str, id_: str) -> int:
        """Return the slot of a point."""
        return next(at for at, point in enumerate(self.agent.roster.points)
                    if point.id == id_ and point.row["device"] == self.slots[device])

    def now_ns(self) -> int:
        """Return window time."""
        return self.agent.clock.now_ns()

    def heard(self, *ids: str, ago_s: float = 0) -> None:
        """These devices answered, so long ago."""
        self.agent.intake.answered([self.slots[id_] for id_ in ids], self.now_ns() - int(ago_s * NS_PER_S))

    def facts(self) -> Facts:
        """Return the present."""
        return self.agent._facts()

    def tell(self, code: str, _where: str, **args: object) -> None:
        """Take an event of the page."""
        self.told.append((code, args))

    def page(self, where: WebPage | None = None) -> Page:
        """Return the page."""
        return Page(where or self.where, Words("en"), self.facts, self.live, self.tell)

    def application(self) -> web.Application:
        """Return the page's application."""
        return self.page().application()
