"""A draw: the same for both sides, in the order of its seed, from what was fixed before, and refused with a cause."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import ConfigError, VerificationError
from protocols.evidence import jcs, sample
from protocols.terms.basis import Basis
from verifier.conformance import visits
from verifier.conformance.world import Gateway, World, device_row, point_row, private_part, public
from verifier.sampling.draw import Order, _shares, _sizes, bounds, file_bytes, promise

POLICY = {"assessors": [public("assessor").hex()]}


class Plant:
    """`number` devices that count, of two classes; co-signed, then two rounds behind the announced instant."""

    def __init__(self, number: int = 12, *, name: str = "gateway", world: World | None = None) -> None:
        self.world = world or World()
        self.gateway: Gateway = self.world.gateway(name)
        self.world.round(time_s=max(self.world.time_s + 1, self.gateway.now_s - 10))
        self.gateway.begin()
        rows = [device_row(n, private=private_part(f"{name} {n}", maker="M", model="X", serial=f"{name} {n}"))
                | {"class": "robot" if n % 3 == 0 else "metal_cutting_machine_tool"} for n in range(number)]
        self.gateway.roster(rows, [point_row(n, n, self.gateway.id, protocol="opc_ua" if n % 2 else "modbus_tcp")
                                   for n in range(number)])
        self.gateway.window()
        self.announced_s = visits.seal_behind(self.gateway)

    def draw(self, announced_s: int | None = None, **wanted: Any) -> dict[str, Any]:
        return visits.honest_draw([self.gateway.members()], self.world.policy_json(**POLICY),
                                  self.announced_s if announced_s is None else announced_s, **wanted)


@pytest.fixture(scope="module")
def plant() -> Plant:
    return Plant()


def code(error: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return [problem.code for problem in error.value.problems]


def test_the_seed_and_the_order_are_what_the_page_says(plant: Plant) -> None:
    drawn = plant.draw(size=5)
    fixed = jcs.encode({"cosignature": drawn["cosignature"], "rosters": [
        {"gateway": plant.gateway.id, "devices_root": drawn["gateways"][0]["devices_root"]}]})
    seed = hashlib.sha256(b"sample/v1\0" + fixed).digest()
    assert drawn["seed"] == seed.hex()
    ranked = sorted(range(12), key=lambda slot: hmac.new(
        seed, bytes.fromhex(plant.gateway.id) + slot.to_bytes(4, "big"), hashlib.sha256).digest())
    assert [d["slot"] for d in drawn["devices"]] == ranked[:5]
    assert plant.announced_s < drawn["cosignature"]["time_s"]
    sample.check_draw(drawn, where="draw")


def test_the_same_bundle_gives_the_same_bytes_and_size_or_instant_change_no_order(plant: Plant) -> None:
    first = plant.draw(size=5)
    assert file_bytes(first) == file_bytes(plant.draw(size=5))
    assert sample.parse_draw(file_bytes(first), where="f") == first
    more = plant.draw(plant.announced_s + 3, size=9)
    assert more["seed"] == first["seed"] and more["devices"][:5] == first["devices"]


def test_heads_that_are_left_out_change_nothing(plant: Plant) -> None:
    """The co-signature is that of a window: it cannot be left out, a proof of the register can."""
    members = plant.gateway.members()
    heads = sorted(int(n.split("/")[1].split(".")[0]) for n in members if n.startswith("register/"))
    first = plant.draw(size=5)
    thin = {n: d for n, d in members.items() if n != f"register/{heads[-2]}.proof"}
    assert len(thin) < len(members)
    assert visits.honest_draw([thin], plant.world.policy_json(**POLICY), plant.announced_s, size=5) == first


def test_a_co_signature_draws_another_sample(plant: Plant) -> None:
    seen = plant.draw(size=12)["cosignature"]["time_s"]
    later = plant.draw(seen, size=12)
    assert later["cosignature"]["time_s"] > seen
    assert later["devices"] != plant.draw(size=12)["devices"]


def test_strata_are_drawn_by_themselves(plant: Plant) -> None:
    by_class = plant.draw(size=6, strata_by="class", label=lambda device: str(device.row.equipment_class))
    assert by_class["strata"] == [{"name": "metal_cutting_machine_tool", "population": 8, "drawn": 4},
                                  {"name": "robot", "population": 4, "drawn": 2}]
    assert [d["stratum"] for d in by_class["devices"]] == [0] * 4 + [1] * 2
    assert {d["slot"] % 3 for d in by_class["devices"] if d["stratum"] == 1} == {0}
    whole = plant.draw(size=12)
    ranks = [d["slot"] for d in whole["devices"]]
    robots = [slot for slot in ranks if slot % 3 == 0]
    assert [d["slot"] for d in by_class["devices"] if d["stratum"] == 1] == robots[:2]


def test_the_size_keeps_its_promise() -> None:
    for populations in ([5000], [4000, 1000], [17, 300, 5]):
        wanted = Order(announced_s=0, at_s=0, basis=Basis(key="t", version="1"), basis_sha256="")
        sizes = _sizes(populations, wanted)
        drawn = {"confidence_permille": 950, "strata": [
            {"population": n, "drawn": k} for n, k in zip(populations, sizes, strict=True)]}
        assert promise(drawn) >= -(-sum(populations) * 95 // 100)
        each, bound = bounds(drawn, [0] * len(sizes))
        assert sum(each) == bound == promise(drawn)
    assert _sizes([5000], Order(announced_s=0, at_s=0, basis=Basis(key="t", version="1"), basis_sha256="")) == [58]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=30), st.data())
def test_shares_are_in_proportion(populations: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(len(populations), sum(populations)))
    sizes = _shares(populations, size)
    assert sum(sizes) == size and all(1 <= k <= n for k, n in zip(sizes, populations, strict=True))
    if min(n * size // sum(populations) for n in populations) >= 1:
        assert all(abs(k - n * size / sum(populations)) < 1 for k, n in zip(sizes, populations, strict=True))


def test_late_windows_let_nobody_in() -> None:
    """A device that wakes up once the seed is known is not drawn from."""
    plant = Plant()
    gateway, world = plant.gateway, plant.world
    gateway.outage(gateway.now_s + 2 * 86_400, "off")
    gateway.window(producing=range(3))
    world.round(time_s=gateway.now_s + 5)
    announced_s = world.time_s + 1
    at_s = gateway.now_s + 60
    gateway.window(producing=range(9))  # ends at at_s, which is after the announced instant
    world.round(time_s=gateway.now_s + 5)
    gateway.window()
    world.round(time_s=gateway.now_s + 5)
    assert sum(s["population"] for s in plant.draw(announced_s)["strata"]) == 3
    with pytest.raises(ConfigError) as late:
        plant.draw(announced_s, at_s=at_s)
    assert code(late) == ["sampling.at_late"]


# --- refused


def test_no_co_signature_after_the_instant(plant: Plant) -> None:
    with pytest.raises(ConfigError) as error:
        plant.draw(plant.world.time_s + 1000)
    assert code(error) == ["sampling.no_cosignature"]


def test_a_policy_without_an_independent_witness(plant: Plant) -> None:
    with pytest.raises(ConfigError) as error:
        visits.honest_draw([plant.gateway.members()], plant.world.policy_json(independent=[]), plant.announced_s)
    assert code(error) == ["sampling.no_cosignature", "sampling.roster_late"]


def test_a_roster_that_was_sealed_after_the_instant() -> None:
    plant = Plant()
    gateway = plant.gateway
    announced_s = gateway.now_s + 30
    gateway.roster([*gateway.devices[:-1], {**gateway.devices[-1], "state": "gone"}],
                   [*gateway.points[:-1], {**gateway.points[-1], "state": "gone"}])
    gateway.window()
    plant.world.round(time_s=gateway.now_s + 5)
    gateway.window()
    plant.world.round(time_s=gateway.now_s + 5)
    gateway.window()
    plant.world.round(time_s=gateway.now_s + 5)
    with pytest.raises(ConfigError) as error:
        plant.draw(gateway.now_s - 116, at_s=gateway.now_s - 120)
    assert code(error) == ["sampling.roster_late"]
    assert plant.draw(gateway.now_s - 115, at_s=gateway.now_s - 120)["strata"][0]["population"] == 11
    assert plant.draw(announced_s)["gateways"][0]["roster"] == 2, "the roster before it was fixed"


@pytest.mark.parametrize("size", [0, 13])
def test_a_size_that_cannot_be(plant: Plant, size: int) -> None:
    with pytest.raises(ConfigError) as error:
        plant.draw(size=size)
    assert code(error) == ["sampling.bad_size"]


def test_nobody_counts(plant: Plant) -> None:
    with pytest.raises(ConfigError) as error:
        plant.draw(basis=Basis(key="t", version="1", things=frozenset({"terminal"}), owner_required=False))
    assert code(error) == ["sampling.nobody"]


def test_too_many() -> None:
    wanted = Order(announced_s=0, at_s=0, basis=Basis(key="t", version="1"), basis_sha256="", at_least_permille=1000)
    with pytest.raises(ConfigError) as error:
        _sizes([6000], wanted)
    assert code(error) == ["sampling.too_large"]
    with pytest.raises(ConfigError) as error:
        _sizes([1] * 1001, wanted)
    assert code(error) == ["sampling.too_many_strata"]


def test_a_draw_of_another_hand_is_read_with_care(plant: Plant) -> None:
    good = plant.draw(size=5)
    changes: list[dict[str, Any]] = [
        {"seed": "00" * 32}, {"devices": good["devices"][::-1]}, {"strata": []}, {"gateways": []},
        {"devices": [*good["devices"][:4], good["devices"][0]]}]
    for change in changes:
        with pytest.raises(VerificationError):
            sample.parse_draw(jcs.encode({"type": sample.DRAW_TYPE, "draw": good | change}), where="d")
    with pytest.raises(VerificationError) as error:
        sample.parse_draw(jcs.encode({"type": sample.DRAW_TYPE, "draw": good, "more": 1}), where="d")
    assert error.value.problems[0].code == "shape.unknown_field"
