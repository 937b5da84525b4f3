"""Deliberately broken configurations, a folder each: every problem at once, in both languages, never a traceback."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from config.gateway import PROBLEMS_MAX, load_gateway
from config.loader import TOML_BYTES_MAX
from protocols.errors import ConfigError, Problem
from tallystick.__main__ import main
from tallystick.words.lookup import LANGUAGES, Words

CASES = sorted(path for path in (Path(__file__).parents[2] / "cases" / "config").iterdir() if path.is_dir())
assert len(CASES) >= 10, "the cases were not found"

BOUND_S = 60
"""Of a loaded machine. What is quadratic takes hours on these inputs, what is linear a few seconds."""

GOOD = """[gateway]
site = "S"
uscc = "91320594MAEXAMPLEB"
ledger_date = 2026-11-01

[[connections]]
name = "line"
protocol = "modbus_tcp"
endpoint = "tcp://192.0.2.1:502"
"""
DEVICES = "id,name,maker,model,serial,asset,class,industry,uscc,region,thing,deployment,energy,parent,connection\n"
POINTS = "device,id,address,type,role\n"


def problems_of(file: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_gateway(file)
    return caught.value.problems


def place(problem: Problem, folder: Path) -> str:
    return problem.where.removeprefix(f"{folder}{os.sep}")


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_every_problem_is_told_at_once(case: Path) -> None:
    expected = [(item["where"], item["code"]) for item in json.loads((case / "expected.json").read_text("utf-8"))]
    assert [(place(p, case), p.code) for p in problems_of(case / "gateway.toml")] == expected
    assert expected


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_every_problem_has_a_whole_sentence_and_a_fix(case: Path, lang: str) -> None:
    words = Words(lang)
    for problem in problems_of(case / "gateway.toml"):
        parts = words.explain(problem.code)
        assert parts is not None and "fix" in parts, problem.code
        told = words.tell(problem.code, **{"where": problem.where, **dict(problem.args)})
        for sentence in (told.text, told.cause, told.fix):
            for name in ("{" + name for name in ("value", "known", "near", "reason", *dict(problem.args))):
                assert f"{name}}}" not in sentence, f"{problem.code}: a place is not filled: {sentence}"


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_the_command_line_tells_all_and_no_traceback(case: Path, lang: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(case / "gateway.toml"), "--lang", lang]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "Traceback" not in told.err
    count = len(json.loads((case / "expected.json").read_text("utf-8")))
    assert told.err.count({"en": "error: ", "zh": "错误: "}[lang]) == count
    assert told.err.count({"en": "hint: ", "zh": "提示: "}[lang]) == count


def folder_with(tmp_path: Path, toml: str | bytes, devices: bytes = DEVICES.encode(),
                points: bytes = POINTS.encode()) -> Path:
    (tmp_path / "gateway.toml").write_bytes(toml.encode() if isinstance(toml, str) else toml)
    (tmp_path / "devices.csv").write_bytes(devices)
    (tmp_path / "points.csv").write_bytes(points)
    return tmp_path / "gateway.toml"


def test_the_file_without_mistakes_loads(tmp_path: Path) -> None:
    """Else the cases would prove nothing."""
    config = load_gateway(folder_with(tmp_path, GOOD))
    assert config.devices == () and config.len_s == 60


NOISE = bytes(range(256)) * 20_000


@pytest.mark.parametrize(("devices", "code"), [
    (NOISE, "ledger.encoding"),
    (b"\x00" * 5_000_000, "ledger.csv"),
    (b"a," * 2_500_000, "ledger.no_header"),
    (DEVICES.encode() + b'"' + b"x" * 5_000_000, "ledger.csv"),
    (DEVICES.encode() + b"x\n" * 2_500_000, "ledger.cells"),
    (DEVICES.encode() + (b"a" * 79 + b"," * 14 + b"\n") * 52_000, "ledger.bad_id"),
], ids=["noise", "zeros", "header of commas", "open quote", "short lines", "bad rows"])
def test_five_megabytes_of_garbage(tmp_path: Path, devices: bytes, code: str) -> None:
    assert 4_800_000 < len(devices) < 6_000_000
    began = time.monotonic()
    problems = problems_of(folder_with(tmp_path, GOOD, devices))
    assert time.monotonic() - began < BOUND_S
    assert code in {problem.code for problem in problems}
    assert len(problems) <= PROBLEMS_MAX + 1


def test_more_problems_than_anyone_reads_are_counted(tmp_path: Path) -> None:
    problems = problems_of(folder_with(tmp_path, GOOD, DEVICES.encode() + b"x\n" * 5000))
    assert len(problems) == PROBLEMS_MAX + 1
    assert problems[-1].code == "config.more_problems" and dict(problems[-1].args) == {"more": str(5000 - PROBLEMS_MAX)}


def test_a_toml_file_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    problems = problems_of(folder_with(tmp_path, GOOD + "#" * TOML_BYTES_MAX))
    assert [problem.code for problem in problems] == ["config.too_large"]


@pytest.mark.parametrize("nested", ["x = " + "[" * 100_000, "x = " + "{a=" * 100_000, "[" + "a." * 10_000 + "b]"])
def test_deep_nesting_is_a_problem_not_a_crash(tmp_path: Path, nested: str) -> None:
    assert problems_of(folder_with(tmp_path, nested))


def test_misspelt_devices_in_a_large_ledger_take_no_hours(tmp_path: Path) -> None:
    rows = "".join(f"dev-{n},,,,,,,,,,equipment,,,,line\n" for n in range(5000))
    points = "".join(f"dev_{n},p,1/holding/{n},uint16,parameter\n" for n in range(5000))
    began = time.monotonic()
    problems = problems_of(folder_with(tmp_path, GOOD, (DEVICES + rows).encode(), (POINTS + points).encode()))
    assert time.monotonic() - began < BOUND_S
    assert {p.code for p in problems} == {"ledger.unknown_device", "config.more_problems"}


def test_a_long_chain_of_parents_takes_no_hours(tmp_path: Path) -> None:
    rows = "".join(f"d{n},,,,,,,,,,equipment,,,d{n + 1},line\n" for n in range(20_000))
    began = time.monotonic()
    problems = problems_of(folder_with(tmp_path, GOOD, (DEVICES + rows).encode()))
    assert time.monotonic() - began < BOUND_S
    assert [p.code for p in problems] == ["ledger.unknown_parent"]


@pytest.mark.parametrize("name", ["a\\u0000b", "", "."])
def test_file_names_that_are_none(tmp_path: Path, name: str) -> None:
    broken = GOOD.replace('site = "S"', f'site = "S"\ndevices = "{name}"')
    assert [p.code for p in problems_of(folder_with(tmp_path, broken))] == ["config.unreadable"]
