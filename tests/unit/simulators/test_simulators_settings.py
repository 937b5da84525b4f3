"""PLANT.toml: the example is the default, and everything wrong is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.errors import ConfigError
from simulators.layout import Numbers
from simulators.settings import PlantFile, load_plant

EXAMPLE = Path(__file__).parents[3] / "config" / "examples" / "plant.toml"


def load(tmp_path: Path, text: str, **changes: object) -> PlantFile:
    path = tmp_path / "plant.toml"
    path.write_text(text, encoding="utf-8")
    return load_plant(path, **changes)  # type: ignore[arg-type]  # the test hands over what a case needs


def test_the_example_is_the_default_plant() -> None:
    assert load_plant(EXAMPLE) == PlantFile()
    assert PlantFile().numbers() == Numbers()


def test_the_numbers_shown_in_the_example_are_the_default_ones(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8").replace("# [devices]", "[devices]")
    for key in set(Numbers.__dataclass_fields__) - {"points"}:
        text = text.replace(f"# {key} =", f"{key} =")
    plant = load(tmp_path, text)
    assert None not in plant.devices.model_dump(exclude={"points"}).values()
    assert plant.numbers() == Numbers()


def test_options_replace_what_the_file_says(tmp_path: Path) -> None:
    plant = load(tmp_path, "[plant]\nseed = 4\n[devices]\nmqtt = 9\n", seed=7, broker="mqtt://127.0.0.1:1883")
    assert plant.plant.seed == 7
    assert plant.mqtt.broker == "mqtt://127.0.0.1:1883"
    assert plant.numbers().mqtt == 9
    assert plant.numbers() != load(tmp_path, "[devices]\nmqtt = 9\n").numbers()


@pytest.mark.parametrize(("text", "changes", "places"), [
    ("[plant]\nsead = 1\ntick_s = 9.0\n", {}, ["plant.sead", "plant.tick_s"]),
    ("[devices]\nopc_ua = 0\n[mqtt]\nbroker = 'localhost'\n[modbus]\nports = [1, 99999]\n", {},
     ["devices", "modbus.ports", "mqtt.broker"]),
    ("[modbus]\nports = [0]\n[opc_ua]\nport = -1\n", {}, ["modbus.ports", "opc_ua.port"]),
    ("", {"seed": -1}, ["--seed"]),
    ("", {"broker": "mqtt://127.0.0.1:x"}, ["mqtt.broker"]),
    ("[plant\n", {}, [""]),
])
def test_every_problem_is_told_at_once(tmp_path: Path, text: str, changes: dict[str, object],
                                       places: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **changes)
    file = str(tmp_path / "plant.toml")
    assert sorted(problem.where.removeprefix(file).removeprefix(", ")
                  for problem in caught.value.problems) == sorted(places)
