"""The server of commands that other tests use: what it runs is what `python -m tallystick` would do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.platform_process import tallystick
from tests.support.warm import warm


@pytest.mark.parametrize("arguments", [("explain", "entry.altered"), ("explain", "zzz"), ("verify", "--nope"),
                                       ("--version",)],
                         ids=["answer", "refusal", "usage", "version"])
def test_it_answers_like_a_start_from_nothing(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    fresh = subprocess.run([sys.executable, "-m", "tallystick", *arguments], capture_output=True, text=True,
                           timeout=60, check=False)
    done = tallystick(*arguments, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)
    assert done.stdout or done.stderr


def test_each_command_has_the_folder_and_environment_of_its_caller(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tallystick("init", "here").returncode == 0
    assert (tmp_path / "here" / "gateway.toml").exists()
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    chinese = tallystick("explain", "entry.altered").stdout
    monkeypatch.delenv("LANG")
    assert chinese != tallystick("explain", "entry.altered").stdout


def test_a_process_that_is_killed_says_so(tmp_path: Path) -> None:
    key = tallystick("witness", "init", tmp_path / "w", "--name", "w.example", "--listen", "127.0.0.1:0").stdout
    assert key
    with (tmp_path / "log").open("wb") as log:
        process = warm().start(["witness", tmp_path / "w" / "witness.toml"], out=None, err=log.fileno())
    assert process.poll() is None
    os.kill(process.pid, 0)
    process.kill()
    assert process.wait(20) == -9 == process.poll()
    process.kill()  # once more does no harm
