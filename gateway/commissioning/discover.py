"""`discover`: browse an OPC UA server into devices.csv and points.csv, as a proposal for a person to correct."""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from protocols.terms.say import Say

if TYPE_CHECKING:
    from protocols.opcua.discovery import Found, Machine, Walk
    from protocols.opcua.target import OpcUaEndpoint

ID_CHARS_MAX = 64
NAME_CHARS_MAX = 120
SHOWN_MAX = 200
PROGRESS_S = 2.0
HEARTBEAT = re.compile(r"heart.?beat|watch.?dog|life.?bit|心跳", re.IGNORECASE)


def discover_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick discover`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say("opcua.discover_example")
    parser.add_argument("protocol", choices=("opcua",), help=say("opcua.help.discover_protocol"))
    parser.add_argument("endpoint", metavar="ENDPOINT", help=say("opcua.help.discover_endpoint"))
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, help=say("opcua.help.discover_out"))
    parser.add_argument("--dir", metavar="DIR", type=Path, default=Path(), help=say("opcua.help.discover_dir"))
    parser.add_argument("--connection", metavar="NAME", default="opcua", help=say("opcua.help.discover_connection"))
    parser.add_argument("--security-policy", metavar="NAME", default="Basic256Sha256",
                        help=say("opcua.help.discover_policy"))
    parser.add_argument("--security-mode", metavar="MODE", default="SignAndEncrypt",
                        help=say("opcua.help.discover_mode"))
    parser.add_argument("--insecure", action="store_true", help=say("opcua.help.discover_insecure"))
    parser.add_argument("--username", metavar="NAME", help=say("opcua.help.discover_username"))
    parser.add_argument("--password-file", metavar="FILE", type=Path, help=say("opcua.help.discover_password"))
    parser.add_argument("--max-nodes", metavar="N", type=int, default=100_000, help=say("opcua.help.discover_nodes"))


def discover_command(args: argparse.Namespace, say: Say) -> int:
    """Browse, print what was found, and write the two files if asked to. Nothing is overwritten."""
    import asyncio
    import logging
    import time

    from protocols.errors import ConfigError, Problem
    from protocols.opcua.discovery import PAGES_MAX
    from protocols.opcua.driver import OpcUaDriver
    from protocols.terms.table import render

    if args.max_nodes < 1:
        raise ConfigError(Problem.of("--max-nodes", "opcua.out_of_range", name="--max-nodes", value=args.max_nodes,
                                     low=1, high=10**9))
    if args.out is not None:
        _refuse_existing(args.out)
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    told_s = time.monotonic()

    def progress(walk: Walk) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= PROGRESS_S:
            told_s = time.monotonic()
            print(say("opcua.discovering", nodes=len(walk.nodes), requests=walk.requests,
                      slowest_ms=f"{walk.slowest_s * 1000:.0f}"), file=sys.stderr, flush=True)

    driver = OpcUaDriver(_endpoint(args), [], _Deaf())
    walk, machines = asyncio.run(driver.discover(nodes_max=args.max_nodes, progress=progress))
    ids = device_ids(machines)
    header = [say(f"opcua.column.{name}") for name in ("device", "name", "why", "points", "maker", "serial")]
    print("\n".join(render(header, [
        [ids[place], machine.name, say(f"opcua.why.{machine.why}"), str(len(machine.points)),
         machine.plate.get("manufacturer", ""), machine.plate.get("serial_number", "")]
        for place, machine in enumerate(machines[:SHOWN_MAX])])))
    if len(machines) > SHOWN_MAX:
        print(say("opcua.discover_more", count=len(machines) - SHOWN_MAX))
    print(say("opcua.discovered", devices=len(machines), points=sum(len(m.points) for m in machines),
              nodes=len(walk.nodes), requests=walk.requests, slowest_ms=f"{walk.slowest_s * 1000:.0f}"))
    if not walk.is_whole:
        print(say("opcua.discover_cut", nodes=len(walk.nodes)), file=sys.stderr)
    for address in walk.endless[:SHOWN_MAX]:
        print(say("opcua.discover_endless", address=address, pages=PAGES_MAX), file=sys.stderr)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        _refuse_existing(args.out)
        for name, text in tables(walk.nodes, machines, connection=args.connection).items():
            with (args.out / name).open("x", encoding="utf-8-sig", newline="") as file:
                file.write(text)
        print(say("opcua.discover_next", folder=args.out), file=sys.stderr)
    return 0


def _refuse_existing(folder: Path) -> None:
    from protocols.errors import ConfigError, Problem

    there = [folder / name for name in ("devices.csv", "points.csv") if (folder / name).exists()]
    if there:
        raise ConfigError([Problem.of(str(path), "commissioning.exists") for path in there])


def _endpoint(args: argparse.Namespace) -> OpcUaEndpoint:
    from protocols.opcua.target import OpcUaEndpoint

    return OpcUaEndpoint(
        name=args.connection, url=args.endpoint, pki_dir=args.dir / "state" / "pki", trust_dir=args.dir / "trust",
        security_policy="None" if args.insecure else args.security_policy,
        security_mode="None" if args.insecure else args.security_mode, allow_insecure=args.insecure,
        username=args.username, password_file=args.password_file)


class _Deaf:
    """A sink for a driver that has no points: nothing of it is ever called, what goes wrong is raised."""

    def samples(self, batch: object) -> None:
        """Take nothing."""

    def answered(self, device_index: object, received_ns: int) -> None:
        """Take nothing."""

    def online(self, device_index: object, received_ns: int) -> None:
        """Take nothing."""

    def offline(self, device_index: object, received_ns: int) -> None:
        """Take nothing."""

    def discarded(self, reason: str, count: int) -> None:
        """Take nothing."""

    def event(self, code: str, where: str, **args: object) -> None:
        """Take nothing."""


def device_ids(machines: Sequence[Machine]) -> list[str]:
    """Return an id for each device: its name as far as an id may hold it, made unique by a number."""
    taken: set[str] = set()
    return [_unique(machine.name, "device", taken) for machine in machines]


def tables(nodes: Sequence[Found], machines: Sequence[Machine], *, connection: str) -> Mapping[str, str]:
    """Return file name -> CSV text of the two ledgers. What a server cannot know, class and industry, is empty."""
    from config.ledger import DEVICE_COLUMNS, POINT_COLUMNS

    ids = device_ids(machines)
    devices, points = [], []
    for machine, id_ in zip(machines, ids, strict=True):
        plate = machine.plate
        devices.append({
            "id": id_, "name": _text(machine.name), "maker": _fact(plate, "manufacturer"),
            "model": _fact(plate, "model"), "serial": _fact(plate, "serial_number"),
            "thing": "equipment", "parent": ids[machine.parent] if machine.parent >= 0 else "",
            "connection": connection, "product_instance_uri": _fact(plate, "product_instance_uri")})
        taken: set[str] = set()
        for position in machine.points:
            node = nodes[position]
            points.append({"device": id_, "id": _unique(_path(nodes, position, machine.node), "point", taken),
                           "address": _address(node.address), "type": node.data_type, "role": _role(node)})
    return {"devices.csv": _csv((*DEVICE_COLUMNS, "product_instance_uri"), devices),
            "points.csv": _csv(POINT_COLUMNS, points)}


def _path(nodes: Sequence[Found], position: int, device: int) -> str:
    """Return the names from below the device down to the node."""
    names: list[str] = []
    while position >= 0 and position != device:
        names.append(nodes[position].name)
        position = nodes[position].parent
    return ".".join(reversed(names))


def _unique(name: str, otherwise: str, taken: set[str]) -> str:
    base = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or otherwise
    base = base[-(ID_CHARS_MAX - 8):]  # the end of a path says more than its beginning
    chosen, number = base, 1
    while chosen.lower() in taken:
        number += 1
        chosen = f"{base}-{number}"
    taken.add(chosen.lower())
    return chosen


def _address(node: str) -> str:
    """Return what parse_address takes back as this node: a name that ends in #Value needs a second one."""
    return f"{node}#Value" if "#Value" in node else node


def _role(node: Found) -> str:
    if HEARTBEAT.search(node.name):
        return "heartbeat"
    return "switch" if node.data_type == "bool" else "parameter"


def _fact(plate: Mapping[str, str], name: str) -> str:
    """Return a fact of the nameplate as it is, or nothing: an identity must not be altered to be safe in a sheet."""
    text = plate.get(name, "")
    return "" if _text(text) != text else text


def _text(text: str) -> str:
    """A name from a server, safe to open in a spreadsheet: no formula, no control character."""
    shown = "".join(c for c in text if c.isprintable())[:NAME_CHARS_MAX].strip()
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    held = io.StringIO()
    writer = csv.DictWriter(held, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return held.getvalue()
