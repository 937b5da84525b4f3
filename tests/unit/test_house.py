"""The house: who may import whom, what an install holds, and that every file that starts or installs it is sound."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tallystick.__main__ import COMMANDS, available
from tests.support.programs import need
from tests.support.source import ROOMS, ROOT, imports, source_files

DEVICE_LIBRARIES = {"asyncua", "pymodbus", "paho", "amqtt"}
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ("base", "demo", "dev", "build")
PIN = re.compile(r"^([a-z0-9][a-z0-9-]*)==([^\s;]+)((?: ?;[^\\]*)?) \\$", re.MULTILINE)


def lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    return {library: version for library, version, _ in PIN.findall(lock(name))}


def library(requirement: str) -> str:
    """Return the name before version, extras and markers, as an index writes it."""
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


def wanted(*extras: str) -> set[str]:
    optional = PROJECT["project"]["optional-dependencies"]
    listed = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in optional[extra])]
    return {library(line) for line in listed} - {"tallystick"}


# Arrows.

def test_only_a_driver_imports_a_device_library() -> None:
    """Also inside functions and through import_module, where import-linter sees nothing."""
    outside = [f"{file.relative_to(ROOT)}:{line} {module}"
               for file in source_files()
               if file.name != "driver.py" and file.relative_to(ROOT).parts[0] != "simulators"
               for line, module in imports(file) if module.split(".")[0] in DEVICE_LIBRARIES]
    assert not outside


def test_simulators_use_none_of_our_codecs() -> None:
    """A mistake in a codec must not cancel itself out. Only a forger of evidence has to know its format."""
    ours = [f"{file.relative_to(ROOT)}:{line} {module}" for file in source_files()
            if file.relative_to(ROOT).parts[0] == "simulators" and file.name != "cheats.py"
            for line, module in imports(file)
            if module.startswith(("protocols.opcua", "protocols.modbus", "protocols.mqtt", "protocols.evidence"))]
    assert not ours


def test_every_init_is_empty() -> None:
    full = [str(file.relative_to(ROOT)) for file in source_files()
            if file.name == "__init__.py" and file.read_bytes() != b""]
    assert not full


def test_the_proof_imports_nothing_but_the_format() -> None:
    """verifier.proof and all it stands on: the standard library, signatures, JCS, and the format itself."""
    allowed = sys.stdlib_module_names | {"cryptography", "rfc8785"}
    format_ = ("protocols.evidence", "protocols.terms", "protocols.errors")
    strange = []
    for file in source_files():
        room = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if not room.startswith(("verifier.proof", *format_)):
            continue
        own = (*format_, "verifier.proof") if room.startswith("verifier.proof") else format_
        strange += [f"{room}:{line} {module}" for line, module in imports(file)
                    if module.split(".")[0] not in allowed and not module.startswith(own)]
    assert not strange


def test_the_proof_runs_without_numpy_and_aiohttp() -> None:
    """A fresh process in which those libraries cannot be imported; it also says what was loaded instead."""
    program = """
import importlib, pkgutil, sys
blocked = ["numpy", "aiohttp", "asyncua", "pymodbus", "paho", "pydantic", "jinja2", "google", "amqtt"]
sys.modules.update({name: None for name in blocked})
before = set(sys.modules)
import verifier.proof
names = [m.name for m in pkgutil.walk_packages(verifier.proof.__path__, "verifier.proof.")]
for name in names:
    importlib.import_module(name)
third = {m.split(".")[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(len(names), *sorted(third - {"verifier", "protocols"}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stderr
    number, *third = done.stdout.split()
    assert int(number) == len([f for f in source_files() if "verifier/proof/" in f.as_posix()]) - 1
    assert {name for name in third if not name.startswith("_")} <= {"cryptography", "rfc8785", "typing_extensions"}


VIOLATIONS = {
    "a lower room looks up": ("layers", {"config/planted.py": "import gateway"}),
    "protocols look into config": ("layers", {"protocols/planted.py": "from config import loader"}),
    "siblings meet": ("layers", {"gateway/planted.py": "import verifier.proof"}),
    "simulators meet a sibling": ("layers", {"simulators/planted.py": "import gateway.counting"}),
    "a device library outside a driver": ("drivers", {"protocols/modbus/planted.py": "import pymodbus.client"}),
    "the proof takes numpy": ("proof", {"verifier/proof/planted.py": "import numpy"}),
    "the proof takes numpy by a detour": ("proof", {
        "verifier/proof/planted.py": "import protocols.evidence.planted",
        "protocols/evidence/planted.py": "import protocols.samples"}),
    "a circle": ("circles", {"gateway/counting/planted.py": "import gateway.sealing.planted",
                             "gateway/sealing/planted.py": "import gateway.counting.planted2",
                             "gateway/counting/planted2.py": ""}),
}


@pytest.fixture(scope="module")
def copied_rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the rooms, so that building and planting leave the checkout alone."""
    copy = tmp_path_factory.mktemp("house")
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def lint(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "lint-imports", "--no-logo", "--no-cache", *options], cwd=folder,
                          env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True, timeout=100, check=False)


def test_the_arrows_hold(copied_rooms: Path) -> None:
    done = lint(copied_rooms)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_each_contract_breaks_when_it_is_violated(copied_rooms: Path, violation: str) -> None:
    contract, planted = VIOLATIONS[violation]
    try:
        for name, source in planted.items():
            (copied_rooms / name).write_text(source + "\n")
        done = lint(copied_rooms, "--contract", contract)
    finally:
        for name in planted:
            (copied_rooms / name).unlink(missing_ok=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
    assert contract == "circles" or "planted" in done.stdout  # a circle is reported by its rooms, not by its lines


# What an install holds.

@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_host_and_hash_everything(name: str) -> None:
    text = lock(name)
    assert "://" not in text and "index" not in text.lower().split("# via")[0]
    assert not re.search(r"^\s*(--(?!hash=)|-[a-z] |\S+ @ )", text, re.MULTILINE)
    entries = re.split(r"\n(?=[a-z0-9][a-z0-9-]*==)", text)[1:]
    assert len(entries) == len(pins(name)) == len(re.findall(r"^[^\s#].*==", text, re.MULTILINE)) > 0
    assert all("--hash=sha256:" in entry for entry in entries)


def test_locks_agree_with_each_other_and_with_the_project() -> None:
    dev = pins("dev")
    for name in ("base", "demo"):
        assert pins(name).items() <= dev.items(), name
    assert pins("build")["setuptools"] == dev["setuptools"]
    assert wanted() <= pins("base").keys()
    assert wanted("gateway", "platform", "simulators", "documents") <= pins("demo").keys()
    assert wanted("gateway", "platform", "simulators", "documents", "dev") <= dev.keys()


def test_the_base_install_is_the_auditors() -> None:
    """No device library, no numpy, no HTTP: neither asked for nor dragged in."""
    heavy = wanted("gateway", "platform", "simulators", "documents") - wanted()
    assert {"numpy", "aiohttp", "asyncua", "pymodbus", "paho-mqtt"} <= heavy
    assert not heavy & pins("base").keys()


def test_every_dependency_has_a_reason() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \| [^|]{10,} \|", (ROOT / "docs" / "dependencies.md").read_text(), re.M)
    assert sorted(rows) == sorted(wanted(*PROJECT["project"]["optional-dependencies"]))


def test_a_wheel_holds_the_rooms_with_their_data_and_nothing_else(copied_rooms: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
                    "--wheel-dir", tmp_path, copied_rooms], check=True, timeout=110, cwd=tmp_path)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    code = {file.relative_to(copied_rooms).as_posix() for room in ROOMS for file in (copied_rooms / room).rglob("*")
            if file.is_file() and file.suffix != ".pyc"}
    assert held == code


# Files that install and start.

def offered(*words: str) -> None:
    """Fail unless the words after the program begin with a command that the table knows."""
    command = next(word for word in words if not word.startswith("-"))
    assert command in COMMANDS, f"{command} is not a command"


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="no linter is packaged for this")
def test_the_image_is_sound() -> None:
    linter = BIN / "hadolint"
    assert linter.exists(), "`make check` installs it"
    done = subprocess.run([linter, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stdout
    text = (ROOT / "Dockerfile").read_text()
    assert text.count("FROM ") == 2 and re.search(r"^USER [1-9]\d*$", text, re.M) and "HEALTHCHECK" in text
    check = re.search(r'HEALTHCHECK .*CMD \["tallystick", (.*)\]', text)
    start = re.search(r'^CMD \[(.*)\]', text, re.M)
    assert check and start
    for words in (check[1], start[1]):
        offered(*re.findall(r'"([^"]+)"', words))


def test_the_image_gets_what_it_copies() -> None:
    """.dockerignore lets only named paths in: every room, and each file that the build reads."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {*ROOMS, "requirements", "pyproject.toml", "README.md", "LICENSE"} == let_in


def test_the_unit_is_sound(tmp_path: Path) -> None:
    need("systemd-analyze")
    text = (ROOT / "deploy" / "tallystick-gateway.service").read_text()
    start = re.search(r"^ExecStart=\S+/tallystick (.*)$", text, re.M)
    assert start
    offered(*start[1].split())
    unit = tmp_path / "tallystick-gateway.service"
    unit.write_text(text.replace(start[0], "ExecStart=/bin/true"))  # systemd insists that the program exists
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # 0 is a program that may do nothing, 100 one that may do all; a unit without these lines has 96.
    done = subprocess.run(["systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", unit],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-500:]


def test_ci_and_make_are_sound() -> None:
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True, timeout=60)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    for target in ("demo", "test", "check", "bench", "lock"):
        done = subprocess.run(["make", "--dry-run", target, "OUT=a b", "SEED=7", "LANG_=zh"], cwd=ROOT, timeout=60,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if target == "demo":
            assert '--out "a b" --seed 7  --lang zh' in done.stdout


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_points_at_exists(page: Path) -> None:
    """Links, and file names between backticks that begin with a room or another folder of the checkout."""
    text = page.read_text(encoding="utf-8")
    folders = "|".join([*ROOMS, "docs", "tests", "deploy", "requirements", "benchmarks"])
    links = [page.parent / link.split("#")[0] for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", text)]
    named = [ROOT / name for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", text)]
    missing = [str(path) for path in links + named if not path.exists()]
    assert not missing


def test_the_readme_names_only_commands_that_are_offered() -> None:
    """What stands in a code block of the README can be typed."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("tallystick ")]
    typed = [line.split()[1] for line in lines]
    assert typed
    assert {word for word in typed if not word.startswith("-")} <= {c for c in COMMANDS if available(c)}
