"""Every fault that a simulated plant can play, in words for people. Standard library only: `--help` shows it.

docs/simulators.md has each by example.
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

    text: str
    protocols: tuple[Protocol, ...] = ALL
    keys: tuple[str, ...] = ()
    lasts: bool = True
    needs_device: bool = False


SHOWN: dict[str, Shown] = {
    "refuse": Shown("connections are ended, and new ones refused"),
    "lose": Shown("connections are ended; new ones are welcome", lasts=False),
    "stall": Shown("nothing passes in either direction; what waits passes afterwards"),
    "slow": Shown("everything takes delay_s longer, both ways", keys=("delay_s",)),
    "truncate": Shown("the next message ends in its middle, and with it the connection", lasts=False),
    "garbage": Shown("bytes that mean nothing, and no word after them; on Modbus in place of each N-th answer",
                     keys=("every",)),
    "restart": Shown("the server ends and comes back after for_s, knowing nobody"),
    "flood": Shown("everything changes `times` times in each tick; on Modbus each answer comes so often",
                   keys=("times", "every")),
    "clock": Shown("the clock of the devices is jump_s ahead", protocols=("opc_ua", "sparkplug_b", "mqtt"),
                   keys=("jump_s",)),
    "dead": Shown("a device is off: its unit is silent, its values are Bad, its topic is quiet", needs_device=True),
    "late": Shown("the answer comes delay_s later", MODBUS, ("every", "delay_s")),
    "twice": Shown("an answer or message comes twice; in Sparkplug with the same sequence number",
                   ("modbus_tcp", *BROKER), ("every",)),
    "cut": Shown("the answer ends in its middle", MODBUS, ("every",)),
    "other_unit": Shown("the answer names the next unit", MODBUS, ("every",)),
    "other_transaction": Shown("the answer belongs to another request", MODBUS, ("every",)),
    "silent": Shown("no answer", MODBUS, ("every",)),
    "close": Shown("the connection ends in place of an answer", MODBUS, ("every",)),
    "busy": Shown("exception 6, server device busy", MODBUS, ("every",)),
    "bad_node": Shown("each N-th node is unknown to the server", ("opc_ua",), ("every",)),
    "unreadable": Shown("a payload that nobody can read", BROKER, ("every",)),
    "retained": Shown("messages are published retained: who subscribes later is handed old ones", BROKER, ("every",)),
    "reorder": Shown("a message changes places with the next", BROKER, ("every",)),
    "gap": Shown("a message is lost before the broker; in Sparkplug its sequence number is missing", BROKER,
                 ("every",)),
    "missing_birth": Shown("the nodes connect anew and publish data without their births", SPARKPLUG),
    "historical": Shown("data flagged as historical", SPARKPLUG, ("every",)),
    "death": Shown("the nodes vanish: the broker publishes their death certificates, and they are born again",
                   SPARKPLUG, lasts=False)}
assert set(SHOWN) == set(get_args(Kind))
