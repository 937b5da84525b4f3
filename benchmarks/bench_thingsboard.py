"""Row M3: the same tags through a Python gateway: 16 devices of 62 float32, every 200 ms, end to end.

The peer is ThingsBoard's gateway: Modbus in, MQTT out to a broker on which this process plays ThingsBoard and counts
what arrives. Ours is the real driver into real windows, which are sealed, and the Influx exporter to a server. CPU of
the whole process under test, in slices of some seconds once it runs; slices stand for repeats. Neither is held to one
core: with that, and a neighbour on it, the peer delivers next to nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.harness import (
    HERE,
    PYTHON,
    REPEATS,
    CannotMeasureError,
    Reading,
    Row,
    compiled,
    cores,
    cpu_of,
    environment,
    on_core,
    ratio,
    serving,
    told,
    versions,
)

DEVICES, FLOATS, POLL_MS = 16, 62, 200
SLICE_S, START_S_MAX = 5.0, 90.0


def row() -> Row:
    """Measure both, one after the other: they run for minutes, not in turns."""
    broker = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if broker is None:
        raise CannotMeasureError("no broker: install mosquitto")
    python = environment("thingsboard")
    with serving([compiled("modbus_server.c")]) as port:
        theirs = _thingsboard(python, broker, port)
        with serving([compiled("http_sink.c")]) as sink, tempfile.TemporaryDirectory() as journal:
            ours = _slices([PYTHON, str(HERE / "modbus_chain.py"), str(port), str(sink), journal],
                           dict(os.environ) | {"PYTHONPATH": str(ROOT)}, None)
    return Row(id="M3", versions=versions("pymodbus", "numpy") | versions("thingsboard-gateway", python=python),
               measures=(ratio(theirs, ours, target=50, peer="ThingsBoard gateway"),),
               notes={"ours": told(ours, unit="us a point"), "ThingsBoard gateway": told(theirs, unit="us a point"),
                      "points a second, ours": f"{sum(r.items for r in ours) / sum(r.wall_s for r in ours):.0f}",
                      "points a second, theirs": f"{sum(r.items for r in theirs) / sum(r.wall_s for r in theirs):.0f}"})


def _slices(command: list[str], env: dict[str, str], count: Callable[[], int] | None,
            cwd: Path | None = None) -> list[Reading]:
    """Run a process; return what it did in each slice. count: items so far; None if the process prints them."""
    process = subprocess.Popen(command, env=env, cwd=cwd or ROOT, text=True,
                               stdout=subprocess.PIPE if count is None else subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        if count is None:
            assert process.stdout is not None
            lines = (int(line) for line in process.stdout)
            count = lines.__next__
        until_s = time.monotonic() + START_S_MAX
        while count() < DEVICES * FLOATS * 10:
            if time.monotonic() > until_s or process.poll() is not None:
                raise CannotMeasureError(f"{Path(command[0]).name} delivered no points")
            time.sleep(0.1)
        found = []
        for _ in range(REPEATS):
            items, cpu_s, wall_s = count(), cpu_of(process.pid), time.monotonic()
            if process.stdout is None:
                time.sleep(SLICE_S)
                after = count()
            else:
                while time.monotonic() < wall_s + SLICE_S:
                    after = count()
            found.append(Reading(items=after - items, cpu_s=cpu_of(process.pid) - cpu_s,
                                 wall_s=time.monotonic() - wall_s))
        return found
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _thingsboard(python: Path, broker: str, modbus_port: int) -> list[Reading]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _broker(broker, folder) as port:
            _configure(python, folder, port, modbus_port)
            points = _play_thingsboard(port)
            command = [str(python), "-c", "from thingsboard_gateway.tb_gateway import daemon; daemon()"]
            return _slices(command, dict(os.environ) | {"TB_GW_CONFIG_DIR": str(folder / "config")},
                           lambda: points[0], folder)


@contextmanager
def _broker(program: str, folder: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    (folder / "broker.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", folder / "broker.conf"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, preexec_fn=on_core(cores()[0]))
    try:
        until_s = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > until_s:
                    raise CannotMeasureError("the broker does not start") from None
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def _configure(python: Path, folder: Path, broker_port: int, modbus_port: int) -> None:
    """Write the gateway's files: its own examples, with our broker and our devices."""
    found = subprocess.run([python, "-c", "import thingsboard_gateway as t; print(t.__path__[0])"], text=True,
                           capture_output=True, check=True).stdout.strip().splitlines()[-1]
    examples, config = Path(found) / "config", folder / "config"
    config.mkdir()
    (folder / "logs").mkdir()
    general = json.loads((examples / "tb_gateway.json").read_text())
    thingsboard: dict[str, Any] = general["thingsboard"]
    thingsboard |= {"host": "127.0.0.1", "port": broker_port, "remoteConfiguration": False, "qos": 0,
                    "maxPayloadSizeBytes": 65_536}
    thingsboard |= {key: "0:0," for key in thingsboard if "ateLimits" in key}
    thingsboard["statistics"]["enable"] = False
    general["storage"] |= {"max_records_count": 1_000_000, "read_records_count": 1_000}
    general["connectors"] = [{"name": "plant", "type": "modbus", "configuration": "plant.json", "logLevel": "ERROR"}]
    tags = [{"tag": f"f{i}", "type": "32float", "functionCode": 3, "objectsCount": 2, "address": 2 * i}
            for i in range(FLOATS)]
    slaves = [{"host": "127.0.0.1", "port": modbus_port, "type": "tcp", "method": "socket", "unitId": device + 1,
               "deviceName": f"device {device}", "deviceType": "default", "timeout": 5, "byteOrder": "BIG",
               "wordOrder": "LITTLE", "retries": 1, "pollPeriod": POLL_MS, "connectAttemptTimeMs": 1000,
               "connectAttemptCount": 5, "waitAfterFailedAttemptsMs": 1000, "attributes": [], "timeseries": tags}
              for device in range(DEVICES)]
    logs = json.loads((examples / "logs.json").read_text())
    for logger in logs.get("loggers", {}).values():
        logger["level"] = "ERROR"
    for name, content in (("tb_gateway.json", general), ("plant.json", {"master": {"slaves": slaves}}),
                          ("logs.json", logs)):
        (config / name).write_text(json.dumps(content))


def _play_thingsboard(port: int) -> list[int]:
    """Answer what the gateway asks of its platform; return a list of one number, the points that arrived so far."""
    points = [0]
    limits = dict.fromkeys(("messages", "telemetryMessages", "telemetryDataPoints"), "0:0,")
    session = {"maxPayloadSize": 65_536, "maxInflightMessages": 1000, "rateLimits": limits, "gatewayRateLimits": limits}

    def arrived(client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        if "/request/" in message.topic:
            client.publish(message.topic.replace("request", "response"),
                           json.dumps(session if "rpc" in message.topic else {}))
            return
        for entries in json.loads(message.payload).values():
            points[0] += sum(len(entry.get("values", entry)) for entry in entries)

    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_message = arrived
    client.connect("127.0.0.1", port)
    client.subscribe([("v1/gateway/telemetry", 0), ("v1/devices/me/rpc/request/+", 0),
                      ("v1/devices/me/attributes/request/+", 0)])
    client.loop_start()
    return points


if __name__ == "__main__":
    print(row())
