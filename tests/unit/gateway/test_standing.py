"""The roster in force: what a restart, reloads and a disk that refuses do to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.gateway import GatewayConfig, load_gateway
from gateway import standing as standing_module
from gateway.commissioning import roster as slots
from gateway.commissioning.connect import build_drivers
from gateway.commissioning.state import State
from gateway.counting.registry import Registry
from gateway.standing import Standing
from protocols.errors import ConfigError, Problem
from tests.unit.gateway.commissioning.plants import device, point, write

SPKI = "cd" * 32


class Shows:
    """A driver whose server shows a key."""

    def server_spki_sha256(self) -> str:
        return SPKI


async def at_once(work: Callable[..., Any], *args: Any) -> Any:
    return work(*args)


def ledger(folder: Path, *points: str) -> GatewayConfig:
    return load_gateway(write(folder, [device("a")], points))


def begun(config: GatewayConfig) -> Standing:
    state = State(config.state_dir)
    if not state.roster_file.exists():
        state.create_keys()
    standing = Standing(config, state, at_once)
    standing.registry()
    return standing


async def reloaded(standing: Standing, config: GatewayConfig) -> None:
    await standing.exchange(config, None, lambda: 0, lambda _: 0)  # type: ignore[arg-type]  # no sample comes


def check(standing: Standing, *points: str) -> None:
    """What counts is what is remembered, and the registry is made of it and of nothing older."""
    assert [f"{p.address} {p.row['role']} {p.row['state']}" for p in standing.roster.points] == list(points)
    assert slots.load(State(standing.config.state_dir).roster_file) == standing.roster
    registry = standing.registry()
    fresh = Registry.of(standing.roster.device_rows(), standing.roster.point_rows(), registry.ledger)
    assert registry.roots == fresh.roots
    for name in ("owner", "role", "device_alive", "point_alive"):
        assert getattr(registry, name).tolist() == getattr(fresh, name).tolist()


FIRST, SECOND = "1/holding/0/uint16 parameter", "1/holding/1/uint16 parameter"


def test_points_that_changed_while_the_gateway_was_down_are_placed_at_its_start(tmp_path: Path) -> None:
    check(begun(ledger(tmp_path, point("a", 0))), f"{FIRST} alive")
    check(begun(ledger(tmp_path, point("a", 1))), f"{FIRST} gone", f"{SECOND} alive")
    check(begun(ledger(tmp_path, point("a", 1, role="switch"))), f"{FIRST} gone", f"{SECOND} gone",
          "1/holding/1/uint16 switch alive")


async def test_changes_one_after_the_other_each_stand_on_the_one_before(tmp_path: Path) -> None:
    standing = begun(ledger(tmp_path, point("a", 0)))
    blind = standing.roster.devices[0].private["blind"]
    await standing.learn({"a": {"serial": "SN-1"}}, lambda _: 0)
    check(standing, f"{FIRST} alive")
    await reloaded(standing, ledger(tmp_path, point("a", 0), point("a", 1)))
    check(standing, f"{FIRST} alive", f"{SECOND} alive")
    await standing.follow_server_keys({"line": Shows()}, lambda _: 0)  # type: ignore[dict-item]  # no more is asked
    check(standing, f"{FIRST} alive", f"{SECOND} alive")
    await reloaded(standing, ledger(tmp_path, point("a", 1)))
    check(standing, f"{FIRST} gone", f"{SECOND} alive")
    held = standing.roster.devices[0]
    assert (held.private["serial"], held.learnt, held.private["blind"]) == ("SN-1", ["serial"], blind)
    assert held.row["server"]["spki_sha256"] == SPKI and held.row["id_basis"] == "read"


async def test_a_reload_that_is_refused_or_not_written_leaves_no_trace(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing = begun(ledger(tmp_path, point("a", 0)))
    config, roster = standing.config, standing.roster
    wanted = ledger(tmp_path, point("a", 1))

    def refused(*_args: Any, **_more: Any) -> Any:
        raise ConfigError(Problem.of("gateway.toml", "config.too_many_bits", devices=1, points=1, limit=1))

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(standing_module, "build_drivers", refused)
    with pytest.raises(ConfigError):
        await reloaded(standing, wanted)
    monkeypatch.setattr(standing_module, "build_drivers", build_drivers)
    save = slots.save
    monkeypatch.setattr(slots, "save", full)
    with pytest.raises(OSError, match="No space"):
        await reloaded(standing, wanted)
    await standing.learn({"a": {"serial": "SN-1"}}, lambda _: 0)
    assert standing.config is config and standing.roster is roster
    monkeypatch.setattr(slots, "save", save)
    check(standing, f"{FIRST} alive")
    await standing.learn({"a": {"serial": "SN-1"}}, lambda _: 0)
    await reloaded(standing, wanted)
    check(standing, f"{FIRST} gone", f"{SECOND} alive")
    assert standing.roster.devices[0].learnt == ["serial"]
