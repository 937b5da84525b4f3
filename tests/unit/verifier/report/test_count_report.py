"""A count on paper and as a page, without a claim: what it says, and that its command gives its digest again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tallystick.__main__ import main
from tallystick.words.lookup import Words
from tests.support.plant_fixture import Plant
from tests.support.programs import need, need_fonts
from verifier.report.identity import verification_code


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with X.tally, of four devices of which one only beats, and policy.json."""
    plant = Plant(tmp_path_factory.mktemp("counted"))
    for _ in range(3):
        plant.device(points=2, opened=True, **{"class": "machine_tools"})
    plant.device(role="heartbeat")
    plant.seal()
    plant.policy()
    return plant.folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("X.tally", "policy.json"):
        shutil.copy(made / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, lang: str = "zh") -> tuple[int, str, str]:
    told, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(printed):
        status = main(["--lang", lang, *arguments])
    return status, printed.getvalue(), told.getvalue()


COUNT = ("count", "X.tally", "--policy", "policy.json", "--at", "last")


@pytest.mark.parametrize("basis", [(), ("--programme", "jiangxi_2024")], ids=["default", "programme"])
def test_the_command_on_the_page_gives_its_digest_again(folder: Path, basis: tuple[str, ...]) -> None:
    status, _, told = run(*COUNT, *basis, "--report", "count.html", lang="en")
    page = Path("count.html").read_text(encoding="utf-8")
    assert status == 0 and "count.html" in told
    assert "3 of 4 devices counted" in page and Words("en")("report.count.means") in page
    assert "CLAIM.toml" not in page and Words("en")("report.opinion.auditor") not in page
    found = re.search(r'<pre class="mono">(tallystick count [^<]+) \| sha256sum</pre>', page)
    assert found is not None
    command = shlex.split(found[1].replace("POLICY.json", "policy.json"))[1:]
    sha256 = hashlib.sha256(run(*command)[1].encode()).hexdigest()
    assert sha256 in page and page.count(verification_code(sha256)) >= 2


def test_a_count_on_paper(folder: Path) -> None:
    need_fonts()
    need("pdftotext")
    assert run(*COUNT, "--report", "count.pdf", "--bilingual")[0] == 0
    text = subprocess.run(["pdftotext", "-layout", "count.pdf", "-"], check=True, capture_output=True,
                          timeout=60).stdout.decode()
    for lang in ("zh", "en"):
        assert Words(lang)("report.count.title") in text
    pages = text.split("\f")[:-1]
    assert all(f"第 {number} 页 / 共 {len(pages)} 页" in page for number, page in enumerate(pages, 1))
    assert Words("zh")("reason.heartbeat_only") in text


def test_a_bundle_that_does_not_verify_gives_a_report_that_says_so(folder: Path) -> None:
    Path("policy.json").write_text("{}")  # trusts nobody
    assert run(*COUNT, "--report", "count.html", lang="en")[0] == 1
    page = Path("count.html").read_text(encoding="utf-8")
    assert Words("en")("count.invalid") in page and "--at T " in page and "policy.gateway_unknown" in page
    assert Words("en")("report.count.means") not in page


@pytest.mark.parametrize(("options", "code"), [
    (("--report", "count.xlsx"), "count.report_form"),
    (("--report", "count.html", "--compare", "jiangxi_2024"), "count.report_of_two")], ids=["form", "compare"])
def test_what_there_is_no_report_of_is_said_before_the_work(folder: Path, options: tuple[str, ...], code: str) -> None:
    status, _, told = run(*COUNT, *options)
    assert status == 2 and Words("zh")(code, form=".xlsx") in told
    assert not list(folder.glob("count.*"))
