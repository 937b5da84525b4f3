"""What the gateway's commands share: the configuration that they name, and where they speak."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from protocols.terms.say import Say

if TYPE_CHECKING:
    from config.gateway import GatewayConfig


def config_argument(parser: argparse.ArgumentParser, say: Say, *, has_json: bool = False) -> None:
    """Add CONFIG, and --json where the command has it."""
    parser.add_argument("config", metavar="CONFIG", type=Path, help=say("commissioning.help.config"))
    if has_json:
        parser.add_argument("--json", action="store_true", help=say("commissioning.help.json"))


def load(args: argparse.Namespace) -> GatewayConfig:
    """Read CONFIG. Raises ConfigError with everything that is wrong in it."""
    from config.gateway import load_gateway

    return load_gateway(args.config)


def print_json(value: object) -> None:
    """Print a result for programs."""
    print(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True))


def note(text: str) -> None:
    """Say something beside the result."""
    print(text, file=sys.stderr, flush=True)
