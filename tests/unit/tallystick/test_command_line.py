"""What a user meets at the command line: help, languages, errors with their fix, exit statuses, never a traceback."""

from __future__ import annotations

import argparse
import ast
import asyncio
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from protocols.errors import ConfigError, DeviceError, EvidenceError, Problem, TallystickError, VerificationError
from protocols.terms.say import Say
from tallystick import __main__ as cli
from tallystick.words.lookup import Words
from tests.support.source import ROOT, source_files, tree

OFFERED = [command for command in cli.COMMANDS if cli.available(command)]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, in a process of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    return subprocess.run([sys.executable, "-m", "tallystick", *arguments], cwd=ROOT, capture_output=True, text=True,
                          encoding="utf-8", env=inherited | environ, timeout=60, check=False)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A room with one command, `check`, whose behaviour a test sets as `room.act`."""
    module = ModuleType("tests_room")

    def arguments(parser: argparse.ArgumentParser, say: Say) -> None:
        parser.add_argument("config", nargs="?")

    def command(args: argparse.Namespace, say: Say) -> int:
        return int(module.__dict__["act"](args, say))

    module.__dict__.update(check_arguments=arguments, check_command=command)
    monkeypatch.setitem(sys.modules, "tests_room", module)
    monkeypatch.setattr(cli, "COMMANDS", {"check": cli.Room("tests_room", "gateway")})
    monkeypatch.setattr(cli, "available", lambda command: True)
    return module


def raises(error: BaseException) -> object:
    def act(args: argparse.Namespace, say: Say) -> int:
        raise error
    return act


# The table of commands.

def test_every_command_of_a_room_is_in_the_table() -> None:
    """A room that writes `foo_command` wants the command foo to be offered."""
    written = set()
    for file in source_files():
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if file.name == "commands.py" or module in {room.module for room in cli.COMMANDS.values()}:
            written |= {(node.name.rsplit("_", 1)[0], module) for node in tree(file).body
                        if isinstance(node, ast.FunctionDef) and node.name.endswith("_command")
                        and not node.name.startswith("_")}
    assert ("explain", "tallystick.__main__") in written
    assert written == {(command, cli.COMMANDS[command].module) for command in OFFERED}


@pytest.mark.parametrize("command", OFFERED)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_offered_command_has_help(command: str, lang: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--lang", lang, "--help"]) == 0
    out, err = capsys.readouterr()
    summary = Words(lang)(f"cli.command.{command}")
    assert "".join(summary.split()) in "".join(out.split())
    assert not err


def test_a_command_that_is_not_written_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMMANDS", {"fly": cli.Room("gateway"), "swim": cli.Room("no.such.room")})
    assert [command for command in cli.COMMANDS if cli.available(command)] == []


def test_the_help_of_no_command_loads_a_library() -> None:
    """commands.py imports the standard library only: the base install can list and explain every command."""
    program = ("import sys; heavy = ['numpy','aiohttp','asyncua','pymodbus','paho','amqtt','google','influxdb_client',"
               "'pydantic','jinja2']; sys.modules.update({name: None for name in heavy});"
               "from tallystick.__main__ import main;"
               f"failed = [command for command in {OFFERED!r} if main([command, '--help']) != 0];"
               "sys.exit(', '.join(failed) or 0)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stderr


# Help and languages.

def test_without_arguments_the_help_is_printed_in_the_language_of_the_locale() -> None:
    english, chinese = run(), run(LANG="zh_CN.UTF-8")
    assert english.returncode == chinese.returncode == 0
    assert "examples:" in english.stdout and "tallystick explain CODE" in english.stdout
    assert "示例" in chinese.stdout
    assert run(LANG="C").stdout == english.stdout
    assert run("--lang=zh", LANG="C").stdout == chinese.stdout


def test_version() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.split()[0] == "tallystick"


@pytest.mark.parametrize("arguments", [
    ["frobnicate"], ["--frob"], ["--lang", "tlh"], ["--lang"], ["explain", "--frob"], ["explain", "no.such_code"],
])
def test_bad_usage_is_2_and_says_why(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "error:" in done.stderr and "Traceback" not in done.stderr
    assert not done.stdout


def test_the_language_may_stand_before_or_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--lang", "zh", "explain", "cli.file"], ["explain", "cli.file", "--lang=zh"]):
        assert cli.main(arguments) == 0
        assert "处理办法" in capsys.readouterr().out
    assert cli.main(["explain", "cli.file", "--", "--lang", "zh"]) == 2  # behind -- it is a code


# explain

def test_explain_tells_meaning_cause_and_fix(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "cli.missing_extra"]) == 0
    out = capsys.readouterr().out
    assert "usual cause: The base installation" in out
    assert "fix: pip install 'tallystick[<extra>]'" in out


def test_explain_names_every_unknown_code_and_what_is_spelled_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "cli.missing_extr", "cli.file", "zzzz"]) == 2
    err = capsys.readouterr().err
    assert "no code cli.missing_extr" in err and "similar codes: cli.missing_extra" in err and "no code zzzz" in err


def test_explain_lists_the_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "cli.unknown_code" in listed and "cli.command.run" not in listed


# What goes wrong.

@pytest.mark.parametrize(("family", "status"), [
    (ConfigError, 2), (DeviceError, 1), (EvidenceError, 1), (VerificationError, 1),
])
def test_each_family_is_told_with_its_fix(
    room: ModuleType, capsys: pytest.CaptureFixture[str], family: type[TallystickError], status: int
) -> None:
    room.__dict__["act"] = raises(family([
        Problem.of("plant.toml, key a", "cli.unknown_code", code="x", similar="y"),
        Problem.of("plant.toml, key b", "cli.unexpected", kind="K", message="m")]))
    assert cli.main(["check"]) == status
    out, err = capsys.readouterr()
    assert not out
    assert err.split("\n\n") == [
        "error: plant.toml, key a: there is no code x",
        "hint: similar codes: y; `tallystick explain` lists those with a cause or a fix",
        "error: plant.toml, key b: an error that should not happen: K: m",
        "hint: please report it with the command line and this message; TALLYSTICK_DEBUG=1 shows where it arose",
        "more: tallystick explain cli.unexpected\n",
    ]


def test_problems_of_a_task_group_are_told_like_others(room: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    async def fail(where: str) -> None:
        raise DeviceError(Problem.of(where, "cli.file", reason="r"))

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail("one"))
            group.create_task(fail("two"))

    room.__dict__["act"] = lambda args, say: asyncio.run(together())
    assert cli.main(["--lang", "zh", "check"]) == 1
    err = capsys.readouterr().err
    assert "错误: one: 无法使用：r" in err and "错误: two:" in err and "提示: " in err


def test_what_comes_from_outside_cannot_steer_the_terminal(
    room: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    room.__dict__["act"] = raises(ConfigError(Problem.of("a\x1b[2J\nerror: b", "cli.file", reason="\x1b]0;owned\x07")))
    cli.main(["check"])
    err = capsys.readouterr().err
    assert "\x1b" not in err and "\x07" not in err and "\nerror: b" not in err


@pytest.mark.parametrize(("error", "status", "said"), [
    (FileNotFoundError(2, "No such file or directory", "a.toml"), 2, "error: a.toml: cannot be used: No such file"),
    (PermissionError(13, "Permission denied", b"key.pem"), 2, "error: key.pem: cannot be used: Permission denied"),
    (OSError(28, "No space left on device", "journal"), 1, "error: journal: cannot be used: No space left"),
    (ModuleNotFoundError("x", name="asyncua.common"), 2, "pip install 'tallystick[gateway]'"),
    (ModuleNotFoundError("x", name="gateway.nothing"), 70, "should not happen"),
    (ZeroDivisionError("division by zero"), 70, "ZeroDivisionError: division by zero"),
    (ConnectionResetError(104, "reset"), 70, "ConnectionResetError"),
    (BrokenPipeError(32, "a device hung up"), 70, "a device hung up"),
    (KeyboardInterrupt(), 130, ""),
])
def test_other_errors(room: ModuleType, capsys: pytest.CaptureFixture[str], error: BaseException, status: int,
                      said: str) -> None:
    room.__dict__["act"] = raises(error)
    assert cli.main(["check"]) == status
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
    assert said or not err


def test_a_missing_library_of_the_base_install_needs_no_extra(
    room: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", {"check": cli.Room("tests_room")})
    room.__dict__["act"] = raises(ModuleNotFoundError("x", name="cryptography"))
    assert cli.main(["check"]) == 2
    assert "install Tallystick again" in capsys.readouterr().err


def test_developers_get_the_traceback(room: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_DEBUG", "1")
    room.__dict__["act"] = raises(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["check"])


def test_options_of_a_room_win_over_the_common_ones(room: ModuleType) -> None:
    def arguments(parser: argparse.ArgumentParser, say: Say) -> None:
        parser.add_argument("-q", metavar="SECONDS", type=int)

    seen = []
    room.__dict__.update(check_arguments=arguments, act=lambda args, say: seen.append(args.q) or 0)
    assert cli.main(["check", "-q", "7"]) == 0
    assert seen == [7]


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`tallystick explain | head -1`, with a reader that is gone before the first byte."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        for arguments, statuses in (["explain"], {141}), (["--help"], {0, 141}):  # newer argparse overlooks the pipe
            done = subprocess.run([sys.executable, "-m", "tallystick", *arguments], cwd=ROOT, stdout=writer,
                                  stderr=subprocess.PIPE, timeout=60, check=False)
            assert done.returncode in statuses
            assert done.stderr == b""
    finally:
        os.close(writer)


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_only_on_a_terminal_that_wants_them(environ: dict[str, str], coloured: bool) -> None:
    master, slave = pty.openpty()
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    try:
        subprocess.run([sys.executable, "-m", "tallystick", "explain", "zzz"], cwd=ROOT, stderr=slave, timeout=60,
                       env=inherited | {"TERM": "xterm"} | environ, check=False)
        shown = os.read(master, 4096)
    finally:
        os.close(slave)
        os.close(master)
    assert b"no code zzz" in shown
    assert (b"\x1b[" in shown) is coloured
    assert "\x1b" not in run("explain", "zzz", NO_COLOR="").stderr


def test_a_terminal_without_chinese_letters_gets_numbers_instead_of_an_error() -> None:
    done = run("--lang", "zh", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "\\u793a" in done.stdout  # 示


# Logging.

@pytest.mark.parametrize(("options", "shown"), [
    ([], ["ours info", "library warning"]),
    (["-q"], ["library error"]),
    (["-v"], ["ours debug", "ours info", "library info", "library warning"]),
    (["-vv"], ["ours debug", "ours info", "library debug", "library info", "library warning"]),
])
def test_levels(options: list[str], shown: list[str]) -> None:
    program = ("import logging, sys; from tallystick import __main__ as cli\n"
               "def act(args, say):\n"
               "    for name, logger in (('ours', 'gateway.x'), ('library', 'asyncua.y')):\n"
               "        for level in ('debug', 'info', 'warning', 'error'):\n"
               "            getattr(logging.getLogger(logger), level)('%s %s', name, level)\n"
               "    return 0\n"
               "import importlib; importlib.import_module('tallystick.__main__').explain_command = act\n"
               f"sys.exit(cli.main([*{options!r}, 'explain']))")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=True)
    assert not done.stdout
    lines = [line.split(": ", 1)[1] for line in done.stderr.splitlines()]
    assert set(shown) <= set(lines)
    wanted = {"ours error", "library error", "ours warning", *shown}
    assert set(lines) == wanted


def test_a_log_line_cannot_forge_a_second_one_and_hides_the_traceback() -> None:
    quiet, loud = cli._Lines(tracebacks=False), cli._Lines(tracebacks=True)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.LogRecord("gateway.x", logging.ERROR, "f", 1, "device %s", ("a\nERROR b",), sys.exc_info())
    line = quiet.format(record)
    assert "\n" not in line and line.endswith("ERROR gateway.x: device a\\nERROR b (ValueError: first\\nsecond)")
    assert line[:10].count("-") == 2 and line.split(" ")[0][-6] in "+-"  # a date, and the zone of the time
    assert "Traceback" in loud.format(record)


def test_the_installed_command_is_this_one() -> None:
    script = Path(sys.executable).with_name("tallystick")
    if not script.exists():
        pytest.skip("the project is not installed in this environment")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == run("--version").stdout
