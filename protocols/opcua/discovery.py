"""Find devices and points of an OPC UA server: walk it gently, say which node is which device. No device library.

Source: OPC 40001-1 (Machinery), the folder Machines and the Identification of a machine; OPC 10000-100 (Devices), the
folder DeviceSet and the nameplate properties. Where a server has neither, objects with a nameplate of their own are
devices, and else the objects right below Objects.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field

from protocols.opcua.nameplate import GROUPS, PROPERTIES
from protocols.opcua.target import NAMESPACE_0

OBJECTS = f"nsu={NAMESPACE_0};i=85"
MACHINES = "nsu=http://opcfoundation.org/UA/Machinery/;i=1001"
DEVICE_SET = "nsu=http://opcfoundation.org/UA/DI/;i=5001"

LATENCY_S = 0.25
"""A server that needs longer for one request is asked for half as much with the next."""
FIRST_NODES = 10
"""So many nodes in the first requests: nobody knows yet what the server bears."""
LOAD = 0.5
"""Share of the time that a request of ours is at the server; it has the rest for others."""
PAUSE_MAX_S = 2.0
NODES_MAX = 100_000
DEPTH_MAX = 24
PAGES_MAX = 1000
"""Of the list of one node: a server may say of every page that there is one more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One node below another. key names it within the session; address is `nsu=...`, its name in every session."""

    key: Hashable
    address: str
    name: str
    is_variable: bool
    is_property: bool


@dataclass(slots=True, kw_only=True)
class Found:
    """One node of the walk. parent: position in the list, -1 below the root. data_type: of POINT_TYPES, or empty."""

    key: Hashable
    address: str
    name: str
    parent: int
    depth: int
    is_variable: bool
    is_property: bool
    data_type: str = ""


@dataclass(slots=True, kw_only=True)
class Walk:
    """What a walk found, and how hard it was on the server. is_whole: nothing was left out for its number or depth.

    endless: the addresses of nodes that are listed in so many pages that the rest was left out.
    """

    nodes: list[Found] = field(default_factory=list)
    requests: int = 0
    slowest_s: float = 0.0
    asked_s: float = 0.0
    is_whole: bool = True
    endless: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Machine:
    """A device as suggested. why: machines, device_set, nameplate or position. parent: position of its owner, or -1."""

    node: int
    name: str
    why: str
    parent: int
    plate: dict[str, str] = field(default_factory=dict)
    points: list[int] = field(default_factory=list)


async def walk(root: Hashable, browse: Callable[[Sequence[Hashable]], Awaitable[list[list[Reference]]]], *, batch: int,
               nodes_max: int = NODES_MAX, progress: Callable[[Walk], None] = lambda _walk: None,
               clock: Callable[[], float], sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> Walk:
    """Walk everything below `root`, nearest first, one request at a time; namespace 0, the server itself, is left out.

    Args:
        browse: return what is below each of at most `batch` nodes. clock, sleep: seconds.
    Raises: what `browse` raises. Cancelling is safe at any time.
    """
    done, size = Walk(), min(batch, FIRST_NODES)
    seen = {root}
    waiting: deque[tuple[Hashable, int, int]] = deque([(root, -1, 0)])
    while waiting:
        part = [waiting.popleft() for _ in range(min(size, len(waiting)))]
        began_s = clock()
        listed = await browse([key for key, _, _ in part])
        took_s = clock() - began_s
        done.requests += 1
        done.asked_s += took_s
        done.slowest_s = max(done.slowest_s, took_s)
        if took_s > LATENCY_S:
            size = max(1, size // 2)
        elif took_s < LATENCY_S / 4:
            size = min(batch, size * 2)
        for (_, parent, depth), references in zip(part, listed, strict=True):
            for reference in references:
                if reference.key in seen or reference.address.startswith(f"nsu={NAMESPACE_0};"):
                    continue
                if len(done.nodes) >= nodes_max:
                    done.is_whole = False
                    waiting.clear()
                    break
                seen.add(reference.key)
                done.nodes.append(Found(key=reference.key, address=reference.address, name=reference.name,
                                        parent=parent, depth=depth, is_variable=reference.is_variable,
                                        is_property=reference.is_property))
                if not reference.is_property:
                    if depth + 1 < DEPTH_MAX:
                        waiting.append((reference.key, len(done.nodes) - 1, depth + 1))
                    else:
                        done.is_whole = False
        progress(done)
        if waiting:
            await sleep(min(PAUSE_MAX_S, took_s * (1 / LOAD - 1)))
    return done


def plates_of(nodes: Sequence[Found]) -> dict[int, dict[str, int]]:
    """Return object -> property of its nameplate -> node with it, on the object itself or in its Identification."""
    found: dict[int, dict[str, int]] = {}
    for position, node in enumerate(nodes):
        if node.name in PROPERTIES and node.is_variable and node.parent >= 0:
            owner = node.parent
            if nodes[owner].name in GROUPS and nodes[owner].parent >= 0:
                owner = nodes[owner].parent
            found.setdefault(owner, {}).setdefault(PROPERTIES[node.name], position)
    return found


def suggest(nodes: Sequence[Found]) -> list[Machine]:
    """Say which nodes are devices, and give every variable that is no property to the nearest one above it."""
    plates = plates_of(nodes)
    why: dict[int, str] = {}
    for position, node in enumerate(nodes):
        above = nodes[node.parent].address if node.parent >= 0 else ""
        if node.is_variable:
            continue
        if above == MACHINES:
            why[position] = "machines"
        elif above == DEVICE_SET:
            why[position] = "device_set"
        elif {"serial_number", "product_instance_uri"} & plates.get(position, {}).keys():
            why[position] = "nameplate"
    plate_nodes = {held for plate in plates.values() for held in plate.values()}
    points: dict[int, list[int]] = {}
    for position, node in enumerate(nodes):
        if not node.is_variable or node.is_property or position in plate_nodes or _in_plate(nodes, position):
            continue
        owner = node.parent
        while owner >= 0 and owner not in why and nodes[owner].parent >= 0:
            owner = nodes[owner].parent
        points.setdefault(owner, []).append(position)
        if owner >= 0:
            why.setdefault(owner, "position")
    machines = [Machine(node=position, name=nodes[position].name, why=why[position], parent=-1,
                        points=points.get(position, [])) for position in sorted(why)]
    if -1 in points:  # variables right below Objects
        machines.append(Machine(node=-1, name="server", why="position", parent=-1, points=points[-1]))
    place = {machine.node: number for number, machine in enumerate(machines)}
    for machine in machines:
        owner = nodes[machine.node].parent if machine.node >= 0 else -1
        while owner >= 0 and owner not in place:
            owner = nodes[owner].parent
        machine.parent = place[owner] if owner >= 0 else -1
    return machines


def _in_plate(nodes: Sequence[Found], position: int) -> bool:
    parent = nodes[position].parent
    return parent >= 0 and nodes[parent].name in GROUPS
