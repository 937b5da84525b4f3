"""The command line of this room: `tallystick simulate PLANT.toml`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from protocols.terms.say import Say

if TYPE_CHECKING:
    import asyncio

    from simulators.ledger import Endpoints
    from simulators.plant import Plant
    from simulators.settings import PlantFile


def simulate_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Add the arguments of `simulate`."""
    parser.add_argument("plant", type=Path, metavar="PLANT.toml", help=say("simulators.help.plant"))
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help=say("simulators.help.out"))
    parser.add_argument("--seed", type=int, metavar="N", help=say("simulators.help.seed"))
    parser.add_argument("--broker", metavar="URL", help=say("simulators.help.broker"))
    parser.add_argument("--scenario", type=Path, metavar="FILE", help=say("simulators.help.scenario"))
    parser.add_argument("--capture", type=Path, metavar="FILE", help=say("simulators.help.capture"))
    from simulators.kinds import SHOWN  # standard library only

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join((say("simulators.help.faults"), *(
        f"  {kind:18}{say(f'simulators.kind.{kind}')}" for kind in SHOWN), "", say("simulators.help.cheats")))


def simulate_command(args: argparse.Namespace, say: Say) -> int:
    """Run a plant until SIGTERM, SIGINT or the end of a piped stdin. One JSON line on stdout when it is ready."""
    import asyncio
    import logging

    from simulators.settings import load_plant

    settings = load_plant(args.plant, seed=args.seed, broker=args.broker, scenario=args.scenario)
    for noisy in ("asyncua", "amqtt", "pymodbus", "transitions"):  # a scanner at the door is not the plant's worry
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    return asyncio.run(_simulate(settings, args.out, args.capture, say))


async def _simulate(settings: PlantFile, out: Path, capture: Path | None, say: Say) -> int:
    import asyncio
    from dataclasses import asdict

    from protocols import system
    from simulators.plant import run_plant

    stop = asyncio.Event()
    await _stop_at_end_of_stdin(stop)

    def ready(plant: Plant, endpoints: Endpoints) -> None:
        line = {"event": "ready", "out": str(plant.out), "seed": plant.layout.seed,
                "devices": len(plant.layout.devices), "endpoints": asdict(endpoints)}
        print(json.dumps(line, ensure_ascii=False), flush=True)
        print(say("simulators.ready", devices=len(plant.layout.devices), out=plant.out), file=sys.stderr)

    with system.stopping(stop.set):
        plant = await run_plant(settings, out, stop, ready, capture=capture)
    print(json.dumps({"event": "stopped", "writes_refused": plant.writes,
                      "samples_sent": {name: sent.samples for name, sent in plant.sent.items()}}), flush=True)
    return 0


async def _stop_at_end_of_stdin(stop: asyncio.Event) -> None:
    """Set `stop` when a piped stdin ends, so that no plant outlives the program that started it.

    Only a pipe or a socket is watched: a terminal belongs to the user, and /dev/null is at its end from the start.
    """
    import asyncio
    import os
    import stat

    class Watch(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            stop.set()

    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # no stdin at all
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        await asyncio.get_running_loop().connect_read_pipe(Watch, sys.stdin)
