"""Two histories, and a checker who holds a piece of the other one. Cases of `tamperings`, with files of --also."""

from __future__ import annotations

import json

from protocols.evidence import equivocation
from verifier.conformance.tamperings import CASES, Exhibit, case, opened
from verifier.conformance.world import OTHER_USCC, START_S, USCC, Gateway, World, two_devices
from verifier.proof.also import Also

__all__ = ["CASES", "Exhibit"]


def plant(name: str = "gateway", *, uscc: str = USCC) -> Gateway:
    """A gateway with three windows in a register of its own, all of it co-signed."""
    world = World()
    gateway = world.gateway(name, uscc=uscc)
    world.round(time_s=START_S - 10)
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    for _ in range(3):
        gateway.window()
    world.round(time_s=gateway.now_s + 10)
    return gateway


def proven(a: bytes, b: bytes) -> Also:
    """The file that shows both."""
    return Also(equivocations=(("equivocation.json", json.loads(equivocation.encode(a.decode(), b.decode()))),))


@case(3, "register.equivocation")
def a_register_that_showed_another_history_of_the_same_size() -> Exhibit:
    one, two = plant(), plant("other", uscc=OTHER_USCC)
    return Exhibit(one.members(), one.world.policy(), also=proven(one.world.rounds[-1][1], two.world.rounds[-1][1]))


@case(3, "register.equivocation")
def a_register_that_showed_another_entry_at_one_place() -> Exhibit:
    """Two sizes, and a proof of one index under each: neither size is in the other register."""
    one, two = plant(), plant("other", uscc=OTHER_USCC)
    two.window()
    two.world.round(time_s=two.now_s + 10)
    two.world.round(time_s=two.now_s + 20)
    size, checkpoint = two.world.rounds[-1]
    return Exhibit(one.members(), one.world.policy(),
                   also=proven(one.world.proof(0), two.world.proof(0, size=size, checkpoint=checkpoint)))


@case(3, "register.equivocation")
def a_register_whose_checkpoint_somebody_kept() -> Exhibit:
    one, two = plant(), plant("other", uscc=OTHER_USCC)
    return Exhibit(one.members(), one.world.policy(), also=Also(heads=(("kept", two.world.rounds[-1][1]),)))


def branches(*, own: int, other: int) -> tuple[Gateway, Gateway]:
    """One key, two histories behind one co-signed state; no register knows the rest of either."""
    first, second = plant(), plant()
    for gateway, producing, windows in ((first, [0], own), (second, [1], other)):
        for _ in range(windows):
            gateway.window(producing=producing)
    return first, second


@case(5, "log.equivocation")
def a_gateway_that_signed_two_states_of_one_size() -> Exhibit:
    first, second = branches(own=2, other=2)
    return Exhibit(first.members(), first.world.policy(), also=proven(first.checkpoint(), second.checkpoint()))


@case(5, "log.equivocation")
def a_gateway_whose_other_state_somebody_kept() -> Exhibit:
    first, second = branches(own=3, other=1)
    return Exhibit(first.members(), first.world.policy(), also=Also(heads=(("kept", second.checkpoint()),)))


@case(5, "head.differs")
def a_head_that_somebody_kept_is_of_another_branch() -> Exhibit:
    """The register lists heads of both branches and the bundle leaves the foreign one out: heads are no links."""
    world, gateway = opened()
    gateway.window()
    _, twin = opened()
    twin.window(producing=[1])
    foreign = world.add({"type": "head", "gateway": gateway.id, "size": 4, "root": twin.tree.root(4).hex()})
    world.round(time_s=gateway.now_s + 10)
    members = {name: data for name, data in gateway.members().items() if name != f"register/{foreign}.proof"}
    return Exhibit(members, world.policy(), also=Also(heads=(("kept", world.proof(foreign)),)))
