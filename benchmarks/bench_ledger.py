"""How long a ledger of 10 000 points takes to be read and checked: CSV, XLSX, one template; all right, and all wrong.

    python benchmarks/bench_ledger.py [--points 10000] [--repeats 5]

Each line is the median of a process's CPU seconds over the repeats, with the least and the most, and what came out.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from config.gateway import load_gateway
from config.ledger import DEVICE_COLUMNS, POINT_COLUMNS
from protocols.errors import ConfigError

Rows = list[list[object]]
TOML = """[gateway]
site = "S"
uscc = "91320594MAEXAMPLEB"
ledger_date = 2026-11-01
devices = "{devices}"
{more}
[[connections]]
name = "line"
protocol = "modbus_tcp"
endpoint = "tcp://192.0.2.1:502"
"""
POINTS_OF_ONE = 10


def devices(count: int, **more: str) -> Rows:
    """Rows of devices.csv with their header; `more`: further columns, `{n}` in them is the number of the device."""
    rows: Rows = [[*DEVICE_COLUMNS, *more]]
    for n in range(count):
        cells = {"id": f"d{n}", "name": f"冲压机 {n}", "maker": "Maker", "model": "M-1", "serial": f"SN{n:06}",
                 "class": "machine_tools", "industry": "3422", "uscc": "91320594MAEXAMPLEB", "region": "320594",
                 "thing": "equipment", "deployment": "public", "energy": "yes", "connection": "line"}
        cells |= {name: text.replace("{n}", str(n)) for name, text in more.items()}
        cells |= {"unit": str(n % 240 + 1), "{first}": str(n // 240 * 100)} if more else {}
        rows.append([cells.get(name, "") for name in rows[0]])
    return rows


def points(count: int, role: str = "parameter") -> Rows:
    """Rows of points.csv with their header."""
    rows: Rows = [list(POINT_COLUMNS)]
    for n in range(count // POINTS_OF_ONE):
        rows += [[f"d{n}", f"p{k}", f"{n % 240 + 1}/holding/{n // 240 * 100 + 2 * k}", "float32", role]
                 for k in range(POINTS_OF_ONE)]
    return rows


def write_csv(path: Path, rows: Rows, encoding: str = "utf-8-sig") -> None:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows(rows)


def as_csv(folder: Path, count: int, *, encoding: str = "utf-8-sig", role: str = "parameter") -> None:
    write_csv(folder / "devices.csv", devices(count // POINTS_OF_ONE), encoding)
    write_csv(folder / "points.csv", points(count, role), encoding)
    (folder / "gateway.toml").write_text(TOML.format(devices="devices.csv", more=""), encoding="utf-8")


def as_xlsx(folder: Path, count: int) -> None:
    from openpyxl import Workbook

    book = Workbook()  # as a spreadsheet program writes it: texts shared between cells, the size of each sheet in front
    book.remove(book.worksheets[0])
    for title, rows in (("设备", devices(count // POINTS_OF_ONE)), ("点位", points(count))):
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(folder / "ledger.xlsx")
    (folder / "gateway.toml").write_text(TOML.format(devices="ledger.xlsx", more='points = "ledger.xlsx"'),
                                         encoding="utf-8")


def as_template(folder: Path, count: int) -> None:
    columns = {"unit": "", "template": "press", "{first}": ""}
    write_csv(folder / "devices.csv", devices(count // POINTS_OF_ONE, **columns))
    write_csv(folder / "templates.csv", [["template", *POINT_COLUMNS[1:]]] + [
        ["press", f"p{k}", f"{{unit}}/holding/{{first+{2 * k}}}", "float32", "parameter"]
        for k in range(POINTS_OF_ONE)])
    (folder / "gateway.toml").write_text(TOML.format(devices="devices.csv", more='templates = "templates.csv"'),
                                         encoding="utf-8")


KINDS: dict[str, Callable[[Path, int], None]] = {
    "CSV, UTF-8": as_csv,
    "CSV, GBK": lambda folder, count: as_csv(folder, count, encoding="gb18030"),
    "CSV, every point wrong": lambda folder, count: as_csv(folder, count, role="parametre"),
    "XLSX": as_xlsx,
    "one template": as_template,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    for name, make in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), args.points)
            took, came = [], ""
            for _ in range(args.repeats):
                began = time.process_time()
                try:
                    config = load_gateway(Path(folder) / "gateway.toml")
                    came = f"{len(config.devices)} devices, {len(config.points)} points"
                except ConfigError as error:
                    came = f"{len(error.problems)} problems"
                took.append(time.process_time() - began)
            print(f"{name:24} {statistics.median(took):6.2f} s ({min(took):.2f} to {max(took):.2f})  {came}")


if __name__ == "__main__":
    main()
