"""Small configurations on disk, for the tests of commissioning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from config.gateway import GatewayConfig, load_gateway

USCC = "91320594MAEXAMPLEB"
DEVICES = ("id,name,maker,model,serial,asset,class,industry,uscc,region,thing,deployment,energy,parent,connection,"
           "product_instance_uri")
POINTS = "device,id,address,type,role,order,scale,offset"
LINE = '[[connections]]\nname = "line"\nprotocol = "modbus_tcp"\nendpoint = "tcp://127.0.0.1:1"\ntimeout_s = 0.3\n'


def device(id: str, *, name: str = "n", maker: str = "Maker", model: str = "M", serial: str = "", asset: str = "",
           uscc: str = USCC, parent: str = "", connection: str = "line", product: str = "") -> str:
    """One row of devices.csv."""
    return (f"{id},{name},{maker},{model},{serial},{asset},machine_tools,3422,{uscc},320594,equipment,public,yes,"
            f"{parent},{connection},{product}")


def point(device_id: str, number: int, *, id: str = "", type: str = "uint16", role: str = "parameter") -> str:
    """One Modbus row of points.csv: unit 1, holding register `number`."""
    return f"{device_id},{id or f'p{number}'},1/holding/{number},{type},{role},,,"


def write(folder: Path, devices: Sequence[str], points: Sequence[str], *, head: str = "", tail: str = LINE,
          site: str = "S") -> Path:
    """Write the three files; `head` follows [gateway], `tail` are the connections."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gateway.toml").write_text(
        f'[gateway]\nsite = "{site}"\nuscc = "{USCC}"\nledger_date = 2026-11-01\n{head}\n{tail}', encoding="utf-8")
    (folder / "devices.csv").write_text("\n".join([DEVICES, *devices]) + "\n", encoding="utf-8")
    (folder / "points.csv").write_text("\n".join([POINTS, *points]) + "\n", encoding="utf-8")
    return folder / "gateway.toml"


def plant(folder: Path, devices: Sequence[str], points: Sequence[str] = (), **more: str) -> GatewayConfig:
    """Write and load."""
    return load_gateway(write(folder, devices, points, **more))
