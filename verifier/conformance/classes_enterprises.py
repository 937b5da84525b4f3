"""Class 39: one machine in the rosters of two enterprises. Each bundle is valid alone; shown together it is a dispute.

No fault: a machine may have been sold, or a maker may have given one key to many. It counts once, for the gateway that
enrolled first, and the group is told; the rival's device counts only if whoever counts accepts an explanation.
"""

# ruff: noqa: D103 - the name of a mode says what the cheat does
from __future__ import annotations

import random
from typing import Any

from protocols.evidence.bundle import open_bundle
from protocols.terms.basis import Basis
from protocols.terms.uscc import check_character
from protocols.terms.vocabulary import ROLES, THINGS
from verifier.audit.duplicates import group_findings, groups
from verifier.conformance.classes import Instance, alive, kind, mode
from verifier.conformance.draw import Draw
from verifier.conformance.world import Gateway, device_row, point_row, private_part, zipped
from verifier.proof.figures import figures
from verifier.proof.verify import Verdict, verify

RIVAL_USCC = "91320000MA1XYRAB5" + check_character("91320000MA1XYRAB5")
EVERYTHING = Basis(key="everything", version="1", things=frozenset(THINGS), roles=frozenset(ROLES),
                   owner_required=False)
TWO = "duplicates.two_enterprises"
kind(39, TWO)


class _Silent:
    """Says nothing: only the code of a finding is looked at."""

    lang = "en"

    def __call__(self, code: str, /, **args: object) -> str:
        return code

    def english(self, code: str, /, **args: object) -> str:
        return code

    def explain(self, code: str, /) -> dict[str, str] | None:
        return None

    def speaking(self, lang: str) -> _Silent:
        return self


class _Rivals:
    """An honest gateway, and one that a second enterprise enrolled later in the same register."""

    def __init__(self, rng: random.Random) -> None:
        while True:  # windows inside their brackets: else nothing counts, and that shows nothing
            self.draw: Draw = alive(rng, mode="witnessed", skew=False, servers=False)
            if self.draw.world.time_s <= self.draw.gateway.now_s:
                break
        self.honest, world = self.draw.gateway, self.draw.world
        self.draw.is_offline = False
        self.rival: Gateway = world.gateway(f"rival {rng.getrandbits(64)}", k=rng.randbytes(32), uscc=RIVAL_USCC)
        self.rival.now_s, self.rival.len_s = self.honest.now_s, self.honest.len_s
        world.round(time_s=world.time_s + 1)
        self.rival.begin()
        self.private = private_part(f"{rng.random()}", maker="M", model="X", serial=f"S-{rng.random()}")
        self.beside = rng.randrange(4)

    def handed_in(self, ours: dict[str, Any], theirs: dict[str, Any], *, opened: bool = False) -> Instance:
        """Put both rows in force, let them produce, and return the rival's bundle, to be shown beside the honest."""
        honest, rival = self.honest, self.rival
        honest.roster([*honest.devices, ours], [
            *honest.points, point_row(len(honest.points), ours["slot"], honest.id, k=honest.k)])
        rows = [device_row(slot, f"own {slot}", k=rival.k) for slot in range(self.beside)]
        rival.roster([*rows, theirs], [point_row(slot, slot, rival.id, k=rival.k) for slot in range(self.beside + 1)])
        self.draw.sealed()
        rival.window()
        self.draw.close()
        self.draw.world.round(time_s=max(self.draw.world.time_s + 1, rival.now_s + 5))
        members = honest.members(), rival.members()
        if opened:
            members[0][f"openings/{ours['slot']}.json"] = honest.opening(ours["slot"], self.private)
            members[1][f"openings/{theirs['slot']}.json"] = rival.opening(theirs["slot"], self.private)
        policy = self.draw.parsed_policy()

        def look(verdict: Verdict) -> str | None:
            known = verify(open_bundle(zipped(members[0])), policy).evidence
            if known is None or verdict.evidence is None or known.covered is None or verdict.evidence.covered is None:
                return None
            both = [verdict.evidence, known]
            found = figures(both, min(known.covered[1], verdict.evidence.covered[1]), EVERYTHING)
            told = {(d.gateway, d.row.slot): d.reason for d in found.devices}
            once = told[honest.id, ours["slot"]], told[rival.id, theirs["slot"]]
            codes = {f.code for f in group_findings(groups(found, both, None), None, _Silent())}
            return TWO if TWO in codes and once == (None, "duplicate_identity") else None

        return Instance(members=members[1], policy=self.draw.policy, uncounted=look)

    def rows(self, rng: random.Random, *, same: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a row for each of both; `same`: with one private part, under each one's own K."""
        other = self.private if same else private_part(f"{rng.random()}", maker="M", model="Y",
                                                       serial=f"{rng.random()}")
        return (device_row(len(self.honest.devices), private=self.private, k=self.honest.k),
                device_row(self.beside, private=other, k=self.rival.k, uscc=self.rival.uscc))


@mode(39)
def one_server_key_in_two_enterprises(rng: random.Random) -> Instance:
    pair = _Rivals(rng)
    spki = rng.randbytes(32).hex()
    key = {"dup_tags": [{"scheme": "spki-sha256", "tag": spki}], "server": {"spki_sha256": spki, "via": None}}
    ours, theirs = pair.rows(rng)
    return pair.handed_in(ours | key, theirs | key)


@mode(39)
def a_tag_copied_from_another_enterprise(rng: random.Random) -> Instance:
    pair = _Rivals(rng)
    ours, theirs = pair.rows(rng)
    return pair.handed_in(ours, theirs | {"tags": ours["tags"]})


@mode(39)
def one_machine_opened_by_two_enterprises(rng: random.Random) -> Instance:
    pair = _Rivals(rng)
    ours, theirs = pair.rows(rng, same=True)
    return pair.handed_in(ours, theirs, opened=True)
