"""Every parser of bytes from outside: the corpus once through each target, then some seconds of new inputs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import harness, seeds
from fuzz.running import CORPUS, TARGETS, run, run_all
from tests.support.endings import at_the_end
from tests.support.source import ROOT

CI = os.environ.get("CI") == "true"
SECONDS = int(os.environ.get("TALLYSTICK_FUZZ_S", "1"))
"""One shows that every target starts, runs and finds nothing at once. `.ci/run` gives ten, `make fuzz` searches."""
JOBS = 4
FILES_MAX, FILE_BYTES_MAX = 200, 20_000

at_the_end(harness.clear)


def checker(target: str) -> Callable[[bytes], None]:
    check: Callable[[bytes], None] = importlib.import_module(f"fuzz.fuzz_{target}").check
    return check


def need_atheris() -> None:
    """atheris has no package for every machine."""
    if importlib.util.find_spec("atheris") is None:
        reason = "not installed: atheris (Linux on x86-64 only)"
        if CI:
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_read_or_refused(target: str) -> None:
    files = sorted((CORPUS / target).iterdir())
    assert any(file.name.startswith("seed_") for file in files), "a target without a seed"
    assert len(files) <= FILES_MAX and all(file.stat().st_size <= FILE_BYTES_MAX for file in files)
    check = checker(target)
    for file in files:
        check(file.read_bytes())
    for data in (b"", b"\0", b"\xff" * 300):
        check(data)


def test_seeds_of_todays_fixtures_are_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "CORPUS", tmp_path)
    seeds.main()
    made = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.glob("*/*")}
    kept = {file.relative_to(CORPUS) for file in CORPUS.glob("*/seed_*")}
    assert set(made) == kept, "run: python -m fuzz.seeds"
    for path, data in made.items():
        checker(path.parts[0])(data)


def test_every_target_is_named_in_the_page() -> None:
    page = (ROOT / "docs" / "fuzzing.md").read_text(encoding="utf-8")
    assert [target for target in TARGETS if f"`{target}`" not in page] == []


@pytest.mark.timeout(900)
def test_new_inputs_for_some_seconds() -> None:
    need_atheris()
    broken = []
    for one in run_all(TARGETS, seconds=SECONDS, jobs=JOBS):
        print(one)
        if one.said or one.inputs == 0:
            broken.append(f"{one}\ninput: {one.find.hex() if one.find is not None else '-'}")
    assert not broken, "\n\n".join(broken)


@pytest.mark.parametrize(("begun", "inputs"), [(True, 4096), (False, 0)], ids=["begun", "not begun"])
def test_a_run_that_does_not_end_in_time_says_what_it_tried(begun: bool, inputs: int, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with much else to do; it was a traceback, and all other targets were left out."""
    said = "sys.stderr.write('#1024 NEW\\n#4096 pulse\\n'); sys.stderr.flush()" if begun else "pass"
    (tmp_path / "fuzz_late.py").write_text(f"import sys, time\n{said}\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setattr("fuzz.running.START_S", 4.0 if begun else 0.0)
    late = run("late", seconds=1, module="fuzz_late")
    assert (late.inputs, late.find, bool(late.said)) == (inputs, None, not begun)


def test_a_find_counts_also_when_the_run_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that broke and then hung on its way out was told as one that found nothing."""
    (tmp_path / "crash-1").write_bytes(b"!")
    log = f"#8 NEW\nTest unit written to {tmp_path / 'crash-1'}\n"

    def hangs(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 1, stderr=log.encode())
    monkeypatch.setattr(subprocess, "run", hangs)
    stuck = run("stuck", seconds=1)
    assert (stuck.inputs, stuck.find) == (8, b"!") and "crash-1" in stuck.said


def test_a_parser_that_lets_another_error_out_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way from a crash to its input works: else a silent fuzzer would look like a sound parser."""
    need_atheris()
    (tmp_path / "fuzz_weak.py").write_text(
        "from fuzz.harness import start\n\ndef check(data):\n    assert data[:1] != b'!', 'weak'\n\n"
        "if __name__ == '__main__':\n    start(check)\n")
    monkeypatch.setattr("fuzz.running.CORPUS", tmp_path / "corpus")
    (tmp_path / "corpus" / "weak").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    found = run("weak", seconds=20, module="fuzz_weak")
    assert found.find is not None and found.find[:1] == b"!" and "weak" in found.said
