"""`sample` and `spotcheck` as a person uses them: draw, compare, visit with a form or a file, stop and go on, sign."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from protocols.evidence import keys, sample, signed
from tallystick.__main__ import main
from tests.support.plant_fixture import Plant
from tests.support.schemas import validate
from tests.support.source import ROOT
from verifier.conformance import servers, visits
from verifier.conformance.world import key_of, public
from verifier.sampling import spotcheck


class Site:
    """Eight opened devices; the first is attested. Everything a visit needs, in the current folder."""

    def __init__(self, folder: Path) -> None:
        plant = Plant(folder)
        for n in range(8):
            fields: dict[str, Any] = {"class": "gas_compressor" if n % 2 else "metal_cutting_machine_tool"}
            plant.device(server=servers.server("press") if n == 0 else {"spki_sha256": None, "via": None},
                         protocol="opc_ua" if n == 0 else "modbus_tcp", opened=n < 4, title=f"{n + 1}号机", **fields)
        plant.begin()
        servers.seal_probe(plant.gateway)
        servers.attest(plant.world, plant.gateway, 0)
        plant.windows(1)
        self.announced_s = visits.seal_behind(plant.gateway)
        plant.write()
        (folder / "policy.json").write_bytes(plant.world.policy_json(assessors=[public("assessor").hex()]))
        keys.save(key_of("assessor"), folder / "assessor.pem")
        self.folder, self.plant, self.gateway = folder, plant, plant.gateway.id

    def sample(self, *options: str) -> list[str]:
        return ["sample", "X.tally", "--policy", "policy.json", "--announced", str(self.announced_s), *options]

    def draw(self, *options: str) -> list[tuple[str, int]]:
        assert main(self.sample("-o", "draw.json", *options)) == 0
        value = json.loads(Path("draw.json").read_bytes())
        return [(d["gateway"], d["slot"]) for d in value["draw"]["devices"]]

    def at(self, minutes: int) -> str:
        seen_s = json.loads(Path("draw.json").read_bytes())["draw"]["cosignature"]["time_s"]
        return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seen_s + 60 * minutes))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def site(made: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    for file in made.folder.iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("LANG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    return made


def visit_args(*options: str) -> list[str]:
    return ["spotcheck", "draw.json", "--key", "assessor.pem", "-o", "findings.json", *options]


def write_answers(site: Site, devices: list[tuple[str, int]], results: dict[int, str] | None = None) -> None:
    lines = ["gateway,slot,result,at,note"]
    lines += [f"{gateway},{slot},{(results or {}).get(slot, 'match')},{site.at(5 + place)},"
              for place, (gateway, slot) in enumerate(devices)]
    Path("answers.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- sample


def announced_plant(folder: Path, *, also_s: int | None = None) -> int:
    """A plant whose draw the register announces; also_s: so many seconds after it another one. Returns the instant."""
    plant = Plant(folder)
    plant.device()
    plant.begin()
    plant.windows(1)
    if also_s is not None:
        visits.announce(plant.gateway, max(plant.world.time_s + 1, plant.gateway.now_s + 5) + 1 + also_s)
    announced_s = visits.seal_behind(plant.gateway, announced=True)
    plant.write()
    Path("policy.json").write_bytes(plant.world.policy_json(assessors=[public("assessor").hex()]))
    return announced_s


def test_an_announced_instant_is_found_in_the_register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    announced_s = announced_plant(tmp_path)
    assert main(["sample", "X.tally", "--policy", "policy.json", "-o", "draw.json"]) == 0
    out = capsys.readouterr().out
    assert "is announced in the register: entry " in out and "keep the letter" not in out
    drawn = json.loads(Path("draw.json").read_bytes())["draw"]
    assert (drawn["announced_s"], drawn["at_s"]) == (announced_s, announced_s)
    assert main(["sample", "X.tally", "--policy", "policy.json", "--announced", str(announced_s),
                 "--check", "draw.json"]) == 0
    assert main(["sample", "X.tally", "--policy", "policy.json", "--announced", str(announced_s - 1),
                 "--at", str(announced_s - 1), "-o", "other.json"]) == 0
    assert "keep the letter" in capsys.readouterr().out


def test_two_announcements_must_be_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    announced_plant(tmp_path, also_s=86_400)
    assert main(["sample", "X.tally", "--policy", "policy.json", "-o", "draw.json"]) == 2
    assert "announces several draws" in capsys.readouterr().err and not Path("draw.json").exists()


def test_without_an_announcement_the_instant_must_be_given(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "X.tally", "--policy", "policy.json", "-o", "draw.json"]) == 2
    assert "announces no draw" in capsys.readouterr().err


def test_both_sides_draw_the_same(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    devices = site.draw()
    out = capsys.readouterr().out
    assert len(devices) == 8 and "8 devices count at" in out and "1号机" in out
    assert all(f"slot {slot}" in out for _, slot in devices)
    validate(json.loads(Path("draw.json").read_bytes()), "draw-file.schema.json")
    assert main(site.sample("--check", "draw.json")) == 0
    assert "The same draw" in capsys.readouterr().err
    assert main([*site.sample("--check", "draw.json", "--n", "3"), "--lang", "zh"]) == 1
    captured = capsys.readouterr()
    assert "不是同一份抽样清单" in captured.err and "抽取 3 台" in captured.out
    assert main(site.sample("-o", "draw.json")) == 2
    assert "not overwritten" in capsys.readouterr().err


def test_strata_and_a_programme(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.draw("--strata", "class", "--n", "5", "--programme", "jiangsu_2019")
    out = capsys.readouterr().out
    assert "stratum machine_tools: 3 of 4" in out and "stratum motive_power_equipment: 2 of 4" in out
    assert json.loads(Path("draw.json").read_bytes())["draw"]["at_least_permille"] is None
    Path("draw.json").unlink()
    site.draw("--strata", "protocol", "--n", "5")
    assert "stratum modbus: " in (out := capsys.readouterr().out) and "stratum opc_ua: 1 of 1" in out
    Path("draw.json").unlink()
    site.draw("--strata", "gateway")
    assert site.gateway in capsys.readouterr().out


def test_every_wrong_option_at_once(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "X.tally", "--policy", "policy.json", "--announced", "yesterday", "--confidence", "100",
                 "--at-least", "9.55", "-o", "d.json"]) == 2
    err = capsys.readouterr().err
    assert all(where in err for where in ("--announced", "--confidence", "--at-least"))
    assert main(site.sample("-o", "d.json", "--at", "last")) == 2
    assert main(["sample", "X.tally", "--policy", "policy.json", "--announced", "2100-01-01T00:00Z", "-o", "d"]) == 2
    err = capsys.readouterr().err
    assert "no bundle shows a window that was sealed after" in err and "hint: wait for the next co-signature" in err
    assert not Path("d.json").exists()


def test_an_invalid_bundle_is_not_drawn_from(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.plant.folder = Path()
    site.plant.write(change={"checkpoint": site.plant.gateway.checkpoint(signer="thief")})
    assert main(site.sample("-o", "d.json")) == 1
    assert "is invalid, so nothing is drawn from it" in capsys.readouterr().err
    assert not Path("d.json").exists()


# --- spotcheck, from a file


def test_a_visit_from_a_file_gives_level_4(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    devices = site.draw()
    write_answers(site, devices, {5: "不符"})
    capsys.readouterr()
    assert main(visit_args("--answers", "answers.csv")) == 1
    out = capsys.readouterr().out
    assert "8 devices drawn: 7 match, 1 do not, 0 could not be verified, 0 without an answer" in out
    assert "slot 5: mismatch" in out and "with 95 % confidence at least 7 of them pass" in out
    findings = Path("findings.json").read_bytes()
    validate(json.loads(findings), "findings-file.schema.json")
    Path("findings.json").unlink()
    main(visit_args("--answers", "answers.csv"))
    assert Path("findings.json").read_bytes() == findings, "the same answers give the same bytes"
    capsys.readouterr()

    assert main(["verify", "X.tally", "--policy", "policy.json", "--also", "findings.json", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    validate(told, "verify.schema.json")
    (one,) = told["summary"]["levels"]["visits"]
    assert one["here"] == {"drawn": 8, "match": 7, "mismatch": 1, "unverified": 0, "missing": 0}
    assert (one["seed"], one["lower_bound"]) == ("first", 7)
    assert told["summary"]["levels"]["at_the_end"]["devices"]["4"] == 1
    assert main(["verify", "X.tally", "--policy", "policy.json", "--also", "findings.json", "--lang", "zh"]) == 0
    out = capsys.readouterr().out
    assert "评估方" in out and "相符 7 台，不符 1 台" in out and "至少 7 台能够通过" in out
    assert main(["count", "X.tally", "--at", "last", "--policy", "policy.json", "--also", "findings.json"]) == 0
    assert "1 at 4 (and found on site)" in capsys.readouterr().out


def test_missing_answers_are_failures(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    devices = site.draw()
    write_answers(site, devices[:6])
    capsys.readouterr()
    assert main(visit_args("--answers", "answers.csv")) == 2
    assert capsys.readouterr().err.count("has no answer yet") == 2
    assert not Path("findings.json").exists()
    assert main(visit_args("--answers", "answers.csv", "--close")) == 1
    out = capsys.readouterr().out
    assert "2 without an answer" in out and out.count("no answer; note") == 2 and "at least 6 of them" in out


def test_every_problem_of_a_file_at_once(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (gateway, slot), (_, second), *_ = site.draw()
    Path("answers.csv").write_text("\ufeff" + "\n".join([
        "gateway,slot,result,at,note,photos",
        f"{gateway},{slot},match,{site.at(1)},,",
        f"{gateway},{slot},match,{site.at(1)},,",
        f"{gateway},99,match,{site.at(1)},,",
        f"{gateway[:8]},{second},fine,{site.at(1)},,",
        f"{gateway},{second},match,2026-11-21,,",
        f"{gateway},{second},match,{site.at(-1)},,",
        f"{gateway},{second},match,{site.at(1)},{'x' * 201},",
        f"{gateway},{second},match,{site.at(1)},,none.jpg;{';'.join('abcdefghijklmnopq')}",
        f"{gateway},{second}",
        f"{gateway},{second},match,{site.at(1)},,a\0.jpg",
        ",,,,,",
    ]), encoding="utf-8")
    capsys.readouterr()
    assert main(visit_args("--answers", "answers.csv")) == 2
    err = capsys.readouterr().err
    for where, text in (("csv:3", "a second time"), ("csv:4", "was not drawn"), ("csv:5", "fine is no result"),
                        ("csv:6", "no time with its zone"), ("csv:7", "before the co-signature"),
                        ("csv:8", "longer than 200"), ("csv:9", "more than 16"), ("csv:9", "none.jpg cannot be read"),
                        ("csv:10", "2 cells where"), ("csv:11", "cannot be printed in: photos")):
        assert any(f"answers.{where}" in line and text in line for line in err.splitlines()), (where, text)
    assert "csv:12" not in err
    Path("answers.csv").write_bytes(b"gateway,slot,result,when\n")
    assert main(visit_args("--answers", "answers.csv")) == 2
    assert "columns are wrong, missing or doubled: when, at" in capsys.readouterr().err
    Path("answers.csv").write_bytes("网关".encode("gb18030"))
    assert main(visit_args("--answers", "answers.csv")) == 2
    assert "no CSV file in UTF-8" in capsys.readouterr().err


def test_photos_are_named_by_their_digest(site: Site) -> None:
    (gateway, slot), *_ = site.draw("--n", "1")
    Path("plate.jpg").write_bytes(b"a photo")
    Path("answers.csv").write_text(
        f"gateway,slot,result,at,note,photos\n{gateway},{slot},match,{site.at(1)},铭牌清晰,plate.jpg\n",
        encoding="utf-8")
    assert main(visit_args("--answers", "answers.csv")) == 0
    (answer,) = json.loads(Path("findings.json").read_bytes())["answers"]
    assert answer["photos"] == [hashlib.sha256(b"a photo").hexdigest()] and answer["note"] == "铭牌清晰"
    signed.verify("answer", answer, signers={public("assessor").hex()}, where="a")


@pytest.mark.parametrize("draw", [b"{}", b"no json", b'{"type":"tallystick/draw/v1","draw":{}}', b"surrogate"])
def test_a_draw_that_is_none(site: Site, draw: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    if draw == b"surrogate":  # half a character in a name
        site.draw()
        draw = Path("draw.json").read_bytes().replace(b'"witness":"bureau"', rb'"witness":"\ud800"')
    Path("draw.json").write_bytes(draw)
    assert main(visit_args()) == 2
    assert "error: draw.json" in capsys.readouterr().err


# --- spotcheck, in a terminal


class Terminal:
    """The form in a pseudo-terminal: waits for a prompt, types a line."""

    def __init__(self, *options: str, lang: str = "en") -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tallystick", *visit_args(*options), "--lang", lang], stdin=slave, stdout=slave,
            stderr=slave, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}, start_new_session=True)
        os.close(slave)
        self.seen = b""

    def expect(self, text: str) -> None:
        import select

        deadline = time.monotonic() + 40
        while text.encode() not in self.seen:
            assert time.monotonic() < deadline, self.seen.decode()
            if select.select([self.master], [], [], 0.2)[0]:
                self.seen += os.read(self.master, 65536)
        self.seen = self.seen.split(text.encode(), 1)[1]

    def answer(self, prompt: str, text: str) -> None:
        self.expect(prompt)
        os.write(self.master, text.encode() + b"\n")

    def end(self) -> tuple[int, str]:
        """Return exit status and what was printed last."""
        rest = self.seen
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            rest += data
        os.close(self.master)
        return self.process.wait(timeout=40), rest.decode()


def test_the_form_is_stopped_and_goes_on(site: Site) -> None:
    devices = site.draw("--n", "4")
    Path("plate.jpg").write_bytes(b"a photo")
    form = Terminal("--bundle", "X.tally", "--policy", "policy.json")
    form.expect("[1/4] gateway")
    form.answer("q stop for now:", "7")
    form.answer("q stop for now:", "1")
    form.answer("Note (Enter for none):", "type plate read")
    form.answer("no more):", "none.jpg")
    form.answer("no more):", "plate.jpg")
    form.answer("no more):", "")
    form.answer("q stop for now:", "2")
    form.answer("Note (Enter for none):", "")
    form.answer("no more):", "")
    form.expect("[3/4]")
    form.expect("q stop for now:")
    form.process.send_signal(signal.SIGINT)
    status, text = form.end()
    assert status == 1 and "2 devices are without an answer" in text and "Traceback" not in text
    assert not Path("findings.json").exists()

    form = Terminal(lang="zh")
    form.expect("4 台中已有 2 台答复")
    form.answer("暂停：", "b")  # the second one anew
    form.expect("[2/4]")
    form.answer("暂停：", "1")
    form.answer("备注（无则回车）：", "")
    form.answer("不再有则回车）：", "")
    for _ in range(2):
        form.answer("暂停：", "1")
        form.answer("备注（无则回车）：", "")
        form.answer("不再有则回车）：", "")
    form.answer("均已答复", "1")  # a slip of the finger signs nothing
    form.expect("只有回车才签名")
    assert not Path("findings.json").exists()
    form.answer("均已答复", "")
    status, text = form.end()
    assert status == 0 and "相符 4 台，不符 0 台" in text, text
    value = json.loads(Path("findings.json").read_bytes())
    assert [(a["gateway"], a["slot"]) for a in value["answers"]] == devices
    assert value["answers"][0]["note"] == "type plate read" and len(value["answers"][0]["photos"]) == 1
    assert main(["verify", "X.tally", "--policy", "policy.json", "--also", "findings.json"]) == 0


def test_the_end_of_input_stops_and_close_ends_the_visit(site: Site) -> None:
    site.draw("--n", "3")
    command = [sys.executable, "-m", "tallystick", *visit_args()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input="1\n\n\n", capture_output=True, text=True, timeout=60, env=environment,
                          check=False)
    assert done.returncode == 1 and "2 devices are without an answer" in done.stderr, done.stderr
    done = subprocess.run([*command, "--close"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          env=environment, check=False)
    assert done.returncode == 1 and "1 match, 0 do not, 0 could not be verified, 2 without" in done.stdout


def test_a_state_that_is_not_his_is_refused(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.draw("--n", "3")
    drawn = sample.parse_draw(Path("draw.json").read_bytes(), where="d")
    state = Path("draw.visit.json")
    for change in ("other key", "other draw", "changed"):
        visit = spotcheck.begin(drawn if change != "other draw" else drawn | {"confidence_permille": 900},
                                key_of("assessor" if change != "other key" else "friend"))
        for device in visit.devices:
            visit.answer(device, "mismatch", at_s=drawn["cosignature"]["time_s"])
        spotcheck.save(visit, state)
        if change == "changed":
            state.write_bytes(state.read_bytes().replace(b'"mismatch"', b'"match"'))
        assert main(visit_args("--close")) == 2
        assert "error: draw.visit.json" in capsys.readouterr().err
    state.unlink()
    assert main(visit_args("--close")) == 1
    assert not list(Path().glob("*.new"))


def test_names_come_from_a_bundle_that_was_drawn_from(site: Site, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    site.draw("--n", "3")
    (tmp_path / "other").mkdir()
    other = Plant(tmp_path / "other", world=site.plant.world, name="elsewhere")
    other.device()
    other.seal()
    assert main(visit_args("--bundle", "other/X.tally", "--policy", "policy.json")) == 2
    assert "is not in this draw" in capsys.readouterr().err


def test_a_clock_that_is_wrong_is_told_before_the_first_answer(site: Site) -> None:
    from protocols.errors import ConfigError
    from tallystick.words.lookup import Words
    from verifier.sampling.form import ask

    site.draw("--n", "3")
    visit = spotcheck.begin(sample.parse_draw(Path("draw.json").read_bytes(), where="d"), key_of("assessor"))
    with pytest.raises(ConfigError) as error:
        ask(visit, Path("state"), Words("en"), name=str, now=lambda: 1.0)
    assert error.value.problems[0].code == "sampling.clock"
