"""PLANT.toml: what a simulated plant is asked to be. Everything has a default; an empty file is the default plant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field

from config.loader import Section, load_toml
from protocols.errors import ConfigError, Problem
from simulators.layout import DEFAULT_SEED, DEVICES_MAX, POINTS_MAX, Numbers, draw_layout, draw_numbers
from simulators.modbus_faults import Fault, Kind
from simulators.scenario import FAULTS_MAX, FaultTable, check_scenario, load_scenario

EMBEDDED = "embedded"
TICK_S_MAX = 2.0
"""A slower plant would leave a window of five seconds without a sample of a point that is alive."""


class PlantTable(Section):
    """[plant]."""

    seed: int = Field(default=DEFAULT_SEED, ge=0, le=2**31)
    host: str = Field(default="127.0.0.1", min_length=1, max_length=253)
    tick_s: float = Field(default=1.0, ge=0.1, le=TICK_S_MAX)


class DevicesTable(Section):
    """[devices]: numbers to fix; a number that is absent is drawn from the seed."""

    opc_ua: int | None = Field(default=None, ge=0, le=DEVICES_MAX)
    modbus_tcp: int | None = Field(default=None, ge=0, le=DEVICES_MAX)
    sparkplug_b: int | None = Field(default=None, ge=0, le=DEVICES_MAX)
    mqtt: int | None = Field(default=None, ge=0, le=DEVICES_MAX)
    dead: int | None = Field(default=None, ge=0, le=DEVICES_MAX)
    heartbeat_only: int | None = Field(default=None, ge=0, le=DEVICES_MAX)
    reached_twice: int | None = Field(default=None, ge=0, le=DEVICES_MAX)
    points: int | None = Field(default=None, ge=1, le=POINTS_MAX)


class OpcUaTable(Section):
    """[opc_ua]. Port 0 takes a free one, here and below."""

    port: int = Field(default=0, ge=0, le=65535)


class ModbusFaultTable(Section):
    """[[modbus.faults]]: what goes wrong on a Modbus line, see simulators/modbus_faults.py.

    connection, unit: absent means both, and every unit. every: each Nth request to a unit meets it. after_s, for_s:
    when, from the start of the plant. The true counts do not know of faults: a unit that may never answer is dead.
    """

    kind: Kind
    connection: Literal["utilities-a", "utilities-b"] | None = None
    unit: int | None = Field(default=None, ge=0, le=247)
    every: int = Field(default=1, ge=1, le=1_000_000)
    delay_s: float = Field(default=1.0, ge=0, le=600)
    after_s: float = Field(default=0.0, ge=0, le=86_400)
    for_s: float | None = Field(default=None, gt=0, le=86_400)

    def fault(self) -> Fault:
        """Return it as the server plays it."""
        return Fault(**self.model_dump())


class ModbusTable(Section):
    """[modbus]: one port for each of the two servers, how they frame (rtu: RTU over TCP), and what they do wrong."""

    ports: list[int] = Field(default=[0, 0], min_length=2, max_length=2)
    framing: list[Literal["tcp", "rtu"]] = Field(default=["tcp", "tcp"], min_length=2, max_length=2)
    faults: list[ModbusFaultTable] = Field(default=[], max_length=1000)


class MqttTable(Section):
    """[mqtt]: `embedded`, or the URL of a broker that runs already; the port is that of the embedded one."""

    broker: str = EMBEDDED
    port: int = Field(default=0, ge=0, le=65535)


class PlantFile(Section):
    """The whole file."""

    plant: PlantTable = PlantTable()
    devices: DevicesTable = DevicesTable()
    opc_ua: OpcUaTable = OpcUaTable()
    modbus: ModbusTable = ModbusTable()
    mqtt: MqttTable = MqttTable()
    faults: list[FaultTable] = Field(default=[], max_length=FAULTS_MAX)

    def numbers(self) -> Numbers:
        """Return the numbers of the plant: those drawn from the seed, and those of the file where it gives them."""
        fixed = {key: value for key, value in self.devices.model_dump().items() if value is not None}
        drawn = draw_numbers(self.plant.seed)
        return Numbers(**{key: fixed.get(key, getattr(drawn, key)) for key in Numbers.__dataclass_fields__})


def load_plant(path: Path, *, seed: int | None = None, broker: str | None = None,
               scenario: Path | None = None) -> PlantFile:
    """Read PLANT.toml; `seed` and `broker` replace what it says, the faults of `scenario` come to its own.

    Raises ConfigError with every problem.
    """
    plant = check_plant(load_toml(path, PlantFile), str(path), seed=seed, broker=broker)
    layout = draw_layout(plant.plant.seed, plant.numbers())
    own_broker = plant.mqtt.broker == EMBEDDED
    check_scenario(plant.faults, layout, str(path), own_broker=own_broker)
    if scenario is not None:
        more = load_scenario(scenario)
        check_scenario(more, layout, str(scenario), own_broker=own_broker)
        plant = plant.model_copy(update={"faults": [*plant.faults, *more]})
    return plant


def check_plant(plant: PlantFile, where: str, *, seed: int | None = None, broker: str | None = None) -> PlantFile:
    """Return the plant with the replacements, or raise ConfigError with every problem of what it then says."""
    if seed is not None:
        plant = plant.model_copy(update={"plant": plant.plant.model_copy(update={"seed": seed})})
    if broker is not None:
        plant = plant.model_copy(update={"mqtt": plant.mqtt.model_copy(update={"broker": broker})})
    problems = []
    if seed is not None and not 0 <= seed <= 2**31:
        problems.append(Problem.of("--seed", "config.out_of_range", value=seed, bound=f"0..{2**31}"))
    numbers = plant.numbers()
    if not numbers.possible:
        problems.append(Problem.of(f"{where}, devices", "simulators.bad_numbers", devices=numbers.devices,
                                   limit=DEVICES_MAX))
    if any(not 0 <= port <= 65535 for port in plant.modbus.ports):
        problems.append(Problem.of(f"{where}, modbus.ports", "config.out_of_range", value=plant.modbus.ports,
                                   bound="0..65535"))
    if plant.mqtt.broker != EMBEDDED and not _is_broker_url(plant.mqtt.broker):
        problems.append(Problem.of(f"{where}, mqtt.broker", "simulators.bad_broker", value=plant.mqtt.broker[:200]))
    if problems:
        raise ConfigError(problems)
    return plant


def _is_broker_url(url: str) -> bool:
    try:
        where = urlsplit(url)
        return where.scheme == "mqtt" and bool(where.hostname) and where.port != 0
    except ValueError:  # a port that is no port
        return False
