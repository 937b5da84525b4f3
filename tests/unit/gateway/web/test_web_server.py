"""The page over HTTP, no browser: who may ask, what is refused and escaped, and that it says what `status` does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from markupsafe import escape

from gateway.commissioning.identity import Finding
from gateway.counting.figures import STAGES
from gateway.web import pages, server
from gateway.web.devices import QUALITIES, STATES
from gateway.web.server import HEADERS, host_of
from protocols.terms.vocabulary import DISCARD_REASONS, ROLES
from tallystick.__main__ import main
from tallystick.words.lookup import LANGUAGES, Words
from tests.support.processes import free_port
from tests.support.source import ROOT
from tests.support.web_plant import WebPlant
from tests.unit.gateway.commissioning.plants import device, point

HOSTILE = "<script>document.title='caught'</script>"
PATHS = ("/", "/devices", "/devices/press-1", "/connections", "/plan", "/evidence", "/record")
Client = TestClient[web.Request, web.Application]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebPlant]:
    plant = WebPlant(
        tmp_path_factory.mktemp("plant"),
        [device("press-1", name=HOSTILE, maker='"""><img src=x>"', serial="S1"), device("press-2", serial="S2"),
         device("dead", serial="S3")],
        [point("press-1", 0), point("press-2", 1), point("dead", 2)])
    plant.agent.tell("modbus.timeout", "line", unit=HOSTILE, timeout_s=1)
    plant.window(producing=["press-1"], connected=["press-2"], contradictions=[Finding(
        "identity.serial_differs", ("press-2",), (("device", "press-2"), ("shown", HOSTILE), ("ledger", "S2")))])
    yield plant
    plant.close()


@pytest.fixture
async def client(plant: WebPlant) -> Client:
    # For each test anew: after a minute they would be silent, and after some more the gateway would not be ready.
    plant.heard("press-1", "press-2")
    assert plant.agent.status is not None
    plant.agent.status["written_s"] = int(time.time())
    client: Client = TestClient(TestServer(plant.application()))
    await client.start_server()
    return client


@pytest.fixture(autouse=True)
async def closed(client: Client) -> Iterator[None]:  # type: ignore[misc]  # an async generator, as pytest-asyncio has it
    yield
    await client.close()


async def text_of(client: Client, path: str, status: int = 200, **headers: str) -> str:
    answer = await client.get(path, headers=headers)
    assert answer.status == status, await answer.text()
    return await answer.text()


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("path", PATHS)
async def test_every_page_stands_in_both_languages(client: Client, path: str, lang: str) -> None:
    text = await text_of(client, f"{path}?lang={lang}")
    assert f'<html lang="{"zh-CN" if lang == "zh" else "en"}">' in text
    assert not re.findall(r"\bweb\.[a-z_.]+|\{[a-z_]+\}", text), "a code or a place was left"
    assert not re.search(r"<[^>]*\s(style|on[a-z]+)=", text), "the page's own policy would block it"
    assert re.search("[一-鿿]", re.sub(r"<[^>]+>|一号车间", "", text)) if lang == "zh" else True


@pytest.mark.parametrize("path", [*PATHS, "/style.css", "/page.js", "/icon.svg", "/live", "/ready", "/metrics", "/no"])
async def test_every_answer_carries_the_headers(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert answer.status == (404 if path == "/no" else 200)


@pytest.mark.parametrize("path", PATHS)
async def test_what_a_ledger_or_a_device_says_is_text(client: Client, path: str) -> None:
    text = await text_of(client, path)
    assert "<script>" not in text and "<img" not in text
    if path in ("/devices", "/devices/press-1"):
        assert str(escape(HOSTILE)) in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/devices/press-1", "/record"])
async def test_nothing_can_be_changed(client: Client, method: str, path: str) -> None:
    answer = await client.request(method, path, data=b"x=1")
    assert answer.status == 405


@pytest.mark.parametrize(("host", "status"), [
    ("127.0.0.1:8421", 200), ("localhost", 200), ("LOCALHOST:1", 200), ("[::1]:8421", 200), ("192.0.2.7", 200),
    ("evil.example", 421), ("127.0.0.1.evil.example:8421", 421), ("localhost.evil.example", 421), ("", 421), ("[", 421),
])
async def test_only_our_own_names_are_answered(client: Client, host: str, status: int) -> None:
    for path in ("/", "/metrics", "/live"):
        await text_of(client, path, status, Host=host)


def test_a_name_of_the_configuration_is_ours(plant: WebPlant) -> None:
    page = plant.page(replace(plant.where, hosts=frozenset({"gateway.plant.example"})))
    assert page._is_ours(host_of("Gateway.plant.example.:8421")) and not page._is_ours(host_of("plant.example"))


async def test_the_page_says_what_status_says(client: Client, plant: WebPlant,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    main(["status", str(plant.config.file), "--json"])
    said = json.loads(capsys.readouterr().out)["devices"]
    text = await text_of(client, "/?lang=en")
    assert f"<strong>{said['counted']}</strong> / {said['configured']}" in text
    for row in said["not_counted"]:
        own = await text_of(client, f"/devices/{row['id']}?lang=en")
        assert Words("en")(f"commissioning.reason.{row['reason']}") in own
    assert "never answered over the connection line" in await text_of(client, "/devices/dead?lang=en")


@pytest.mark.parametrize(("query", "ids"), [
    ("", ["press-1", "press-2", "dead"]), ("state=not_counted", ["press-2", "dead"]), ("state=counted", ["press-1"]),
    ("state=silent", ["dead"]), ("reason=no_valid_data&q=PRESS", ["press-2"]), ("q=s3", ["dead"]),
    ("connection=line&page=9999999", ["press-1", "press-2", "dead"]), ("connection=no&state=x&reason=y&page=-1", 3),
    ("q=" + "%00" * 5_000, None),
])
async def test_the_list_is_filtered(client: Client, query: str, ids: list[str] | int | None) -> None:
    answer = await client.get(f"/devices?lang=en&{query}")
    if ids is None:
        assert answer.status == 400, "a head longer than the limit is not parsed"
        return
    found = re.findall(r'<th scope="row"><a href="/devices/([^?"]+)', await answer.text())
    assert found == ids or len(found) == ids


async def test_what_a_device_shows_against_the_ledger_stands_on_its_page_the_overview_and_the_record(
        client: Client) -> None:
    for path in ("/", "/devices/press-2"):
        text = await text_of(client, f"{path}?lang=en")
        assert f"says that its serial number is {escape(HOSTILE)}" in text
    assert "serial number is" not in await text_of(client, "/devices/dead?lang=en")
    assert "1 contradictions" in await text_of(client, "/record?lang=en")


async def test_a_device_that_is_not_there(client: Client) -> None:
    assert "no such device" in await text_of(client, "/devices/nobody?lang=en", 404)
    await text_of(client, "/devices/..%2f..%2fetc", 404)


async def test_metrics_are_text_that_a_collector_reads(client: Client) -> None:
    text = await text_of(client, "/metrics")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'tallystick_[a-z_]+(\{([a-z0-9_]+="[^"]*",?)*\})? -?[0-9.e+-]+', line) for line in lines)
    assert 'tallystick_devices{stage="configured"} 3' in lines and "tallystick_devices_counted 1" in lines
    assert 'tallystick_window_samples{result="stale"} 2' in lines
    assert "press-1" not in text, "names of devices are the page's alone"


async def test_ready_follows_the_windows(client: Client, plant: WebPlant, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await text_of(client, "/ready") == "ready\n"
    assert plant.agent.status is not None
    old = {**plant.agent.status, "written_s": plant.agent.status["written_s"] - 3_600}
    monkeypatch.setattr(plant.agent, "status", old)
    monkeypatch.setattr(plant.agent, "_begun_s", plant.agent._begun_s - 3_600)
    await text_of(client, "/ready", 503)
    assert "counting may have stopped" in await text_of(client, "/?lang=en")
    assert await text_of(client, "/live") == "live\n"


async def test_a_crowd_is_turned_away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WAITING_MAX", 0)
    assert "counting goes on" in await text_of(client, "/?lang=en", 503)


async def test_a_mistake_of_ours_is_no_traceback(client: Client, monkeypatch: pytest.MonkeyPatch,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> list[object]:
        raise RuntimeError("secret")

    monkeypatch.setattr(pages, "connection_rows", broken)
    text = await text_of(client, "/connections?lang=en", 500)
    assert "secret" not in text and "counting goes on" in text
    assert "RuntimeError" in caplog.text


async def test_a_port_that_is_taken_stops_nothing(plant: WebPlant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RETRY_S", 0.01)
    plant.told.clear()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        task = asyncio.create_task(plant.page(replace(plant.where, port=port)).run())
        async with asyncio.timeout(20):
            while not plant.told:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        while plant.told[-1][0] != "web.listening":
            await asyncio.sleep(0.01)
    assert [code for code, _ in plant.told] == ["web.not_listening", "web.listening"], "told once"
    async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/live") as answer:
        assert answer.status == 200
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_connections_are_limited(plant: WebPlant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    plant.told.clear()
    port = free_port()
    task = asyncio.create_task(plant.page(replace(plant.where, port=port)).run())
    held = []
    async with asyncio.timeout(20):
        while not plant.told:
            await asyncio.sleep(0.01)
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await reader.readuntil(b"live\n")
            held.append(writer)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b"", "the third is closed at once"
        for one in (*held, writer):
            one.close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_every_word_of_the_templates_has_a_sentence() -> None:
    known = set(Words("en").codes())
    folder = ROOT / "gateway" / "web" / "templates"
    found = {code for file in folder.glob("*.html")
             for code in re.findall(r"\bt\('([a-z_.]+)'[,)]", file.read_text(encoding="utf-8"))}
    found |= {f"record.{name}" for file in folder.glob("record.html")
              for name in re.findall(r"two\('([a-z_]+)'\)", file.read_text(encoding="utf-8"))}
    found |= {f"{kind}.{name}" for kind, names in {
        "stage": (*STAGES, "sampled"), "role": ROLES, "discard": DISCARD_REASONS, "filter": STATES,
        "quality": (*QUALITIES, "not_live", "none"), "state": ("answering", "silent", "never"),
        "nav": dict(pages.NAV)}.items() for name in names}
    assert len(found) > 90 and not {f"web.{name}" for name in found} - known
