"""Find the nameplate of a device near its points: climb to the object that carries it. Reads only; no device library.

Companion specifications put Manufacturer, Model, SerialNumber and ProductInstanceUri on the device's object (OPC
10000-100, 4.5.2) or in its Identification folder (OPC 40001-1). A node above the points of two devices is a line, a
cell or the server, and its nameplate is nobody's here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from protocols.opcua.target import Nameplate

LEVELS_MAX = 5
TEXT_CHARS_MAX = 200
PROPERTIES = {"Manufacturer": "manufacturer", "Model": "model", "SerialNumber": "serial_number",
              "ProductInstanceUri": "product_instance_uri"}
GROUPS = ("Identification", "Nameplate")

PAUSE_MAX_S = 2.0

Node = TypeVar("Node", bound=Hashable)
Answer = TypeVar("Answer")


async def read_nameplates(
    points: Mapping[int, Node], *, root: Node,
    parents: Callable[[Sequence[Node]], Awaitable[list[Node | None]]],
    children: Callable[[Sequence[Node]], Awaitable[list[list[tuple[str, Node]]]]],
    read_text: Callable[[Sequence[Node]], Awaitable[list[str]]],
) -> list[Nameplate]:
    """Return one nameplate per device, in order of device; properties that are not found stay empty.

    Args:
        points: device -> the node of one of its points.
        root: where climbing ends, the Objects folder.
        parents, children, read_text: answer for many nodes at once, in order; children as (browse name, node).
    """
    above = await _climb(points, root, parents)
    owners = Counter(node for chain in above.values() for node in chain)
    own = {device: [node for node in chain if owners[node] == 1] for device, chain in above.items()}
    places = [(device, node) for device, chain in own.items() for node in chain]
    found: dict[tuple[int, str], Node] = {}
    for _ in range(2):  # the object itself, then the groups below it
        groups: list[tuple[int, Node]] = []
        for (device, _), listed in zip(places, await children([node for _, node in places]), strict=True):
            for name, node in listed:
                if name in PROPERTIES:
                    found.setdefault((device, name), node)  # the nearest object wins
                elif name in GROUPS:
                    groups.append((device, node))
        places = groups
    texts = await read_text(list(found.values()))
    plates: dict[int, dict[str, str]] = {device: {} for device in sorted(points)}
    for (device, name), text in zip(found, texts, strict=True):
        plates[device][PROPERTIES[name]] = "".join(c for c in text if c.isprintable())[:TEXT_CHARS_MAX]
    return [Nameplate(device_index=device, **plate) for device, plate in plates.items()]


def gently(ask: Callable[[Sequence[Node]], Awaitable[list[Answer]]], batch: int, *, clock: Callable[[], float],
           sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
           ) -> Callable[[Sequence[Node]], Awaitable[list[Answer]]]:
    """Return `ask` for any number of nodes: `batch` at a time, and the server has as long for others after each."""
    async def asked(nodes: Sequence[Node]) -> list[Answer]:
        answers: list[Answer] = []
        for start in range(0, len(nodes), batch):
            began_s = clock()
            answers += await ask(nodes[start:start + batch])
            await sleep(min(PAUSE_MAX_S, clock() - began_s))
        return answers
    return asked


async def _climb(
    points: Mapping[int, Node], root: Node, parents: Callable[[Sequence[Node]], Awaitable[list[Node | None]]],
) -> dict[int, list[Node]]:
    """Return the ancestors of each point, nearest first, without the root."""
    above: dict[int, list[Node]] = {device: [] for device in points}
    here: dict[int, Node] = dict(points)
    for _ in range(LEVELS_MAX):
        going = list(here)
        if not going:
            break
        for device, parent in zip(going, await parents([here[device] for device in going]), strict=True):
            if parent is None or parent == root or parent in above[device]:
                del here[device]
            else:
                here[device] = parent
                above[device].append(parent)
    return above
