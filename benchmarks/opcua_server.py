"""A load source for OPC UA clients: asyncua's own server for channel and session, prepared bytes for the rest.

    python benchmarks/opcua_server.py FOLDER [--mixed] [--secured] [--ms 100] [--items 10000]

Every Read of BATCH nodes gets a prepared ReadResponse; every `ms` milliseconds one PublishResponse holds a new value of
every monitored item, with its source time. What no PublishRequest waits for is queued, QUEUE rounds deep, as a server
queues values; the first item's value is the number of the round, so that a client sees what it missed. A response costs
this process one copy and, secured, its encryption: it is never the limit. Prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import struct
import sys
from collections import deque
from pathlib import Path
from typing import Any

import asyncua.server.binary_server_asyncio as server_module
from asyncua import Server, ua
from asyncua.crypto import cert_gen
from asyncua.server.uaprocessor import UaProcessor
from asyncua.ua.ua_binary import struct_from_binary
from cryptography.x509.oid import ExtendedKeyUsageOID

BATCH = 1000
URI = "urn:bench:opcua"
QUEUE = 10
"""Rounds that wait for a PublishRequest before the oldest is dropped."""
VARIANTS = 8
"""Different messages, in turn."""
TICKS = 134_000_000_000_000_000
"""A source time of 2025."""
WORDS = [word.encode() for word in ("运行", "停止", "待机", "报警", "MAINTENANCE")]
MIXED = "dfi?s"
READ, PUBLISH = 634, 829
HANDLE_AT, RESULT_BYTES = 12, 4


def value(kind: str, number: int, rng: random.Random) -> bytes:
    """A DataValue with a value and its source time."""
    source = struct.pack("<q", TICKS + number)
    if kind == "s":
        word = rng.choice(WORDS)
        return b"\x05\x0c" + struct.pack("<i", len(word)) + word + source
    code = {"d": 11, "f": 10, "i": 6, "?": 1}[kind]
    return bytes([5, code]) + struct.pack(f"<{kind}", number % 2 if kind == "?" else number) + source


def header(type_id: int) -> bytes:
    """Type and ResponseHeader; the request's handle stands at HANDLE_AT."""
    return bytes([1, 0]) + struct.pack("<Hq", type_id, TICKS) + bytes(4 + RESULT_BYTES + 1 + 4 + 3)


def read_response(kinds: list[str], variant: int) -> bytearray:
    """A ReadResponse of BATCH values."""
    rng = random.Random(variant)
    values = b"".join(value(kind, place + variant, rng) for place, kind in enumerate(kinds[:BATCH]))
    return bytearray(header(READ) + struct.pack("<i", BATCH) + values + struct.pack("<i", -1))


def publish_response(handles: list[int], kinds: list[str], variant: int) -> tuple[bytearray, int, int]:
    """A PublishResponse, and where the sequence number and the first value stand."""
    rng = random.Random(variant)
    items = b"".join(struct.pack("<I", handle) + value(kind, place + variant, rng)
                     for place, (handle, kind) in enumerate(zip(handles, kinds, strict=True)))
    change = struct.pack("<i", len(handles)) + items + struct.pack("<i", -1)
    start = header(PUBLISH) + struct.pack("<Ii?", 1, 0, False)
    body = bytearray(start + struct.pack("<Iqi", 0, TICKS, 1) + bytes([1, 0]) + struct.pack("<HBi", 811, 1, len(change))
                     + change + struct.pack("<ii", -1, -1))
    return body, len(start), len(start) + 16 + 9 + 4 + 4 + 2


class Replayer(UaProcessor):
    """What a connection asks for. One subscription, with number 1."""

    settings: argparse.Namespace
    kinds: list[str]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._waiting: deque[tuple[int, int]] = deque()
        self._rounds: deque[int] = deque(maxlen=QUEUE)
        self._ready: list[tuple[bytearray, int, int]] = []
        self._sent = 0
        self._handles: list[int] = []
        self._reads = [read_response(self.kinds, variant) for variant in range(VARIANTS)]
        self._served = 0
        self._ticker: asyncio.Task[None] | None = None

    def _answer(self, body: bytes, request_id: int) -> None:
        self._transport.write(self._connection.message_to_binary(body, request_id=request_id))

    async def _process_message(self, typeid: Any, requesthdr: Any, seqhdr: Any, body: Any) -> Any:
        kind, ids = typeid.Identifier, ua.ObjectIds
        if kind == ids.ReadRequest_Encoding_DefaultBinary:
            if struct.unpack_from("<i", bytes(body.copy(16)._data), body.cur_pos + 12)[0] == BATCH:
                self._served += 1
                response = self._reads[self._served % VARIANTS]
                struct.pack_into("<I", response, HANDLE_AT, requesthdr.RequestHandle)
                self._answer(bytes(response), seqhdr.RequestId)
                return True
        elif kind == ids.PublishRequest_Encoding_DefaultBinary:
            self._waiting.append((requesthdr.RequestHandle, seqhdr.RequestId))
            self._send()
            return True
        elif kind == ids.CreateSubscriptionRequest_Encoding_DefaultBinary:
            made = ua.CreateSubscriptionResponse()
            made.Parameters = ua.CreateSubscriptionResult(
                SubscriptionId=1, RevisedPublishingInterval=self.settings.ms, RevisedLifetimeCount=600,
                RevisedMaxKeepAliveCount=50)
            self.send_response(requesthdr.RequestHandle, seqhdr, made)
            return True
        elif kind == ids.CreateMonitoredItemsRequest_Encoding_DefaultBinary:
            asked = struct_from_binary(ua.CreateMonitoredItemsParameters, body)
            response = ua.CreateMonitoredItemsResponse()
            for item in asked.ItemsToCreate:
                self._handles.append(item.RequestedParameters.ClientHandle)
                response.Results.append(ua.MonitoredItemCreateResult(
                    MonitoredItemId=len(self._handles), RevisedSamplingInterval=self.settings.ms, RevisedQueueSize=1))
            self.send_response(requesthdr.RequestHandle, seqhdr, response)
            if len(self._handles) == self.settings.items:
                self._ticker = asyncio.create_task(self._tick())
            return True
        elif kind == ids.DeleteSubscriptionsRequest_Encoding_DefaultBinary:
            if self._ticker is not None:
                self._ticker.cancel()
            gone = ua.DeleteSubscriptionsResponse()
            gone.Results = [ua.StatusCode()]
            self.send_response(requesthdr.RequestHandle, seqhdr, gone)
            return True
        return await super()._process_message(typeid, requesthdr, seqhdr, body)

    async def _tick(self) -> None:
        """Make a round whenever it is due, and send it to the PublishRequest that waited longest."""
        self._ready = [publish_response(self._handles, self.kinds, variant) for variant in range(VARIANTS)]
        loop = asyncio.get_running_loop()
        due, number = loop.time(), 0
        while not self._transport.is_closing():
            due += self.settings.ms / 1000
            await asyncio.sleep(max(0.0, due - loop.time()))
            number += 1
            self._rounds.append(number)
            self._send()

    def _send(self) -> None:
        while self._rounds and self._waiting:
            number = self._rounds.popleft()
            handle, request_id = self._waiting.popleft()
            body, sequence_at, value_at = self._ready[number % VARIANTS]
            self._sent += 1
            struct.pack_into("<I", body, HANDLE_AT, handle)
            struct.pack_into("<I", body, sequence_at, self._sent)
            struct.pack_into("<d", body, value_at, number)
            self._answer(bytes(body), request_id)


async def serve(settings: argparse.Namespace) -> None:
    rng = random.Random(1)
    Replayer.settings = settings
    Replayer.kinds = ["d", *(rng.choice(MIXED if settings.mixed else "d") for _ in range(settings.items - 1))]
    server_module.UaProcessor = Replayer  # type: ignore[misc]  # asyncua has no other way in
    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0/bench")
    await server.register_namespace(URI)
    await server.set_application_uri("urn:bench:server")
    if settings.secured:
        key, certificate = settings.folder / "server.pem", settings.folder / "server.der"
        await cert_gen.setup_self_signed_certificate(
            key, certificate, "urn:bench:server", "localhost", [ExtendedKeyUsageOID.SERVER_AUTH],
            {"commonName": "bench"})
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        await server.load_certificate(str(certificate))
        await server.load_private_key(str(key))
    else:
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    async with server:
        assert server.bserver is not None
        print(server.bserver.port, flush=True)
        await asyncio.Event().wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the server's certificate is put")
    parser.add_argument("--mixed", action="store_true", help="five types in a random order, strings among them")
    parser.add_argument("--secured", action="store_true", help="Basic256Sha256, SignAndEncrypt")
    parser.add_argument("--ms", type=int, default=100)
    parser.add_argument("--items", type=int, default=10_000)
    asyncio.run(serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
