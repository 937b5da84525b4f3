"""`tallystick verify`: exit codes, JSON against its schema, text in both languages, the installed policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocols.evidence.bundle import write_bundle
from tallystick.__main__ import main
from tests.support.schemas import validate
from verifier.commands import local_time
from verifier.conformance.tamperings_sealed import CASES
from verifier.conformance.world import START_S, World, small, two_devices


@pytest.fixture(autouse=True)
def no_installed_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TALLYSTICK_POLICY", raising=False)
    monkeypatch.setattr("verifier.commands.POLICY_PLACES", (str(tmp_path / "installed.json"),))
    for name in ("LANG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    world, gateway = small()
    write_bundle(tmp_path / "x.tally", gateway.members())
    (tmp_path / "policy.json").write_bytes(world.policy_json())
    return str(tmp_path / "x.tally"), str(tmp_path / "policy.json")


def test_valid(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", files[0], "--policy", files[1]]) == 0
    out = capsys.readouterr().out
    assert out.startswith("VALID")
    assert "2026-09-21 22:14:00+08:00 to 2026-09-21 22:16:00+08:00" in out


def test_chinese(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", files[0], "--policy", files[1], "--lang", "zh"]) == 0
    assert capsys.readouterr().out.startswith("有效")


def test_given_trust_is_said_to_every_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(witnesses=())
    gateway = world.gateway()
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    write_bundle(tmp_path / "x.tally", gateway.members())
    (tmp_path / "p.json").write_bytes(world.policy_json())
    assert main(["verify", str(tmp_path / "x.tally"), "--policy", str(tmp_path / "p.json")]) == 0
    assert "time and completeness rest on the applicant alone" in capsys.readouterr().out.lower()


@pytest.mark.parametrize("name", ["a_window_left_out", "a_checkpoint_signed_by_another_key", "one_witness_too_few",
                                  "a_gateway_that_nobody_vouches_for", "the_tail_cut_off_and_its_head_too"])
def test_json_of_an_invalid_bundle(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    exhibit = CASES[name][2]()
    write_bundle(tmp_path / "x.tally", exhibit.members)
    monkeypatch.setattr("verifier.commands.load_policy", lambda path: exhibit.policy)
    arguments = ["verify", str(tmp_path / "x.tally"), "--json", "--lang", "zh"]
    if exhibit.anchor is not None:
        (tmp_path / "anchor").write_bytes(exhibit.anchor)
        arguments += ["--anchor", str(tmp_path / "anchor")]
    assert main(arguments) == 1
    printed = json.loads(capsys.readouterr().out)
    validate(printed, "verify.schema.json")
    assert printed["verdict"] == "invalid"
    assert [f["code"] for f in printed["findings"] if f["severity"] == "fault"] == [CASES[name][1]]
    assert all(f["message"].isascii() and str(tmp_path) not in f["where"] for f in printed["findings"])


def test_json_is_the_same_bytes_twice(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for _ in range(2):
        assert main(["verify", files[0], "--policy", files[1], "--json"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    printed = json.loads(texts[0])
    validate(printed, "verify.schema.json")
    assert printed["summary"]["covered"] == [START_S, START_S + 120]


def test_a_zip_that_breaks_a_rule_is_invalid_and_no_zip_is_bad_usage(
        files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, gateway = small()
    write_bundle(tmp_path / "odd.tally", gateway.members() | {"note.txt": b"hello"})
    assert main(["verify", str(tmp_path / "odd.tally"), "--policy", files[1], "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    validate(printed, "verify.schema.json")
    assert [(f["step"], f["code"]) for f in printed["findings"]] == [(1, "container.unknown_member")]
    (tmp_path / "none.tally").write_bytes(b"PK nothing")
    for name in ("none.tally", "absent.tally"):
        assert main(["verify", str(tmp_path / name), "--policy", files[1]]) == 2
        assert name in capsys.readouterr().err


def test_a_name_from_outside_steers_no_terminal(files: tuple[str, str], tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    _, gateway = small()
    write_bundle(tmp_path / "x2.tally", gateway.members() | {"\x1b[2JVALID\u202e": b""})
    for option in ([], ["--json"]):
        assert main(["verify", str(tmp_path / "x2.tally"), "--policy", files[1], *option]) == 1
        out = capsys.readouterr().out
        assert "\x1b" not in out and "\u202e" not in out and not out.startswith("VALID")


def test_without_a_policy_nobody_is_trusted(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", files[0]]) == 2
    assert "policy" in capsys.readouterr().err


def test_the_installed_policy_is_used(files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "installed.json").write_bytes(Path(files[1]).read_bytes())
    assert main(["verify", files[0]]) == 0
    monkeypatch.setenv("TALLYSTICK_POLICY", str(tmp_path / "other.json"))  # named, so the installed one is not asked
    assert main(["verify", files[0]]) == 2
    monkeypatch.setenv("TALLYSTICK_POLICY", files[1])
    assert main(["verify", files[0]]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"register": 5}', b'{"strangers": []}', b"\xff", b'{"a":1,"a":1}',
                                  b"[" * 20_000, b'{"gateways": ["x"]}', b'{"independent": ["nobody"]}',
                                  b'{"witnesses": "quorum all\\nquorum none"}'])
def test_a_wrong_policy_is_bad_usage(text: bytes, files: tuple[str, str], tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.json").write_bytes(text)
    assert main(["verify", files[0], "--policy", str(tmp_path / "p.json")]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err and "p.json" in err


def test_a_policy_with_one_key_under_two_names_is_refused(files: tuple[str, str], tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    policy = json.loads(Path(files[1]).read_text())
    line = next(line for line in policy["witnesses"].split("\n") if line.startswith("witness bureau"))
    twin = line.replace("witness bureau", "witness twin")
    policy["witnesses"] = policy["witnesses"].replace(line, f"{line}\n{twin}")
    (tmp_path / "p.json").write_text(json.dumps(policy))
    assert main(["verify", files[0], "--policy", str(tmp_path / "p.json")]) == 2
    assert "twin" in capsys.readouterr().err


def test_times_beyond_the_calendar_are_numbers() -> None:
    assert local_time(0) == "1970-01-01 08:00:00+08:00"
    assert local_time(2**53 - 1) == str(2**53 - 1)
