"""Several bundles shown together: k gateways exist and j are shown; one register; and what came or went around T."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocols.evidence import signed
from protocols.evidence.bundle import write_bundle
from tallystick.__main__ import main
from tests.support.schemas import validate
from verifier.conformance.world import OTHER_USCC, START_S, Gateway, World, key_of, public, two_devices

DAY_S = 86_400


def begun(world: World, name: str, *, len_s: int = 60, **certificate: Any) -> Gateway:
    gateway = world.gateway(name, **certificate)
    gateway.len_s = len_s
    gateway.now_s += -gateway.now_s % len_s
    return gateway


def sealed(gateway: Gateway, windows: int = 2, **window: Any) -> None:
    if not gateway.entries:
        gateway.begin()
        gateway.roster(*two_devices(gateway))
    for _ in range(windows):
        gateway.window(**window)


class Files:
    """Bundles of one world in a folder, and `count` over some of them."""

    def __init__(self, folder: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.world, self.capsys = folder, world, capsys
        (folder / "policy.json").write_bytes(world.policy_json())

    def bundle(self, gateway: Gateway) -> str:
        path = self.folder / f"{gateway.name}.tally"
        write_bundle(path, gateway.members())
        return str(path)

    def count(self, *words: str, at: str = "last") -> tuple[int, dict[str, Any]]:
        code = main(["count", *words, "--at", at, "--policy", str(self.folder / "policy.json"), "--json"])
        result = json.loads(self.capsys.readouterr().out)
        validate(result, "count.schema.json")
        return code, result

    def text(self, *words: str, at: str = "last", lang: str = "en") -> str:
        main(["count", *words, "--at", at, "--policy", str(self.folder / "policy.json"), "--lang", lang])
        return self.capsys.readouterr().out


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Files, dict[str, Gateway]]:
    """Four gateways of one enterprise: `next` follows `stolen`, which is revoked. One of another enterprise."""
    world = World()
    found = {name: begun(world, name) for name in ("north", "stolen", "east")}
    found["next"] = begun(world, "next", supersedes=found["stolen"].id)
    found["stranger"] = begun(world, "stranger", uscc=OTHER_USCC)
    world.round(time_s=START_S - 10)
    for gateway in found.values():
        sealed(gateway)
    revocation = signed.sign("revocation", {
        "gateway": found["stolen"].id, "gateway_key": public("stolen").hex(), "from_size": 4},
        key_of("recovery stolen"))
    world.add({"type": "revoke", "revocation": revocation})
    world.round(time_s=START_S + 130)
    return Files(tmp_path, world, capsys), found


def test_k_gateways_exist_and_j_are_shown(files: tuple[Files, dict[str, Gateway]]) -> None:
    run, found = files
    shown = [run.bundle(found[name]) for name in ("north", "next")]
    code, result = run.count(*shown)
    assert code == 0
    (one,) = result["enterprises"]
    assert (one["enrolled"], one["shown"]) == (4, 2)
    assert {g["gateway"]: (g["revoked_from"], g["superseded_by"]) for g in one["others"]} == {
        found["stolen"].id: (4, [found["next"].id]), found["east"].id: (None, [])}
    assert one["predecessors_hidden"] == [found["stolen"].id]
    codes = {f["code"]: f["args"] for f in result["findings"]}
    assert codes["count.gateways_hidden"] == {"enrolled": "4", "shown": "2", "uscc": one["uscc"]}
    assert codes["count.predecessor_hidden"]["gateway"] == found["stolen"].id
    told = run.text(*shown)
    assert "4 gateways exist, 2 shown here" in told
    assert f"{found['stolen'].id} at stolen (superseded by {found['next'].id}; revoked from entry 4 on)" in told
    assert f"continues {found['stolen'].id}, whose evidence is not shown" in told
    assert found["stranger"].id not in told
    assert "共有网关 4 个，此处出示 2 个" in run.text(*shown, lang="zh")


def test_all_shown_is_said_and_nothing_is_missing(files: tuple[Files, dict[str, Gateway]]) -> None:
    run, found = files
    shown = [run.bundle(found[name]) for name in ("north", "stolen", "east", "next")]
    _, result = run.count(*shown, at=str(START_S + 60))
    (one,) = result["enterprises"]
    assert (one["enrolled"], one["shown"], one["others"], one["predecessors_hidden"]) == (4, 4, [], [])
    assert not {"count.gateways_hidden", "count.predecessor_hidden"} & {f["code"] for f in result["findings"]}
    # The revoked log ends where it was revoked: its first window stands and counts.
    told = run.text(*shown, at=str(START_S + 60))
    assert "Revoked from entry 4 on: 1 windows before that stand" in told


def test_two_enterprises_are_kept_apart(files: tuple[Files, dict[str, Gateway]]) -> None:
    run, found = files
    _, result = run.count(run.bundle(found["north"]), run.bundle(found["stranger"]))
    assert sorted((e["enrolled"], e["shown"]) for e in result["enterprises"]) == [(1, 1), (4, 1)]


def test_two_registers_cannot_be_counted_together(files: tuple[Files, dict[str, Gateway]]) -> None:
    """Each bundle is valid alone: only together do they show that the register has two histories."""
    run, found = files
    other = World()
    foreign = begun(other, "foreign", uscc=OTHER_USCC)
    other.round(time_s=START_S - 10)
    sealed(foreign)
    other.round(time_s=START_S + 130)
    first, second = run.bundle(found["north"]), run.bundle(foreign)
    assert run.count(first)[0] == run.count(second)[0] == 0
    code, result = run.count(first, second)
    assert code == 1 and result["figures"] is None
    assert [[f["code"] for f in b["findings"] if f["severity"] == "fault"] for b in result["bundles"]] == [
        [], ["register.equivocation"]]


def test_a_file_about_one_bundle_is_not_unrelated_to_the_others(files: tuple[Files, dict[str, Gateway]]) -> None:
    run, found = files
    head = run.folder / "head"
    head.write_bytes(found["north"].checkpoint(size=4))
    shown = [run.bundle(found[name]) for name in ("north", "east")]
    _, result = run.count(*shown, "--also", str(head))
    assert [[f["code"] for f in b["findings"]] for b in result["bundles"]] == [["also.consistent"], []]
    nobody = run.folder / "nobody"
    nobody.write_bytes(found["next"].checkpoint(size=4))
    _, result = run.count(*shown, "--also", str(nobody))
    assert [[f["code"] for f in b["findings"]] for b in result["bundles"]] == [["also.unrelated"]] * 2


# Devices that came, or went, within a week of T.

def month(world: World, *, days_before: int, days_after: int, device_1_from: int = -99,
          device_1_to: int = 99) -> Gateway:
    """Hourly windows around T = 20 days after the start; device 1 is connected on days [from, to) relative to T."""
    gateway = begun(world, "month", len_s=3600)
    gateway.now_s = at(gateway) - days_before * DAY_S
    world.round(time_s=gateway.now_s - 10)
    for day in range(-days_before, days_after):
        slots = [0, 1] if device_1_from <= day < device_1_to else [0]
        sealed(gateway, 24, connected=slots, sampled=slots)
        world.round(time_s=gateway.now_s + 10)
    return gateway


def at(gateway: Gateway) -> int:
    return START_S - START_S % DAY_S + 20 * DAY_S


@pytest.mark.parametrize("before,after,came,went,new,gone", [
    (15, 15, -99, 99, 0, 0), (15, 15, -3, 99, 1, 0), (15, 15, -7, 99, 1, 0), (15, 15, -8, 99, 0, 0),
    (15, 15, -99, 3, 0, 1), (15, 15, -99, 7, 0, 1), (15, 15, -99, 8, 0, 0), (15, 15, -3, 3, 1, 1),
    (15, 2, -3, 3, 1, None), (15, 7, -99, 99, 0, None), (15, 8, -99, 99, 0, 0), (3, 15, -99, 3, 2, 1),
])
def test_devices_that_came_or_went(tmp_path: Path, capsys: pytest.CaptureFixture[str], before: int, after: int,
                                   came: int, went: int, new: int | None, gone: int | None) -> None:
    world = World(time_s=START_S)
    gateway = month(world, days_before=before, days_after=after, device_1_from=came, device_1_to=went)
    run = Files(tmp_path, world, capsys)
    bundle = run.bundle(gateway)
    _, result = run.count(bundle, at=str(at(gateway)))
    assert result["figures"]["devices"]["counted"] == 2
    told = result["figures"]["presence"]
    assert (told["new"], told["gone"]) == (new, gone)
    assert told["short_after"] == ([gateway.id] if gone is None else [])
    text = run.text(bundle, at=str(at(gateway)))
    assert f"{new} of the counted devices were not connected in the week that ends 7 days before T" in text
    if gone is None:
        assert "gone less than 7 days after T cannot be computed" in text
    else:
        assert f"{gone} of the counted devices are not connected in the week that begins 7 days after T" in text


def test_an_interval_that_begins_too_late_is_not_computable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(time_s=START_S)
    gateway = month(world, days_before=20, days_after=1)
    path = tmp_path / "cut.tally"
    write_bundle(path, gateway.members(first_tile=1))
    run = Files(tmp_path, world, capsys)
    _, result = run.count(str(path), at=str(at(gateway)))
    assert result["figures"]["presence"]["new"] == 0  # 20 days x 24 h: the second tile begins ten days before T
    shorter = begun(World(time_s=START_S), "month", len_s=3600)
    shorter.now_s = at(shorter) - 12 * DAY_S
    shorter.world.round(time_s=shorter.now_s - 10)
    sealed(shorter, 14 * 24)
    shorter.world.round(time_s=shorter.now_s + 10)
    write_bundle(path, shorter.members(first_tile=1))
    _, result = run.count(str(path), at=str(at(shorter) + 2 * DAY_S))
    told = result["figures"]["presence"]
    assert (told["new"], told["short_before"]) == (None, [shorter.id])
    text = run.text(str(path), at=str(at(shorter) + 2 * DAY_S))
    assert "first seen less than 7 days before T cannot be computed" in text
