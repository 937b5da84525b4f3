"""docs/opcua.md: its examples load, its codes exist, and its table of profiles is what the program has."""

from __future__ import annotations

import re
from pathlib import Path

from config.gateway import load_gateway
from protocols.opcua.profiles import PROFILES
from tallystick.words.lookup import Words

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "opcua.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "config" / "examples"


def test_every_code_of_the_page_exists() -> None:
    codes = set(re.findall(r"`(opcua\.[a-z_]+)`", PAGE))
    assert len(codes) > 8
    assert codes <= set(Words("en").codes())


def test_the_table_of_profiles_is_complete() -> None:
    table = PAGE.split("| `profile` |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z0-9_]+)` \|", table, re.MULTILINE)) == set(PROFILES)
    for name, profile in PROFILES.items():
        line = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
        assert str(profile.batch) in line
        if profile.items_max is not None:
            assert str(profile.items_max) in line.replace(" ", "")


def test_the_example_loads(tmp_path: Path) -> None:
    examples = [text for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "[[connections]]" in text]
    assert examples
    head = re.search(r"^\[gateway\]\n.*?\n\n", (EXAMPLE / "gateway.toml").read_text(encoding="utf-8"),
                     re.MULTILINE | re.DOTALL)
    assert head is not None
    (tmp_path / "gateway.toml").write_text(head[0] + "\n".join(examples), encoding="utf-8")
    (tmp_path / "line1.password").touch()
    for name in ("devices.csv", "points.csv"):
        first = (EXAMPLE / name).read_text(encoding="utf-8").splitlines()[0]
        (tmp_path / name).write_text(first + "\n", encoding="utf-8")
    assert set(load_gateway(tmp_path / "gateway.toml").endpoints) == {"line1", "old_press"}
