"""`tallystick conformance`: the corpus is what it says, our verifier passes it, broken ones do not."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from protocols.evidence.policy import parse as parse_policy
from tallystick.__main__ import main
from tests.support.schemas import validate
from tests.support.source import ROOT
from verifier.conformance import corpus, judging
from verifier.conformance.draw import honest
from verifier.conformance.judging import Answer, Folder
from verifier.conformance.tamperings import CASES


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    assert corpus.write(folder) == len(list(folder.iterdir()))
    return folder


def ours(arguments: list[str]) -> Answer:
    """Our own verifier, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(arguments)
    return Answer(status, out.getvalue().encode(), err.getvalue()[-100:])


def test_our_verifier_passes_with_the_very_codes(written: Path) -> None:
    outcomes = [judging.judge_folder(folder, ours, strict=True) for folder in judging.load(written)]
    assert [(o.folder.path.name, o.problem, o.told) for o in outcomes if not o.ok] == []
    counts = Counter(o.folder.verdict for o in outcomes)
    assert counts["invalid"] + counts["unusable"] >= 10 * counts["valid"] >= 200
    assert all(o.code_found for o in outcomes if o.folder.verdict == "invalid")
    printed = judging.as_json(outcomes)
    validate(printed, "conformance.schema.json")
    assert (printed["as_expected"], printed["not_as_expected"]) == (len(outcomes), 0)


def test_names_of_folders_tell_verdict_and_cause(written: Path) -> None:
    steps = set()
    for folder in judging.load(written):
        value = json.loads((folder.path / "expected.json").read_bytes())
        start = {"valid": ["valid"], "invalid": ["invalid", str(value["step"]), value["code"]],
                 "unusable": ["unusable", value["code"]]}[value["verdict"]]
        assert folder.path.name.startswith("-".join([*start, ""]))
        assert value["exit"] == corpus.EXITS[value["verdict"]]
        steps.add(value["step"])
    assert steps == {None, *range(1, 11)}, "every step refuses something"
    assert all(any(name.replace("_", "-") in folder.name for folder in written.iterdir()) for name in CASES)


def test_another_process_writes_the_same_bytes(written: Path) -> None:
    """With other hashes of strings: the order of no set may reach a file."""
    program = ("import hashlib, itertools; from verifier.conformance import corpus as c\n"
               "for case in itertools.chain(c._handmade(), c._containers(), c._unusable(),"
               " itertools.islice(c._valid(), 4), c._drawn([24, 33, 40])):\n"
               "    print(case.folder, *(hashlib.sha256(d).hexdigest() for d in (case.bundle, case.policy)))")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env={"PYTHONHASHSEED": "12345", "PATH": ""}, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) > 150
    for line in lines:
        name, bundle, policy = line.split()
        for file, expected in (("bundle.tally", bundle), ("policy.json", policy)):
            assert hashlib.sha256((written / name / file).read_bytes()).hexdigest() == expected, name


def says(status: int, output: object) -> Callable[[list[str]], Answer]:
    data = output if isinstance(output, bytes) else json.dumps(output).encode()
    return lambda arguments: Answer(status, data)


VALID = {"verdict": "valid", "findings": []}
INVALID = {"verdict": "invalid", "findings": [{"severity": "fault", "code": "mine.own"},
                                              {"severity": "remark", "code": "window.gap"}]}


@pytest.mark.parametrize(("verdict", "code", "run", "strict", "problem"), [
    ("valid", None, says(0, VALID), False, ""),
    ("valid", None, says(1, INVALID), False, "conformance.exit"),
    ("invalid", "window.gap", says(0, VALID), False, "conformance.exit"),
    ("invalid", "window.gap", says(2, b""), False, "conformance.exit"),
    ("invalid", "window.gap", says(1, INVALID), False, ""),
    ("invalid", "window.gap", says(1, INVALID), True, "conformance.code"),
    ("invalid", "mine.own", says(1, INVALID), True, ""),
    ("invalid", "mine.own", says(1, VALID), False, "conformance.verdict"),
    ("invalid", "mine.own", says(1, b"Traceback"), False, "conformance.json"),
    ("invalid", "mine.own", says(1, b"[" * 100_000), False, "conformance.json"),
    ("invalid", "mine.own", says(1, [1]), False, "conformance.json"),
    ("invalid", "mine.own", says(1, {"verdict": "invalid"}), False, "conformance.json"),
    ("invalid", "mine.own", says(-11, b""), False, "conformance.crashed"),
    ("invalid", "mine.own", says(3, INVALID), False, "conformance.crashed"),
    ("unusable", "policy.line", says(2, b""), False, ""),
    ("unusable", "policy.line", says(1, INVALID), False, "conformance.exit"),
    ("unusable", "policy.line", lambda arguments: Answer(None, b"", "> 1 s"), False, "conformance.timeout"),
])
def test_what_a_verifier_says_is_judged(tmp_path: Path, verdict: str, code: str | None,
                                        run: Callable[[list[str]], Answer], strict: bool, problem: str) -> None:
    folder = Folder(tmp_path / "case", verdict, corpus.EXITS[verdict], code)
    assert judging.judge_folder(folder, run, strict=strict).problem == problem


BROKEN = """
import json, sys
# It reads the bundle, believes it, and forgets who must have signed.
print(json.dumps({"verdict": "valid", "findings": []}))
"""


def test_a_broken_verifier_fails_at_the_command_line(written: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    few = tmp_path / "few"
    few.mkdir()
    names = sorted(p.name for p in written.iterdir())
    for name in [n for n in names if n.startswith("valid")][:2] + [n for n in names if n.startswith("invalid")][::60]:
        (few / name).symlink_to(written / name)
    (tmp_path / "broken.py").write_text(BROKEN)
    command = f"{sys.executable} {tmp_path / 'broken.py'}"
    assert main(["conformance", command, "--corpus", str(few), "--jobs", "2"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("ok") for line in out) == 2
    assert sum(line.startswith("WRONG invalid-") for line in out) == len(list(few.iterdir())) - 2
    assert out[-1].startswith("2 of ")
    assert main(["conformance", command, "--corpus", str(few), "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    validate(printed, "conformance.schema.json")
    assert printed["as_expected"] == 2


def test_our_command_passes_as_a_process(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(p.name for p in written.iterdir())
    for name in [*names[::90], *itertools.islice((n for n in names if (written / n / "also").is_dir()), 2),
                 next(n for n in names if (written / n / "anchor").exists())]:
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(written / name)
    assert main(["conformance", f"{sys.executable} -m tallystick", "--corpus", str(tmp_path), "--codes", "strict"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("0 not")


def test_a_verifier_that_hangs_is_ended(written: Path, tmp_path: Path) -> None:
    run = judging.by_process([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.3)
    folder = judging.load(written)[0]
    assert judging.judge_folder(folder, run, strict=False).problem == "conformance.timeout"


@pytest.mark.parametrize("arguments", [
    [], ["x", "--write", "y"], ["--write", "FULL"], ["no-such-program-anywhere"], ["'unclosed"],
    [sys.executable, "--corpus", "EMPTY"], [sys.executable, "--timeout", "0"], [sys.executable, "--jobs", "0"],
    [sys.executable, "--corpus", "BAD"],
])
def test_bad_usage(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("FULL", "EMPTY", "BAD"):
        (tmp_path / name / "case").mkdir(parents=True)
    (tmp_path / "BAD/case/expected.json").write_text('{"verdict": "maybe"}')
    places = {name: str(tmp_path / name) for name in ("FULL", "EMPTY", "BAD")}
    assert main(["conformance", *(places.get(a, a) for a in arguments)]) == 2
    err = capsys.readouterr().err
    assert "error:" in err and "Traceback" not in err


def test_a_policy_written_for_the_corpus_says_the_same() -> None:
    for seed in range(12):
        policy = honest(f"policy {seed}").parsed_policy()
        again = parse_policy(corpus.policy_file(policy), where="policy")
        assert (again.register, again.platform, again.independent, again.gateways) == (
            policy.register, policy.platform, policy.independent, policy.gateways)
        if policy.register is not None:
            assert again.quorum == policy.quorum
