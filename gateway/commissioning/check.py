"""`check` and `plan`: every device is asked once whether it answers, and every request is listed before it is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.gateway import GatewayConfig
from gateway.commissioning import roster
from gateway.commissioning.connect import Driver, build_drivers
from gateway.commissioning.state import State
from protocols.errors import Problem, TallystickError
from protocols.samples import PollBatch, SampleBatch
from protocols.terms.check import CheckResult

NOBODY = "0" * 32
NO_KEY = bytes(32)
"""Before `init` a roster is built for its slots only; its tags are never shown."""

SENDING = ("publish", "will")
"""Requests of a plan that put a message onto a broker; all others only read or subscribe."""

Progress = Callable[[str, int, int], None]
"""progress(connection, passed, devices): this connection is done."""

Besides = Callable[[str, Driver, int], Awaitable[None]]
"""besides(connection, driver, passed): what else is tried once its devices have been, of which so many passed."""


async def _nothing(_name: str, _driver: Driver, _passed: int) -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCheck:
    """One device: passed, or the cause. `code` and `args` name a sentence in tallystick/words."""

    device: str
    connection: str
    ok: bool
    code: str
    args: tuple[tuple[str, str], ...]


class Quiet:
    """A sink for drivers that never run: what a dry connection tells comes back as its result."""

    def samples(self, batch: SampleBatch | PollBatch) -> None:
        """Take nothing."""

    def answered(self, device_index: Sequence[int] | NDArray[np.int64], received_ns: int) -> None:
        """Take nothing."""

    def online(self, device_index: Sequence[int], received_ns: int) -> None:
        """Take nothing."""

    def offline(self, device_index: Sequence[int], received_ns: int) -> None:
        """Take nothing."""

    def discarded(self, reason: str, count: int) -> None:
        """Take nothing."""

    def event(self, code: str, where: str, **args: object) -> None:
        """Take nothing."""


def held_roster(config: GatewayConfig) -> roster.Roster:
    """Return the roster as the gateway would have it if it started now. Nothing is written, no key is needed."""
    state = State(config.state_dir)
    key = state.enterprise_key() if state.has_keys() else NO_KEY
    gateway = state.gateway_id() if state.has_keys() else NOBODY
    return roster.evolve(roster.load(state.roster_file), config, gateway=gateway, key=key,
                         server_keys=state.server_keys())


async def check_devices(config: GatewayConfig, progress: Progress, besides: Besides = _nothing,
                        held: roster.Roster | None = None) -> list[DeviceCheck]:
    """Dry-connect every device, all connections at once, and return one result for each, in the order of devices.csv.

    besides: called for each connection after its devices. held: what `held_roster` gives, if it is known already.
    Raises: ConfigError when a driver cannot even be built.
    """
    held = held or held_roster(config)
    slots = held.device_slots()
    drivers = build_drivers(config, held, Quiet(), time.time_ns)
    found: dict[int, CheckResult] = {}

    async def one(name: str, driver: Driver) -> None:
        mine = {slots[d.id] for d in config.devices if d.connection == name}
        try:
            results = await driver.check()
        except asyncio.CancelledError:
            raise
        except TallystickError as error:
            results = [CheckResult(slot, False, error.problems[0].code, error.problems[0].args) for slot in mine]
        except Exception as error:  # a library met what nobody foresaw: the other connections are still checked
            args = Problem.of("", "commissioning.check_failed", kind=type(error).__name__, reason=str(error)[:200]).args
            results = [CheckResult(slot, False, "commissioning.check_failed", args) for slot in mine]
        found.update({result.device_index: result for result in results})
        passed = sum(found[slot].ok for slot in mine if slot in found)
        await besides(name, driver, passed)
        progress(name, passed, len(mine))

    await asyncio.gather(*(one(name, driver) for name, driver in drivers.items()))
    checks = []
    for device in config.devices:
        result = found.get(slots[device.id]) or CheckResult(slots[device.id], False, "commissioning.no_points")
        checks.append(DeviceCheck(device=device.id, connection=device.connection, ok=result.ok, code=result.code,
                                  args=result.args))
    return checks


def plan(config: GatewayConfig) -> list[dict[str, Any]]:
    """Return one object for each connection: name, protocol, endpoint, its requests as rows, and whether it sends.

    No network. `sends`: the rows that put a message onto a broker. Device slots of rows are told by local id.
    """
    held = held_roster(config)
    names = {str(slot): device for device, slot in held.device_slots().items()}
    drivers = build_drivers(config, held, Quiet(), time.time_ns)
    connections = []
    for name, protocol in config.protocols.items():
        rows = []
        for row in drivers[name].plan() if name in drivers else []:
            rest = {k: v for k, v in row.items() if k not in ("connection", "endpoint", "device_index")}
            if "device_index" in row:
                rest["device"] = names[row["device_index"]]
            rows.append(rest)
        endpoint = config.endpoints[name]
        connections.append({
            "connection": name, "protocol": protocol,
            "endpoint": endpoint.url if hasattr(endpoint, "url") else endpoint.endpoint,
            "requests": [r for r in rows if r.get("request") not in SENDING],
            "sends": [r for r in rows if r.get("request") in SENDING]})
    return connections
