"""The local page in Debian's Chromium, as a person uses it: it stays current, says when it is not, and prints."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.web import pages
from protocols.samples import GOOD, SampleBatch
from tests.support.processes import free_port, until
from tests.support.programs import need
from tests.support.web_plant import WEB, WebPlant
from tests.unit.gateway.commissioning.plants import LINE, device, point

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.live

HOSTILE = "<script>document.title='caught'</script>"
LONG = "很长的设备名称" * 12
WIDTHS = (1280, 390)
PATIENCE_S = 60
GONE = ("ERR_CONNECTION_", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONTENT_LENGTH_MISMATCH")
"""What a browser says of a server that ended, wherever an answer of it was just then."""

PATHS = ("/", "/devices?state=not_counted", "/devices/d0", "/connections", "/plan", "/evidence", "/record")


class Served:
    """A page that is served by a thread of its own, over a plant that the test changes."""

    def __init__(self, plant: WebPlant) -> None:
        self.plant = plant
        self.url = f"http://127.0.0.1:{free_port()}"
        self.starts = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen."""
        self.starts += 1
        self.plant.told.clear()

        async def life() -> None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.create_task(
                self.plant.page(replace(self.plant.where, port=int(self.url.rpartition(":")[2]))).run())
            await asyncio.wait([self._task])

        self._thread = threading.Thread(target=lambda: asyncio.run(life()))
        self._thread.start()
        until(lambda: self.plant.told, "the page listens")

    def stop(self) -> None:
        """Listen no more."""
        if self._thread is None:
            return
        assert self._loop is not None and self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._thread = None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("not installed: playwright")
    with sync_playwright() as playwright:
        # A sandbox of its own needs rights that a container or root does not give; the pages are our own.
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """120 devices: d0 has a name that is a script, every third does not count; as many connections as fit no sheet."""
    devices = [device(f"d{n}", name=HOSTILE if n == 0 else f"{LONG} {n}", serial=f"S{n}", connection=f"line{n % 12}")
               for n in range(120)]
    host = "plc-gateway-of-hall-3.production-network.plant-1.enterprise.example"
    connections = "".join(LINE.replace('"line"', f'"line{n}"').replace("127.0.0.1:1", f"{host}:{n + 1}")
                          for n in range(12))
    plant = WebPlant(tmp_path_factory.mktemp("plant"), devices, [point(f"d{n}", n) for n in range(120)],
                     head=WEB, connections=connections, site="江西示例压铸有限公司" * 6)
    plant.window(producing=[f"d{n}" for n in range(120) if n % 3], changing=["d1"])
    served = Served(plant)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "REFRESH_S", 0.5)
        served.start()
        yield served
        served.stop()
    plant.close()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """A tab that complains of whatever the browser complains of, and of requests to anywhere else."""
    served.plant.heard(*(f"d{n}" for n in range(100)))  # in each test: who is not heard for a minute is silent
    starts = served.starts
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_S * 1000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("http://127.0.0.1:")
            else complaints.append(request.url))
    yield page
    context.close()
    # A gateway that is gone, or busy.
    meant = ("ERR_CONNECTION_REFUSED", "status of 503", *(GONE if served.starts > starts else ()))
    assert [text for text in complaints if not any(one in text for one in meant)] == []


def put(served: Served, value: float) -> None:
    """d1 sends a value."""
    at_ns = served.plant.now_ns()
    served.plant.live.samples(SampleBatch(
        point_index=np.array([served.plant.point("d1", "p1")]), received_ns=np.array([at_ns]),
        source_ns=np.array([0]), value=np.array([float(value)]), quality=np.array([GOOD], dtype=np.uint8)))


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_its_width_and_is_told_by_more_than_colour(page: Page, served: Served, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for path in PATHS:
        page.goto(served.url + path)
        assert page.title() != "caught"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        coloured = page.locator(".yes, .no, .warn, .state").all_inner_texts()
        assert [text for text in coloured if not re.search("[●○✕✓!?]", text)] == [], f"{path}: a colour alone"


def test_a_hostile_name_is_shown_as_it_is_written(page: Page, served: Served) -> None:
    page.goto(f"{served.url}/devices?q=d0")
    assert HOSTILE in page.inner_text("tbody")
    page.goto(f"{served.url}/devices/d0")
    assert HOSTILE in page.inner_text("h1") and page.title() != "caught"


def test_values_come_by_themselves_and_focus_stays(page: Page, served: Served) -> None:
    put(served, 41)
    page.goto(f"{served.url}/devices/d1")
    assert page.inner_text("td.value") == "41"
    page.evaluate("window.kept = true")
    link = page.locator("main a", has_text="line1").first
    link.focus()
    put(served, 42)
    until(lambda: page.inner_text("td.value") == "42", "the page brings itself up to date")
    assert page.evaluate("window.kept"), "the page was not loaded anew"
    assert link.evaluate("link => link === document.activeElement")


def test_a_gateway_that_does_not_answer_is_told_and_so_is_its_return(page: Page, served: Served) -> None:
    page.goto(served.url)
    notice = page.locator("#stale")
    notice.wait_for(state="hidden")
    served.stop()
    notice.wait_for(state="visible", timeout=PATIENCE_S * 1000)
    assert "没有应答" in notice.inner_text() and re.search(r"\d:\d\d", notice.inner_text())
    served.start()
    notice.wait_for(state="hidden", timeout=PATIENCE_S * 1000)


def test_a_gateway_that_is_busy_is_not_said_to_be_silent(page: Page, served: Served) -> None:
    page.goto(served.url)
    notice = page.locator("#stale")
    page.route("**/*", lambda route: route.fulfill(status=503, body="busy"))
    notice.wait_for(state="visible", timeout=PATIENCE_S * 1000)
    assert "请求过多" in notice.inner_text() and "没有应答" not in notice.inner_text()
    page.unroute("**/*")
    page.route("**/*", lambda route: route.abort("connectionrefused"))
    page.locator("#stale-silent").wait_for(state="visible", timeout=PATIENCE_S * 1000)
    assert "没有应答" in notice.inner_text() and "请求过多" not in notice.inner_text()
    page.unroute("**/*")
    notice.wait_for(state="hidden", timeout=PATIENCE_S * 1000)


def test_from_the_first_page_to_the_reason_by_keys_alone(page: Page, served: Served) -> None:
    page.goto(served.url)
    assert page.inner_text(".big strong") == "80"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert "无有效数据" in page.evaluate("document.activeElement.innerText")
    page.keyboard.press("Enter")
    page.wait_for_url("**/devices?state=not_counted&reason=no_valid_data")
    assert "找到 40 台" in page.inner_text("p[role=status]")
    page.locator("tbody a").first.press("Enter")
    page.wait_for_url("**/devices/d0")
    assert "没有数值" in page.inner_text(".verdict") and "处理" in page.inner_text(".verdict")


def test_pages_and_filters_are_links_that_can_be_sent(page: Page, served: Served) -> None:
    page.goto(f"{served.url}/devices")
    assert page.locator("tbody tr").count() == 50
    page.get_by_role("link", name="下一页").click()
    page.wait_for_url("**/devices?page=2")
    assert page.locator("tbody th a").first.inner_text() == "d50"
    page.get_by_label("状态").select_option("silent")
    page.get_by_label("查找").fill("s11")
    page.get_by_role("button", name="筛选").click()
    page.wait_for_url("**/devices?state=silent*q=s11")
    assert page.locator("tbody th a").all_inner_texts() == [f"d{n}" for n in range(110, 120)]
    page.get_by_role("link", name="English").click()
    page.wait_for_url("**/devices?*lang=en")
    assert "10 found of 120" in page.inner_text("p[role=status]")


def test_the_record_is_one_sheet_of_a4(page: Page, served: Served, tmp_path: Path) -> None:
    need("pdfinfo", "pdftotext")
    page.goto(f"{served.url}/record")
    file = tmp_path / "record.pdf"
    page.pdf(path=file, prefer_css_page_size=True)
    told = subprocess.run(["pdfinfo", file], capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout
    assert re.search(r"^Pages:\s+1$", told, re.MULTILINE) and "(A4)" in told
    text = subprocess.run(["pdftotext", "-layout", file, "-"], capture_output=True, text=True, check=True,
                          timeout=PATIENCE_S).stdout
    facts = served.plant.facts()
    for part in ("调试记录", "Commissioning record", facts.gateway, facts.software_sha256, facts.config.ledger_sha256,
                 facts.keys[-1][1][:4], "签名", "另有", HOSTILE):
        assert part in text, part
    assert "PDF" not in text, "the button and its hint are for the screen"
