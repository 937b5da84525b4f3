"""The driver against libmodbus, a Modbus stack in C that shares nothing with pymodbus."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from pymodbus.server import ModbusSerialServer

from protocols.modbus import schedule
from protocols.modbus.driver import Driver, Link
from protocols.modbus.frames import Reply
from protocols.modbus.target import UnitSettings
from tests.support.programs import need
from tests.unit.protocols.modbus.authority import Authority, role
from tests.unit.protocols.modbus.recording import Recording, closed_port, endpoint, point, running, until
from tests.unit.protocols.modbus.test_modbus_driver import device

pytestmark = pytest.mark.live

SOURCE = Path(__file__).with_name("modbus_libserver.c")
UNIT = 17


@pytest.fixture(scope="session")
def server_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile our small server around libmodbus."""
    need("gcc", "pkg-config")
    asked = subprocess.run(["pkg-config", "--cflags", "--libs", "libmodbus"], capture_output=True, text=True)
    if asked.returncode:
        reason = "libmodbus-dev is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    program = tmp_path_factory.mktemp("libmodbus") / "modbus_libserver"
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-o", str(program), str(SOURCE), *shlex.split(asked.stdout)],
                   check=True, timeout=60)
    return program


@asynccontextmanager
async def process(*command: str, counts_writes: bool = True) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program that ends with its standard input; end it by its id otherwise. It must say that nobody wrote."""
    child = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE,
                                                 stdout=asyncio.subprocess.PIPE)
    try:
        yield child
    finally:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.close()
        try:
            await asyncio.wait_for(child.wait(), 20)
            if counts_writes and child.returncode == 0:  # else a test has killed it
                told = (await child.stdout.read()).decode().splitlines()
                assert told[-1:] == ["writes 0"], told
        except TimeoutError:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()


async def line_of(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    return (await asyncio.wait_for(child.stdout.readline(), 60)).decode().strip()


POINTS = [
    point(0, f"{UNIT}/holding/100", "float32"), point(1, f"{UNIT}/holding/102", "float32", order="CDAB"),
    point(2, f"{UNIT}/holding/104", "float32", order="BADC"), point(3, f"{UNIT}/holding/106", "float32", order="DCBA"),
    point(4, f"{UNIT}/holding/108", "int32"), point(5, f"{UNIT}/holding/110:4", "string"),
    point(6, f"{UNIT}/input/299", "uint16"), point(7, f"{UNIT}/coil/102"), point(8, f"{UNIT}/coil/103"),
    point(9, f"{UNIT}/discrete/297"), point(10, f"{UNIT}/holding/120", "uint16"),
    point(11, f"{UNIT}/holding/128.7"), point(12, f"{UNIT}/holding/128.0"),
]
TRUE = {0: 21.5, 1: -0.25, 2: 1e6, 3: 3.5, 4: -7.0, 6: 897.0, 7: 1.0, 8: 0.0, 9: 1.0, 11: 1.0, 12: 0.0}


def judge(sink: Recording) -> None:
    """Every value is what the C program holds; the request counter only ever rises."""
    assert {i: set(v) for i, v in sink.values.items() if i not in (5, 10)} == {i: {v} for i, v in TRUE.items()}
    assert set(sink.texts[5]) == {"PUMP 7"}
    counted = sink.values[10]
    assert all(a < b for a, b in pairwise(counted))
    assert set(sink.replies) == {0}


async def test_all_tables_and_orders_over_tcp(server_program: Path) -> None:
    sink = Recording()
    async with process(str(server_program), "tcp") as child:
        port = int((await line_of(child)).split()[1])
        driver = Driver(endpoint(port), POINTS, sink)
        assert len(driver.plan()) == 4
        async with running(driver):
            await until(lambda: len(sink.values.get(12, [])) >= 20)
            assert "LMB" in (await driver.identify(UNIT))["server_id"]  # no 43/14 there; its function 17 says LMB3.1.6
        [result] = await driver.check()
    judge(sink)
    assert sink.events == []
    assert (result.ok, result.code) == (True, "modbus.check_ok")
    assert "LMB" in dict(result.args)["identity"]


async def test_over_tls_that_socat_ends_before_it(server_program: Path, tmp_path: Path) -> None:
    """socat asks for a certificate of its authority, and carries what is inside TLS to libmodbus as it is."""
    need("socat")
    ca = Authority(tmp_path / "ca")
    outside, own = ca.pair("outside", host="127.0.0.1"), ca.pair("gateway", role=role("Operator"))
    stranger = Authority(tmp_path / "other").pair("stranger")
    async with process(str(server_program), "tcp") as child:
        inner = int((await line_of(child)).split()[1])
        with closed_port() as outer:
            ends = (f"OPENSSL-LISTEN:{outer},bind=127.0.0.1,reuseaddr,fork,cert={outside.certificate},"
                    f"key={outside.key},cafile={ca.file},verify=1", f"TCP:127.0.0.1:{inner}")
            socat = await asyncio.create_subprocess_exec("socat", *ends, stdin=asyncio.subprocess.DEVNULL,
                                                         stderr=asyncio.subprocess.DEVNULL)
            try:
                await listening(outer)
                sink = Recording()
                files = {"ca_file": ca.file, "certificate_file": own.certificate, "key_file": own.key}
                at = endpoint(outer, protocol="modbus_tls", endpoint=f"tls://127.0.0.1:{outer}", **files)
                driver = Driver(at, POINTS, sink)
                [result] = await driver.check()
                assert (result.ok, result.code, dict(result.args)["role"]) == (True, "modbus.check_ok_tls", "Operator")
                async with running(driver):
                    await until(lambda: len(sink.values.get(12, [])) >= 10)
                files |= {"certificate_file": stranger.certificate, "key_file": stranger.key}
                refused = Driver(endpoint(outer, protocol="modbus_tls", endpoint=f"tls://127.0.0.1:{outer}", **files),
                                 POINTS, Recording())
                [result] = await refused.check()
                assert (result.ok, result.code in ("modbus.tls_unwelcome", "modbus.tls_failed")) == (False, True)
            finally:
                socat.terminate()
                await socat.wait()
    judge(sink)
    assert sink.events == []


async def listening(port: int) -> None:
    """Wait until something accepts connections on this port of loopback."""
    async with asyncio.timeout(30):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.01)


async def test_what_it_refuses_is_found_by_bisecting(server_program: Path) -> None:
    sink = Recording()
    points = [point(a, f"{UNIT}/input/{a}", "uint16") for a in range(90, 120)]
    async with process(str(server_program), "tcp") as child:
        driver = Driver(endpoint(int((await line_of(child)).split()[1])), points, sink)
        [result] = await driver.check()
        async with running(driver):
            await until(lambda: set(sink.values) == set(range(100, 120)))
            await until(lambda: sink.codes().count("modbus.points_refused") == 10)
    assert (result.code, dict(result.args)["points"], dict(result.args)["exception"]) == (
        "modbus.check_refused", "10", "2")
    assert all(set(v) == {3.0 * a} for a, v in sink.values.items())


async def test_it_comes_back_when_the_server_was_killed(server_program: Path) -> None:
    sink = Recording()
    async with process(str(server_program), "tcp") as child:
        port = int((await line_of(child)).split()[1])
        driver = Driver(endpoint(port), POINTS[:1], sink)
        async with running(driver):
            await until(lambda: len(sink.values.get(0, [])) >= 3)
            child.kill()
            await child.wait()
            await until(lambda: "modbus.lost" in sink.codes())
    assert set(sink.values[0]) == {21.5}


@asynccontextmanager
async def serial_line(tmp_path: Path) -> AsyncIterator[tuple[Path, Path]]:
    """Two ends of a serial line made of pseudo terminals."""
    need("socat")
    ends = tmp_path / "near", tmp_path / "far"
    child = await asyncio.create_subprocess_exec(
        "socat", *(f"pty,rawer,link={end}" for end in ends), stdin=asyncio.subprocess.DEVNULL)
    try:
        await until(lambda: all(end.exists() for end in ends), what="the serial line")
        yield ends
    finally:
        with suppress(ProcessLookupError):
            child.terminate()
        await child.wait()


@pytest.fixture
def brief_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over RTU libmodbus says nothing to 43/14: that alone is waited for in vain, and so not for long."""
    real = Link.read_identification

    async def brief(self: Link, unit: int, code: int, object_id: int) -> Reply:
        limits = self._limits[unit]
        self._limits[unit] = replace(limits, timeout_s=0.5)
        try:
            return await real(self, unit, code, object_id)
        finally:
            self._limits[unit] = limits

    monkeypatch.setattr(Link, "read_identification", brief)


@pytest.mark.usefixtures("brief_identity")
async def test_rtu_over_tcp_through_a_serial_gateway(server_program: Path, tmp_path: Path) -> None:
    """libmodbus as RTU unit 17 on a serial line, and a gateway that carries its bytes over TCP.

    No dead unit beside it: a libmodbus server waits for the answer of any other unit that was asked on its line, and
    takes the next request for it.
    """
    sink = Recording()
    async with serial_line(tmp_path) as (near, far):
        async with process(str(server_program), "rtu", str(far)) as child:
            assert await line_of(child) == "ready"
            async with gateway(near) as port:
                at = endpoint(port, protocol="modbus_rtu_over_tcp", timeout_s=5.0)
                driver = Driver(at, POINTS, sink)
                [result] = await driver.check()
                async with running(driver):
                    await until(lambda: len(sink.values.get(12, [])) >= 10)
    judge(sink)
    assert (result.ok, result.code) == (True, "modbus.check_ok")
    assert sink.events == []


@asynccontextmanager
async def gateway(device: Path) -> AsyncIterator[int]:
    """Carry bytes between TCP and a serial line and understand none of them, as cheap serial gateways do."""
    line = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    clients: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(writer)
        while data := await reader.read(1000):
            os.write(line, data)
        clients.remove(writer)
        writer.close()

    def back() -> None:
        data = os.read(line, 1000)
        for client in clients:
            client.write(data)

    asyncio.get_running_loop().add_reader(line, back)
    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        asyncio.get_running_loop().remove_reader(line)
        os.close(line)


@pytest.mark.usefixtures("brief_identity")
async def test_a_serial_line(server_program: Path, tmp_path: Path) -> None:
    sink = Recording()
    async with serial_line(tmp_path) as (near, far):
        async with process(str(server_program), "rtu", str(far)) as child:
            assert await line_of(child) == "ready"
            at = endpoint(0, protocol="modbus_rtu", endpoint=f"serial://{near}", baudrate=19200, parity="N",
                          timeout_s=5.0)
            driver = Driver(at, POINTS, sink)
            [result] = await driver.check()
            async with running(driver):
                await until(lambda: len(sink.values.get(12, [])) >= 10)
    judge(sink)
    assert (result.ok, result.code) == (True, "modbus.check_ok")


async def test_a_dead_unit_on_a_serial_line_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """socat is the line. libmodbus cannot share one with a dead unit (see above), so pymodbus's server answers here.

    Each question to the dead unit costs a timeout, and one of silence; then the same line is opened again.
    """
    monkeypatch.setattr(schedule, "SILENT_FIRST_S", 1.0)
    sink = Recording()
    points = [point(unit, f"{unit}/holding/0", "float32", device=unit) for unit in (1, 2, 3)]
    asked: set[int] = set()

    def deaf(sending: bool, data: bytes) -> bytes:
        if sending or len(data) < 7:
            return data
        request = data[-8:]  # what was not answered before is still in the server's buffer
        asked.add(request[1])
        return b"" if request[0] == 2 else request

    async with serial_line(tmp_path) as (near, far):
        server = ModbusSerialServer([device(1, [0x41AC, 0]), device(3, [0xC040, 0])], port=str(far), baudrate=19200,
                                    parity="N", trace_packet=deaf)
        await server.serve_forever(background=True)
        try:
            at = endpoint(0, protocol="modbus_rtu", endpoint=f"serial://{near}", baudrate=19200, parity="N",
                          poll_s=0.05, timeout_s=0.1, units=(UnitSettings(ids=(1, 3), timeout_s=20.0),))
            driver = Driver(at, points, sink)
            assert [(r.ok, r.code) for r in await driver.check()] == [
                (True, "modbus.check_ok"), (False, "modbus.timeout"), (True, "modbus.check_ok")]
            async with running(driver):
                await until(lambda: "modbus.unit_silent" in sink.codes())
                had = dict(sink.replies)
                await until(lambda: all(sink.replies[u] > had.get(u, 0) + 20 for u in (1, 3)))
        finally:
            await server.shutdown()
    assert {slot: set(values) for slot, values in sink.values.items()} == {1: {21.5}, 3: {-3.0}}
    assert [code for code in sink.codes() if code != "modbus.overrun"][:2] == ["modbus.timeout", "modbus.unit_silent"]
    assert 3 in asked
    assert not asked & {5, 6, 15, 16, 22, 23}
