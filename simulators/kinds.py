"""Every fault that a simulated plant can play. Standard library only: `--help` shows them.

What each is stands in tallystick/words, as simulators.kind.KIND, and by example in docs/simulators.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Protocol = Literal["opc_ua", "modbus_tcp", "sparkplug_b", "mqtt"]
Kind = Literal[
    "refuse", "lose", "stall", "slow", "truncate", "garbage", "restart", "flood", "clock", "dead",
    "late", "twice", "cut", "other_unit", "other_transaction", "silent", "close", "busy",
    "bad_node", "unreadable", "retained", "reorder", "gap", "missing_birth", "historical", "death"]

ALL: tuple[Protocol, ...] = ("opc_ua", "modbus_tcp", "sparkplug_b", "mqtt")
MODBUS: tuple[Protocol, ...] = ("modbus_tcp",)
BROKER: tuple[Protocol, ...] = ("sparkplug_b", "mqtt")
SPARKPLUG: tuple[Protocol, ...] = ("sparkplug_b",)
PLACES = ("kind", "connection", "device", "at_s", "for_s", "repeat_s")
"""Keys that every kind understands."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a kind is. protocols: where it can be played. keys: what it understands beyond PLACES.

    lasts: it has a length.
    """

    protocols: tuple[Protocol, ...] = ALL
    keys: tuple[str, ...] = ()
    lasts: bool = True
    needs_device: bool = False


SHOWN: dict[str, Shown] = {
    "refuse": Shown(),
    "lose": Shown(lasts=False),
    "stall": Shown(),
    "slow": Shown(keys=("delay_s",)),
    "truncate": Shown(lasts=False),
    "garbage": Shown(keys=("every",)),
    "restart": Shown(),
    "flood": Shown(keys=("times", "every")),
    "clock": Shown(protocols=("opc_ua", "sparkplug_b", "mqtt"), keys=("jump_s",)),
    "dead": Shown(needs_device=True),
    "late": Shown(MODBUS, ("every", "delay_s")),
    "twice": Shown(("modbus_tcp", *BROKER), ("every",)),
    "cut": Shown(MODBUS, ("every",)),
    "other_unit": Shown(MODBUS, ("every",)),
    "other_transaction": Shown(MODBUS, ("every",)),
    "silent": Shown(MODBUS, ("every",)),
    "close": Shown(MODBUS, ("every",)),
    "busy": Shown(MODBUS, ("every",)),
    "bad_node": Shown(("opc_ua",), ("every",)),
    "unreadable": Shown(BROKER, ("every",)),
    "retained": Shown(BROKER, ("every",)),
    "reorder": Shown(BROKER, ("every",)),
    "gap": Shown(BROKER, ("every",)),
    "missing_birth": Shown(SPARKPLUG),
    "historical": Shown(SPARKPLUG, ("every",)),
    "death": Shown(SPARKPLUG, lasts=False)}
assert set(SHOWN) == set(get_args(Kind))
