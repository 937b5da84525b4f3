"""A changed configuration in a running gateway: what may change, and which connections notice. No socket, no task.

The configuration in force is always one whole file: what needs a restart makes the reload change nothing at all.
docs/decisions/hot-reload.md says why.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.gateway import Endpoint, GatewayConfig
from gateway.commissioning.connect import Aims
from protocols import system
from protocols.errors import Problem

MOVABLE = frozenset({"devices_file", "points_file", "templates_file", "ledger_date", "ledger_sha256", "endpoints",
                     "protocols", "server_devices", "devices", "points"})
"""What of a configuration may change while the gateway runs: the ledger and the connections."""

KEYS = {"site": "gateway.site", "uscc": "gateway.uscc", "state_dir": "gateway.state_dir", "len_s": "window.len_s",
        "platform_ca": "platform.ca_file"}
"""Fields that are not the name of their table -> the key as it stands in the file."""

REQUEST, ANSWER = "reload.json", "reloaded.json"
"""Files of the state folder: `tallystick reload` asks, the gateway answers. So it works where there are no signals."""

ANSWER_S = 120
"""For so long an answer is waited for: a ledger of 100 000 points takes seconds."""

FILE_BYTES_MAX = 1 << 20
PROBLEMS_MAX = 50


def needs_restart(old: GatewayConfig, new: GatewayConfig) -> list[str]:
    """Return the keys that differ and are taken over at a start only."""
    names = [field.name for field in dataclasses.fields(GatewayConfig) if field.name not in MOVABLE]
    keys = [KEYS.get(name, name) for name in names if getattr(old, name) != getattr(new, name)]
    return [key for key in keys if key.rpartition(".")[0] not in keys]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Connections by what a reload does to them. stop: end their driver. start: give them one."""

    kept: frozenset[str]
    stop: frozenset[str]
    start: frozenset[str]

    @property
    def touched(self) -> list[str]:
        """Return the connections that notice, in order of name."""
        return sorted(self.stop | self.start)


def changes(old: GatewayConfig, old_aims: Aims, new: GatewayConfig, new_aims: Aims) -> Changes:
    """Compare connections: the same endpoint and the same points in the same slots keep their driver and session.

    Where a row stands in its file does not matter, nor does the id of a point or a device that kept its slot.
    """
    before = {name for name, aimed in old_aims.items() if aimed}
    after = {name for name, aimed in new_aims.items() if aimed}
    kept = frozenset(
        name for name in before & after
        if _endpoint(old.endpoints[name]) == _endpoint(new.endpoints[name])
        and _points(old_aims[name]) == _points(new_aims[name]))
    return Changes(kept=kept, stop=frozenset(before - kept), start=frozenset(after - kept))


def _endpoint(endpoint: Endpoint) -> tuple[object, ...]:
    return type(endpoint), *(getattr(endpoint, field.name) for field in dataclasses.fields(endpoint)
                             if field.name != "where")


def _points(aimed: list[Any]) -> list[tuple[object, ...]]:
    return [(slot, device, point.type, point.address, point.order, point.scale, point.offset, point.labels)
            for slot, device, point in aimed]


# Asking and answering, through the state folder


def is_running(journal: Path) -> bool:
    """Return whether a gateway has this journal: it holds the lock as long as it lives."""
    if not journal.is_dir():
        return False
    try:
        os.close(system.lock(journal))
    except BlockingIOError:
        return True
    return False


def ask(state: Path) -> str:
    """Ask the gateway of this state folder to reload; return what its answer will be known by."""
    number = secrets.token_hex(8)
    system.replace(state / REQUEST, json.dumps({"id": number}).encode())
    return number


def asked(state: Path) -> str | None:
    """Return the id of a request, and take the request away; None if nobody asked."""
    path = state / REQUEST
    if not path.exists():
        return None
    body = _read(path)
    path.unlink(missing_ok=True)
    return str(body.get("id", ""))[:64]


def answer(state: Path, number: str, result: Result) -> None:
    """Leave word of how a request ended. Raises OSError."""
    system.replace(state / ANSWER, json.dumps({"id": number, **result.body()}).encode())


def answered(state: Path, number: str) -> dict[str, Any] | None:
    """Return the answer to a request, None while there is none."""
    body = _read(state / ANSWER)
    return body if body.get("id") == number else None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            body = json.loads(file.read(FILE_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a reload ended: a sentence, and every problem where the files were refused."""

    ok: bool
    code: str
    args: Mapping[str, object]
    problems: tuple[Problem, ...] = ()

    def body(self) -> dict[str, Any]:
        """Return it as an object of JSON."""
        return {"ok": self.ok, "code": self.code, "args": {name: str(value) for name, value in self.args.items()},
                "problems": [{"where": p.where, "code": p.code, "args": dict(p.args)}
                             for p in self.problems[:PROBLEMS_MAX]], "more": max(0, len(self.problems) - PROBLEMS_MAX)}
