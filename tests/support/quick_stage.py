"""Stages whose commands have their libraries already: the programs and what they do are the same.

    python -m tests.support.quick_stage --out DIR [--seed N] [--broker mosquitto] [--lang zh]    a demo, so
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from tallystick.__main__ import main
from tallystick.demo import Demo
from tallystick.stage import Stage, StageError
from tests.support.endings import end
from tests.support.warm import Warm

COMMAND_S = 100.0


@cache
def plants() -> Warm:
    """A server of commands that has the libraries of simulated plants too."""
    return Warm("importlib:import_module", "simulators.plant")


class Quick(Stage):
    """What a stage starts comes from a server of commands; stands before the class of the stage."""

    def command(self, name: str, *words: str | Path, may_fail: bool = False) -> str:
        done = plants().run(["--lang", self.say.lang, *words], timeout_s=COMMAND_S)
        (self.logs / f"{name}.out").write_text(done.stdout, encoding="utf-8")
        (self.logs / f"{name}.log").write_text(done.stderr, encoding="utf-8")
        if done.returncode not in ((0, 1) if may_fail else (0,)):
            raise StageError(f"tallystick {name}: {done.stderr}")
        return done.stdout

    def tallystick(self, name: str, *words: str | Path) -> None:
        with (self.logs / f"{name}.log").open("ab") as errors:
            process = plants().start(["--lang", self.say.lang, *words], out=None, err=errors.fileno())
        self._running[name] = process  # type: ignore[assignment]  # used as a Popen is


class QuickDemo(Quick, Demo):
    """The demo, so."""


if __name__ == "__main__":
    import tallystick.demo

    tallystick.demo.Demo = QuickDemo  # type: ignore[misc]  # in a process of its own
    try:
        status = main(["demo", *sys.argv[1:]])
    finally:
        end()
    sys.exit(status)
