"""Class 42: answers of a sample that are missing, changed, for other devices, or of a sample that was chosen: step 10.

The assessor is honest, unless the way says otherwise; the claimant carries his file and puts his own in its place.
"""

# ruff: noqa: D103 - the name of a mode says what the cheat does
from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping
from typing import Any

from protocols.evidence import jcs, sample, signed
from verifier.conformance import visits
from verifier.conformance.classes import Instance, Uncounted, alive, kind, mode
from verifier.conformance.draw import Draw
from verifier.conformance.visits import ASSESSOR, PATIENT
from verifier.conformance.world import device_row, key_of, point_row, private_part, public
from verifier.proof.announced import REGISTERED
from verifier.proof.verify import Verdict

kind(42, "finding.", "draw.", "signed.bad_signature", "signed.wrong_signer", "seen.")


class _Site:
    """A plant whose newest devices count, closed behind the announced instant; `more` devices came after the draw."""

    def __init__(self, rng: random.Random) -> None:
        while True:
            self.draw: Draw = alive(rng, mode="witnessed", skew=False, servers=False)
            if self.draw.world.independent:
                break
        gateway, world = self.draw.gateway, self.draw.world
        self.draw.is_offline = False
        if gateway.now_s < world.time_s + 120:  # a window that ends long before its `seen` would not count
            gateway.outage(-(-(world.time_s + 120) // 3600) * 3600, "off")
        self._grow(rng, rng.randint(3, 6))
        gateway.window()
        at_s = gateway.now_s
        world.round(time_s=at_s + rng.randrange(1, 60))
        announced_s = world.time_s + rng.randrange(30, 40)  # each witness has co-signed by then
        for _ in range(rng.randint(2, 4)):
            world.round(time_s=max(world.time_s, announced_s) + rng.randrange(1, 30))
            gateway.window()
        world.round(time_s=max(world.time_s + 1, gateway.now_s + 5))
        self.policy = json.dumps(json.loads(self.draw.policy_json()) | {
            "assessors": [public(ASSESSOR).hex()]}).encode()
        self.members = gateway.members()
        self.drawn = self.draw_of(announced_s=announced_s, at_s=at_s, rng=rng)
        self.places = range(len(self.drawn["devices"]))

    def _grow(self, rng: random.Random, number: int) -> None:
        gateway = self.draw.gateway
        first, point = len(gateway.devices), len(gateway.points)
        rows = []
        for i in range(number):
            private = private_part(f"{rng.random()}", maker="M", model="X", serial=f"S-{rng.random()}")
            self.draw.privates[first + i] = private
            rows.append(device_row(first + i, private=private))
        gateway.roster([*gateway.devices, *rows], [
            *gateway.points, *(point_row(point + i, first + i, gateway.id) for i in range(number))])

    def draw_of(self, *, announced_s: int, at_s: int, rng: random.Random) -> dict[str, Any]:
        """Draw two devices at least, sometimes all."""
        whole = visits.honest_draw([self.members], self.policy, announced_s, at_s=at_s, basis=PATIENT,
                                   at_least_permille=1000)
        if rng.random() < 0.5:
            return whole
        return visits.honest_draw([self.members], self.policy, announced_s, at_s=at_s, basis=PATIENT,
                                  size=rng.randint(2, len(whole["devices"])))

    def failed(self, rng: random.Random, *, unsure: bool = True) -> dict[int, str | None]:
        """Return what the assessor met: at least one device that is no match."""
        wrong = rng.sample(list(self.places), rng.randint(1, len(self.places)))
        return {place: rng.choice(["mismatch", "unverified"] if unsure else ["mismatch"]) for place in wrong}

    def handed_in(self, file: Mapping[str, Any], uncounted: Uncounted | None = None) -> Instance:
        """Return the bundle with a file of findings."""
        return Instance(members=self.members, policy=self.policy, also={"findings.json": jcs.encode(dict(file))},
                        uncounted=uncounted)


def _nothing_gained(verdict: Verdict) -> str | None:
    """Return the remark that says so if neither a visit nor a bound came out of the file."""
    if any(visit.lower_bound is not None for visit in verdict.summary.visits):
        return None
    return next((f.code for f in verdict.findings if f.code.startswith("finding.")), None)


def _not_announced(verdict: Verdict) -> str | None:
    """Return the remark that says so if no draw passed as announced in the register."""
    if any(visit.announced.state == REGISTERED for visit in verdict.summary.visits):
        return None
    return next((f.code for f in verdict.findings if f.code.startswith("finding.announced_")), None)


@mode(42)
def answers_that_are_no_match_left_out(rng: random.Random) -> Instance:
    site = _Site(rng)
    file = visits.findings(site.drawn, site.failed(rng))
    file["answers"] = [a for a in file["answers"] if a["result"] == "match"]
    if rng.random() < 0.5:
        file["finding"] |= {"answers": len(file["answers"]), "answers_sha256": sample.answers_sha256(file["answers"])}
    return site.handed_in(file)


@mode(42)
def a_result_changed(rng: random.Random) -> Instance:
    site = _Site(rng)
    failed = site.failed(rng)
    file = visits.findings(site.drawn, failed)
    file["answers"][rng.choice(sorted(failed))] |= {"result": "match", "note": f"{rng.randrange(10**6)}"}
    return site.handed_in(file)


@mode(42)
def an_answer_for_another_device(rng: random.Random) -> Instance:
    """The machine next to it was shown: the answer names that one, or was moved to the drawn one."""
    site = _Site(rng)
    made = visits.visit(site.drawn)
    device = rng.choice(list(made.devices))
    other = (device[0], max(slot for _, slot in made.devices) + rng.randint(1, 99))
    if rng.random() < 0.5:  # as the assessor signs it
        file = visits.findings(site.drawn)
        place = made.devices[device]
        made.answer(other, "match", at_s=file["answers"][place]["at_s"])
        file["answers"][place] = dict(made.answers[other])
    else:
        file = visits.findings(site.drawn, {made.devices[device]: None})
        made.answer(other, "match", at_s=file["finding"]["closed_s"])
        file["answers"].insert(made.devices[device], dict(made.answers[other]) | {"slot": device[1]})
    return site.handed_in(file)


@mode(42)
def an_answer_of_another_draw(rng: random.Random) -> Instance:
    """A true match of this assessor, for the same device, of another visit."""
    site = _Site(rng)
    failed = site.failed(rng)
    file = visits.findings(site.drawn, failed)
    other = visits.findings(site.drawn | {"confidence_permille": rng.randint(1, 949)})
    for place in failed:
        file["answers"][place] = other["answers"][place]
    return site.handed_in(file)


@mode(42)
def an_answer_that_a_friend_signed(rng: random.Random) -> Instance:
    site = _Site(rng)
    failed = site.failed(rng)
    file = visits.findings(site.drawn, failed)
    friend = visits.visit(site.drawn, assessor=f"friend {rng.random()}").in_order
    for place in failed:
        file["answers"][place] = dict(friend[place])
        if rng.random() < 0.5:
            file["answers"][place]["key"] = public(ASSESSOR).hex()
    return site.handed_in(file)


@mode(42)
def a_device_exchanged_in_the_draw(rng: random.Random) -> Instance:
    """The draw names a device that is there; answers and signatures are those of a friend, or of the assessor."""
    site = _Site(rng)
    drawn = copy.deepcopy(site.drawn)
    place = rng.choice(list(site.places))
    drawn["devices"][place]["slot"] = max(d["slot"] for d in drawn["devices"]) + rng.randint(1, 9)
    if rng.random() < 0.5:
        drawn["seed"] = rng.randbytes(32).hex()
    file = visits.findings(drawn)
    ranks = [sample.rank(bytes.fromhex(drawn["seed"]), d["gateway"], d["slot"]) for d in drawn["devices"]]
    if drawn["seed"] == site.drawn["seed"] and ranks == sorted(ranks):  # it happens to stand in its order
        file["draw"] = signed.sign("draw", site.drawn, key_of(ASSESSOR))
    return site.handed_in(file)


@mode(42)
def a_visit_to_devices_of_another_roster(rng: random.Random) -> Instance:
    site = _Site(rng)
    drawn = copy.deepcopy(site.drawn)
    if rng.random() < 0.5:
        drawn["gateways"][0]["devices_root"] = rng.randbytes(32).hex()
    else:  # an entry that is no roster, or none with these devices
        others = [seq for seq in range(len(site.draw.gateway.entries)) if seq != drawn["gateways"][0]["roster"]
                  and (json.loads(site.draw.gateway.entries[seq]).get("devices_root")
                       != drawn["gateways"][0]["devices_root"])]
        shipped = [seq for seq in others if json.loads(site.draw.gateway.entries[seq])["type"] != "window"]
        drawn["gateways"][0]["roster"] = rng.choice(shipped)
    return site.handed_in(visits.findings(_in_order(drawn)))


def _in_order(drawn: dict[str, Any]) -> dict[str, Any]:
    """Return a draw that agrees with itself again."""
    seed = sample.seed(drawn["cosignature"], drawn["gateways"])
    drawn["seed"] = seed.hex()
    drawn["devices"].sort(key=lambda d: (d["stratum"], sample.rank(seed, d["gateway"], d["slot"])))
    return drawn


@mode(42)
def a_co_signature_that_no_witness_made(rng: random.Random) -> Instance:
    site = _Site(rng)
    drawn = copy.deepcopy(site.drawn)
    drawn["cosignature"]["time_s"] += rng.randint(1, 20)
    return site.handed_in(visits.findings(_in_order(drawn)))


@mode(42)
def a_later_co_signature_chosen(rng: random.Random) -> Instance:
    """Several were had after the announced instant; the one that draws the machines that are there was taken."""
    site = _Site(rng)
    drawn = copy.deepcopy(site.drawn)
    later = site.draw.world.seen()
    assert later is not None
    drawn["cosignature"] = later
    return site.handed_in(visits.findings(_in_order(drawn)), _nothing_gained)


@mode(42)
def an_instant_announced_when_the_draw_was_known(rng: random.Random) -> Instance:
    site = _Site(rng)
    drawn = copy.deepcopy(site.drawn)
    drawn["announced_s"] = drawn["cosignature"]["time_s"] + rng.choice([0, rng.randrange(10**6)])
    return site.handed_in(visits.findings(drawn), _nothing_gained)


@mode(42)
def a_roster_made_after_the_announcement(rng: random.Random) -> Instance:
    site = _Site(rng)
    drawn = copy.deepcopy(site.drawn)
    drawn["announced_s"] = drawn["at_s"] - rng.randint(10**7, 10**8)
    return site.handed_in(visits.findings(drawn), _nothing_gained)


@mode(42)
def a_visit_of_a_friend(rng: random.Random) -> Instance:
    site = _Site(rng)
    return site.handed_in(visits.findings(site.drawn, assessor=f"friend {rng.random()}"), _nothing_gained)


@mode(42)
def a_visit_taken_away_before_it_was_closed(rng: random.Random) -> Instance:
    site = _Site(rng)
    failed: dict[int, str | None] = dict.fromkeys(site.failed(rng))
    return site.handed_in(visits.as_object(visits.visit(site.drawn, failed)), _nothing_gained)


@mode(42)
def an_announcement_that_entered_the_register_when_the_draw_was_known(rng: random.Random) -> Instance:
    """An auditor who is a friend signs it, the claimant's register takes it: it must not pass as announced."""
    site = _Site(rng)
    world, gateway = site.draw.world, site.draw.gateway
    visits.announce(gateway, site.drawn["announced_s"])
    world.round(time_s=world.time_s + rng.randint(1, 600))
    site.members = gateway.members()
    return site.handed_in(visits.findings(site.drawn), _not_announced)
