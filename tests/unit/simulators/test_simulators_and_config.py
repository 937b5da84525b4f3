"""The gateway's own loader accepts the ledger of a plant as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.gateway import load_gateway
from simulators import ledger
from simulators.layout import draw_layout
from simulators.ledger import Endpoints

SEEDS = (1, 2, 3, 11, 29)
ENDPOINTS = Endpoints(
    opc_ua="opc.tcp://127.0.0.1:4840/machines", opc_ua_certificate="server.der", trust_dir="trust",
    modbus={"utilities-a": "tcp://127.0.0.1:5020", "utilities-b": "tcp://127.0.0.1:5021"},
    mqtt="mqtt://127.0.0.1:1883", broker="embedded",
    brokers={"edge": "mqtt://127.0.0.1:1884", "sensors": "mqtt://127.0.0.1:1885"})


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gateway_accepts_the_ledger_as_it_is(seed: int, tmp_path: Path) -> None:
    layout = draw_layout(seed)
    (tmp_path / "devices.csv").write_text(ledger.devices_csv(layout), encoding="utf-8")
    (tmp_path / "points.csv").write_text(ledger.points_csv(layout), encoding="utf-8")
    head = f'[gateway]\nsite = "{layout.site}"\nuscc = "{layout.uscc}"\nledger_date = 2026-11-01\n\n'
    (tmp_path / "gateway.toml").write_text(head + ledger.connections_toml(layout, ENDPOINTS), encoding="utf-8")
    config = load_gateway(tmp_path / "gateway.toml")
    assert [device.id for device in config.devices] == [device.id for device in layout.devices]
    assert len(config.points) == sum(len(device.points) for device in layout.devices)
    assert list(config.protocols) == ["machines", "utilities-a", "utilities-b", "edge", "sensors"]
