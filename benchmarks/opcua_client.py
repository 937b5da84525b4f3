"""A client of `opcua_server.py`: our driver, or stock asyncua. Tells what it took, as `harness.py` says.

    python benchmarks/opcua_client.py ours|stock read|subscribe PORT FOLDER [--secured] [--seconds 3] [--items 10000]
        [--first 0] [--namespace INDEX]

Ours is the whole driver, as the gateway runs it, up to its sink: connection, decoding, batches, connected devices.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from asyncua import Client, ua
from numpy.typing import NDArray

from benchmarks.calibration import CHECK_S, check_s
from benchmarks.harness import Began
from benchmarks.opcua_server import BATCH, URI
from protocols.opcua.driver import OpcUaDriver
from protocols.opcua.pki import own_certificate
from protocols.opcua.target import OpcUaEndpoint, OpcUaPoint, parse_address
from protocols.samples import PollBatch, SampleBatch

POINTS_PER_DEVICE = 40
WARM_S = 1.0


class Counter:
    """A sink that counts what arrives, and which rounds the first point saw. lacking: points without a value yet."""

    def __init__(self, items: int) -> None:
        self.samples_seen = 0
        self.rounds: list[float] = []
        self.lacking: NDArray[np.bool_] | None = np.ones(items, dtype=bool)

    def samples(self, batch: SampleBatch | PollBatch) -> None:
        self.samples_seen += batch.value.size
        if self.lacking is not None and isinstance(batch, SampleBatch):
            self.lacking[batch.point_index] = False
            if not self.lacking.any():
                self.lacking = None
        if isinstance(batch, SampleBatch) and batch.point_index[0] == 0:
            self.rounds.append(float(batch.value[0]))

    def answered(self, device_index: Sequence[int] | NDArray[np.int64], received_ns: int) -> None:
        pass

    online = offline = answered

    def discarded(self, reason: str, count: int) -> None:
        raise SystemExit(f"{count} samples were discarded: {reason}")

    def event(self, code: str, where: str, **args: object) -> None:
        if code == "opcua.overflow":  # the server's own loss, when it has no time: the share that arrived tells it
            return
        raise SystemExit(f"{where}: {code} {args}")


class Handler:
    """What stock asyncua calls for every value."""

    def __init__(self) -> None:
        self.samples_seen = 0
        self.rounds: list[float] = []

    def datachange_notification(self, node: Any, val: Any, _data: Any) -> None:
        self.samples_seen += 1
        if node.nodeid.Identifier == 0:
            self.rounds.append(val)


async def ours(args: argparse.Namespace) -> None:
    """Run the driver."""
    security: dict[str, Any] = {"security_policy": "None", "security_mode": "None", "allow_insecure": True}
    if args.secured:
        security = {"security_policy": "Basic256Sha256", "security_mode": "SignAndEncrypt"}
        (args.folder / "trusted").mkdir(exist_ok=True)
        shutil.copy(args.folder / "server.der", args.folder / "trusted" / "server.der")
    endpoint = OpcUaEndpoint(
        name="bench", url=f"opc.tcp://127.0.0.1:{args.port}/bench", pki_dir=args.folder / "pki", profile="kepware",
        trust_dir=args.folder / "trusted", publishing_interval_ms=100, idle_read_s=3600.0, timeout_s=30.0,
        poll_s=0.05 if args.what == "read" else 1.0, reads="polling" if args.what == "read" else "subscription",
        **security)
    uri = URI if args.namespace is None else await namespace(args.port, args.namespace)
    points = [OpcUaPoint(point_index=place, device_index=place // POINTS_PER_DEVICE,
                         address=parse_address(f"nsu={uri};i={args.first + place}")) for place in range(args.items)]
    sink = Counter(args.items)
    driver = asyncio.create_task(OpcUaDriver(endpoint, points, sink).run())
    while sink.lacking is not None and not driver.done():  # noqa: ASYNC110  # a sink counts, no more
        await asyncio.sleep(0.01)
    if driver.done():
        await driver
    await measured(sink, args.seconds, counts_rounds=args.what == "subscribe")
    driver.cancel()
    await asyncio.gather(driver, return_exceptions=True)


async def namespace(port: int, index: int) -> str:
    """Return the name of a namespace of a server."""
    async with Client(f"opc.tcp://127.0.0.1:{port}/bench", timeout=30) as client:
        return (await client.get_namespace_array())[index]


async def stock(args: argparse.Namespace) -> None:
    """Run asyncua as its documentation shows it."""
    client = Client(f"opc.tcp://127.0.0.1:{args.port}/bench", timeout=30, watchdog_intervall=30.0)
    if args.secured:
        own = own_certificate(args.folder / "pki")
        (args.folder / "client.der").write_bytes(own.certificate)
        (args.folder / "client.pem").write_bytes(own.key)
        client.application_uri = own.application_uri
        await client.set_security_string(
            f"Basic256Sha256,SignAndEncrypt,{args.folder / 'client.der'},{args.folder / 'client.pem'},"
            f"{args.folder / 'server.der'}")
    async with client:
        index = await client.get_namespace_index(URI)
        nodes = [client.get_node(ua.NodeId(place, index)) for place in range(args.items)]
        handler = Handler()
        if args.what == "read":
            reading = asyncio.create_task(read(client, nodes, handler))
            await measured(handler, args.seconds, counts_rounds=False)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        else:
            subscription = await client.create_subscription(100, handler)
            for start in range(0, len(nodes), BATCH):
                await subscription.subscribe_data_change(nodes[start:start + BATCH])
            while handler.samples_seen < args.items:  # noqa: ASYNC110  # what stock calls counts, no more
                await asyncio.sleep(0.01)
            await measured(handler, args.seconds, counts_rounds=True)
            await subscription.delete()


async def read(client: Client, nodes: list[Any], handler: Handler) -> None:
    """Read all nodes, BATCH a request, one request after the other, for ever."""
    while True:
        for start in range(0, len(nodes), BATCH):
            handler.samples_seen += len(await client.read_values(nodes[start:start + BATCH]))


async def measured(sink: Counter | Handler, seconds: float, *, counts_rounds: bool) -> None:
    """Warm up, and count for some seconds; calibrate before and after."""
    await asyncio.sleep(WARM_S)
    before_s = check_s()
    sink.samples_seen, sink.rounds = 0, []
    began = Began.now()
    await asyncio.sleep(seconds)
    ended, rounds = Began.now(), [*sink.rounds]
    seen, cpu_s, wall_s = sink.samples_seen, ended.cpu_s - began.cpu_s, ended.wall_s - began.wall_s
    missed = rounds[-1] - rounds[0] + 1 - len(rounds) if counts_rounds and len(rounds) > 1 else 0.0
    scale = CHECK_S / ((before_s + check_s()) / 2)
    print(json.dumps({"items": seen, "cpu_s": cpu_s, "wall_s": wall_s, "missed": missed, "scale": scale}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("who", choices=("ours", "stock"))
    parser.add_argument("what", choices=("read", "subscribe"))
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--secured", action="store_true")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first node (ours)")
    parser.add_argument("--namespace", type=int, help="index of the nodes' namespace, if it is not the bench's (ours)")
    args = parser.parse_args()
    logging.disable(logging.ERROR)
    asyncio.run(ours(args) if args.who == "ours" else stock(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
