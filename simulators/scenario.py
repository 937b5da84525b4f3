"""What goes wrong in a plant, when, where and for how long: the [[faults]] of PLANT.toml or of a scenario file.

Every kind is played by the server, the publisher or the wire it is about; the true numbers know what it destroyed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field

from config.loader import Section, load_toml
from protocols.errors import ConfigError, Problem
from simulators.kinds import BROKER, PLACES, SHOWN, Kind, Protocol
from simulators.layout import CONNECTION_OF, Layout

FAULTS_MAX = 1000


class FaultTable(Section):
    """[[faults]]: one fault. Absent: at once, for ever, everywhere that its kind can be played."""

    kind: Kind
    connection: str | None = Field(default=None, min_length=1, max_length=64)
    device: str | None = Field(default=None, min_length=1, max_length=64)
    at_s: float = Field(default=0.0, ge=0, le=864_000)
    for_s: float | None = Field(default=None, gt=0, le=864_000)
    repeat_s: float | None = Field(default=None, ge=0.1, le=864_000)
    every: int = Field(default=1, ge=1, le=1_000_000)
    delay_s: float = Field(default=1.0, gt=0, le=600)
    times: int = Field(default=10, ge=2, le=1000)
    jump_s: float = Field(default=3600.0, ge=-1e9, le=1e9)


class ScenarioFile(Section):
    """A file of faults for any plant."""

    faults: list[FaultTable] = Field(default=[], max_length=FAULTS_MAX)


def load_scenario(path: Path) -> list[FaultTable]:
    """Read a scenario file. Raises ConfigError with every problem of its tables; `check_scenario` looks further."""
    return load_toml(path, ScenarioFile).faults


def connections_of(fault: FaultTable, layout: Layout) -> Iterator[tuple[str, Protocol]]:
    """Yield the connections on which a fault is played, with their protocols."""
    shown = SHOWN[fault.kind]
    at = {device.connection for device in layout.devices if device.id == fault.device}
    for protocol in shown.protocols:
        for connection in CONNECTION_OF[protocol]:
            if fault.connection in (None, connection) and (fault.device is None or connection in at):
                yield connection, protocol


def check_scenario(faults: Iterable[FaultTable], layout: Layout, where: str, *, own_broker: bool) -> None:
    """Raise ConfigError with everything that cannot be played in this plant."""
    problems: list[Problem] = []
    for place, fault in enumerate(faults):
        problems += _problems(fault, layout, f"{where}, faults[{place}]", own_broker=own_broker)
    if problems:
        raise ConfigError(problems)


def _problems(fault: FaultTable, layout: Layout, where: str, *, own_broker: bool) -> Iterator[Problem]:
    shown = SHOWN[fault.kind]
    known = [name for names in CONNECTION_OF.values() for name in names]
    protocol_of = {name: protocol for protocol, names in CONNECTION_OF.items() for name in names}
    device = next((one for one in layout.devices if one.id == fault.device), None)
    if fault.connection is not None and fault.connection not in known:
        yield Problem.of(f"{where}.connection", "simulators.no_connection", name=fault.connection,
                         known=", ".join(known))
        return
    if fault.device is not None and device is None:
        yield Problem.of(f"{where}.device", "simulators.no_device", name=fault.device)
        return
    if shown.needs_device and device is None:
        yield Problem.of(f"{where}.device", "simulators.device_missing", kind=fault.kind)
    place = fault.connection or (device.connection if device is not None else None)
    if place is not None and protocol_of[place] not in shown.protocols:
        yield Problem.of(f"{where}.kind", "simulators.wrong_place", kind=fault.kind, connection=place,
                         known=", ".join(shown.protocols))
    elif place is not None and device is not None and device.connection != place:
        yield Problem.of(f"{where}.device", "simulators.device_elsewhere", name=device.id,
                         connection=device.connection)
    for key in sorted(fault.model_fields_set - {*PLACES, *shown.keys}):
        yield Problem.of(f"{where}.{key}", "simulators.unused_key", key=key, kind=fault.kind,
                         known=", ".join((*PLACES[1:], *shown.keys)))
    if fault.for_s is not None and not shown.lasts:
        yield Problem.of(f"{where}.for_s", "simulators.instant", kind=fault.kind)
    endless = fault.for_s is None and shown.lasts and fault.kind != "restart"
    if fault.repeat_s is not None and (endless or (fault.for_s is not None and fault.for_s >= fault.repeat_s)):
        yield Problem.of(f"{where}.repeat_s", "simulators.never_ends", kind=fault.kind)
    if fault.kind == "restart" and not own_broker and place is not None and protocol_of[place] in BROKER:
        yield Problem.of(f"{where}.kind", "simulators.not_our_broker")
