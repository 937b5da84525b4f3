"""What `check` and `plan` say about probes: would the server take our certificate, and what will be asked how often."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any

from config.gateway import GatewayConfig
from gateway.commissioning import identity
from gateway.commissioning.check import DeviceCheck, Progress, check_devices, held_roster
from gateway.commissioning.check import plan as collecting_plan
from gateway.commissioning.connect import Driver
from gateway.commissioning.identity import Facts, Finding
from gateway.commissioning.state import State
from gateway.probing.certificate import CERTIFICATE, probe_certificate
from gateway.probing.prober import DEADLINE_S
from protocols.errors import ConfigError, DeviceError
from protocols.opcua.target import OpcUaEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCheck:
    """One OPC UA connection: its server signed a challenge, or why not. `code` and `args` name a sentence."""

    connection: str
    ok: bool
    code: str
    args: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PlantCheck:
    """What `check` found. probes: of the OPC UA connections that are challenged; they decide nothing.

    facts, findings: what devices showed of themselves, and what does not fit the ledger. unasked: connections whose
    devices could not be asked who they are, although some passed.
    """

    devices: list[DeviceCheck]
    probes: list[ProbeCheck]
    facts: list[Facts]
    findings: list[Finding]
    unasked: list[str]


async def check_plant(config: GatewayConfig, progress: Progress) -> PlantCheck:
    """Check every device (`check_devices`), ask who it is, and challenge each secured OPC UA server that let us in."""
    probes: dict[str, ProbeCheck] = {}
    facts: list[Facts] = []
    unasked: list[str] = []
    held = held_roster(config)
    slots = held.device_slots()

    async def besides(name: str, driver: Driver, passed: int) -> None:
        found = await check_probe(config, name, driver)
        if found is not None:
            probes[name] = found
        if not passed:
            return
        try:
            facts.extend(await identity.gather(config, name, driver, slots))
        except asyncio.CancelledError:
            raise
        except Exception:  # it answered all that is collected: who it is must not make it fail
            unasked.append(name)

    devices = await check_devices(config, progress, besides, held)
    return PlantCheck(devices, [probes[name] for name in config.endpoints if name in probes], facts,
                      identity.findings(config, facts), sorted(unasked))


def plan(config: GatewayConfig) -> list[dict[str, Any]]:
    """Return the plan of every connection, with `probes`: what is asked besides collecting."""
    collected = collecting_plan(config)
    return [connection | {"probes": planned(config, connection["connection"]) if connection["requests"] else []}
            for connection in collected]


async def check_probe(config: GatewayConfig, name: str, driver: Any) -> ProbeCheck | None:
    """Challenge the server of a connection once, with a random nonce; nothing is sealed.

    None where nothing will ever be asked: no platform, probes switched off, another protocol, or a server that could
    not even be connected to, which its devices tell.
    """
    endpoint = config.endpoints[name]
    if config.platform is None or not config.probing.opcua or not isinstance(endpoint, OpcUaEndpoint):
        return None
    if not endpoint.is_secured:
        return ProbeCheck(connection=name, ok=False, code="probing.unsecured")
    certificate = driver.server_certificate()
    if certificate is None:
        return None
    state = State(config.state_dir)
    if not state.has_keys():
        return ProbeCheck(connection=name, ok=False, code="probing.no_keys_yet")
    from gateway.probing.driver import ask  # a library that only OPC UA needs

    gateway = state.gateway_id()
    try:
        own = await asyncio.to_thread(probe_certificate, state.pki_dir, gateway)
        await ask(endpoint, server_certificate=certificate, own=own, gateway=gateway, c=secrets.token_bytes(32),
                  deadline_s=min(DEADLINE_S, float(config.len_s)))
    except (DeviceError, ConfigError) as error:
        problem = error.problems[0]
        return ProbeCheck(connection=name, ok=False, code=problem.code, args=problem.args)
    return ProbeCheck(connection=name, ok=True, code="probing.ok")


def planned(config: GatewayConfig, name: str) -> list[dict[str, str]]:
    """Return what is asked on a connection besides collecting, as rows of request, count and detail. No network."""
    settings, endpoint, protocol = config.probing, config.endpoints[name], config.protocols[name]
    if config.platform is None:
        return []
    if isinstance(endpoint, OpcUaEndpoint):
        if not settings.opcua:
            return []
        if not endpoint.is_secured:
            return [{"request": "none", "count": "0", "detail": "without security there is no key to challenge"}]
        return [{"request": "CreateSession, CloseSession",
                 "count": f"<= 1 per {settings.every_s} s, <= {settings.max_per_hour} an hour with what failed",
                 "detail": f"a challenge on a connection of its own, with {CERTIFICATE}; per server key, whatever the "
                           "number of connections"}]
    if not settings.reads_per_window:
        return []
    drawn = f"<= {settings.reads_per_window} per {settings.reads_every_s} s, all connections together"
    if protocol.startswith("modbus"):
        return [{"request": "read", "count": drawn, "detail": "one drawn point each, at a drawn millisecond, between "
                                                              "two reads of the poll"}]
    return [{"request": "none", "count": "0", "detail": f"{drawn}: the first live message of a drawn point is noted"}]
