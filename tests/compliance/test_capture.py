"""What leaves the gateway is read-only, says a packet analyser that is not ours.

The plant's wires record both directions byte by byte (simulators/pcap.py; raw sockets need rights that a test does not
have), and tshark names every Modbus function, OPC UA service and MQTT message in the record.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from protocols.modbus.driver import Driver as ModbusDriver
from simulators.pcap import Capture, Stream
from tests.compliance.driver_bench import Bench, be_impatient, collecting
from tests.support.programs import need

READING_FUNCTIONS = {1, 2, 3, 4, 17, 43}
READING_SERVICES = {  # OPC 10000-6, NodeIds of the binary encodings: requests that change nothing on a device
    428: "GetEndpoints", 446: "OpenSecureChannel", 452: "CloseSecureChannel", 461: "CreateSession",
    467: "ActivateSession", 473: "CloseSession", 527: "Browse", 533: "BrowseNext", 554: "TranslateBrowsePaths",
    631: "Read", 751: "CreateMonitoredItems", 787: "CreateSubscription", 826: "Publish", 832: "Republish",
    841: "TransferSubscriptions", 847: "DeleteSubscriptions"}
FORBIDDEN_SERVICES = {673: "Write", 712: "Call", 488: "AddNodes", 500: "DeleteNodes", 700: "HistoryUpdate"}
CONNECT, PUBLISH, SUBSCRIBE = 1, 3, 8


def shown(capture: Path, port: int, protocol: str, what: str, *fields: str) -> list[list[str]]:
    """Return the fields of every message that a client sent to this port, as tshark reads it."""
    done = subprocess.run(
        ["tshark", "-n", "-r", str(capture), "-d", f"tcp.port=={port},{protocol}", "-Y",
         f"tcp.dstport=={port} && {what}", "-T", "fields", "-E", "occurrence=a",
         *(option for field in fields for option in ("-e", field))],
        capture_output=True, text=True, timeout=60, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def numbers(rows: list[list[str]]) -> Counter[int]:
    """Return how often each number stands in the first field; a packet may hold several messages."""
    return Counter(int(number, 0) for row in rows for number in row[0].split(","))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_impatient(monkeypatch)


async def recorded(folder: Path, *cases: str) -> tuple[Bench, Path]:
    """Run drivers, one after the other, through connect, nameplates, a loss and their end; return the record."""
    capture = folder / "plant.pcap"
    bench = Bench(cases[0], folder, capture=capture)
    async with bench.running():
        for bench.case in cases:
            driver = bench.driver()
            async with collecting(driver):
                await bench.fresh("connect")
                if isinstance(driver, ModbusDriver):
                    assert await driver.identities()
                await bench.play("lose")
                await bench.fresh("return")
        assert bench.plant.writes == 0
    return bench, capture


async def test_modbus_functions(tmp_path: Path) -> None:
    need("tshark")
    bench, capture = await recorded(tmp_path, "modbus_tcp")
    found = numbers(shown(capture, bench.wire.port, "mbtcp", "mbtcp", "modbus.func_code"))
    assert set(found) <= READING_FUNCTIONS, found
    assert found[43] and any(found[code] for code in (3, 4)), found


async def test_opc_ua_services(tmp_path: Path) -> None:
    need("tshark")
    bench, capture = await recorded(tmp_path, "opc_ua_subscription", "opc_ua_polling")
    found = numbers(shown(capture, bench.wire.port, "opcua", "opcua.servicenodeid.numeric",
                          "opcua.servicenodeid.numeric"))
    assert not found.keys() & FORBIDDEN_SERVICES.keys(), found
    assert set(found) <= set(READING_SERVICES), found
    assert found[826] and found[631], f"published and polled: {found}"


@pytest.mark.parametrize("case", ["mqtt", "sparkplug_b"])
async def test_mqtt_messages(case: str, tmp_path: Path) -> None:
    need("tshark")
    bench, capture = await recorded(tmp_path, case)
    kinds = numbers(shown(capture, bench.wire.port, "mqtt", "mqtt", "mqtt.msgtype"))
    assert kinds[CONNECT] >= 2
    assert kinds[SUBSCRIBE] >= 2
    published = [topic for row in shown(capture, bench.wire.port, "mqtt", f"mqtt.msgtype == {PUBLISH}", "mqtt.topic")
                 for topic in row[0].split(",")]
    assert all("/NCMD/" in topic for topic in published), published
    assert len(published) == bench.sent.messages["rebirth requests"], "all that was published asks for a rebirth"
    assert bool(published) == (case == "sparkplug_b")


def test_the_analyser_would_see_a_write(tmp_path: Path) -> None:
    """A record with one write of a register in it: what the tests above look for is found where it is."""
    need("tshark")
    capture = Capture(tmp_path / "x.pcap")
    stream = Stream(capture, ("127.0.0.1", 40_000), ("127.0.0.1", 15_002))
    for pdu in ("0300000001", "0600000001"):
        stream.data(bytes.fromhex("00070000000601") + bytes.fromhex(pdu), by_client=True)
    stream.close()
    capture.close()
    found = numbers(shown(tmp_path / "x.pcap", 15_002, "mbtcp", "mbtcp", "modbus.func_code"))
    assert found == {3: 1, 6: 1}
