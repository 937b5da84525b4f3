"""Findings of a visit that no assessor signed so. Cases of `tamperings`, with a file of --also.

What is changed is signed anew by the assessor's key, so that only what a case is about is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from protocols.evidence import sample, signed
from verifier.conformance import visits
from verifier.conformance.tamperings import CASES, Exhibit, case
from verifier.conformance.visits import ASSESSOR
from verifier.conformance.world import key_of, public, small
from verifier.proof.also import Also

__all__ = ["CASES", "redrawn", "resigned", "visited"]
Found = dict[str, Any]


def _sign(kind: str, value: Mapping[str, Any], who: str) -> Found:
    return signed.sign(kind, {n: v for n, v in value.items() if n not in ("key", "sig")}, key_of(who))


def resigned(file: Found, who: str = ASSESSOR) -> Found:
    """Sign draw, answers and finding as they are now; the finding names exactly these answers."""
    file["draw"] = _sign("draw", file["draw"], who)
    file["answers"] = [_sign("answer", answer, who) for answer in file["answers"]]
    file["finding"] = _sign("finding", file["finding"] | {
        "answers": len(file["answers"]), "answers_sha256": sample.answers_sha256(file["answers"])}, who)
    return file


def redrawn(file: Found) -> Found:
    """Name the draw as it is now in every answer and in the finding, then sign."""
    digest = sample.draw_sha256(file["draw"])
    for value in (*file["answers"], file["finding"]):
        value["draw_sha256"] = digest
    return resigned(file)


def reordered(file: Found) -> Found:
    """Give draw and answers the seed and the order that follow from what the draw names now."""
    draw = file["draw"]
    seed = sample.seed(draw["cosignature"], draw["gateways"])
    draw["seed"] = seed.hex()
    for rows in (draw["devices"], file["answers"]):
        rows.sort(key=lambda row: sample.rank(seed, row["gateway"], row["slot"]))
    return redrawn(file)


def visited(change: Callable[[Found], Found]) -> Exhibit:
    """Two devices, both visited, one of them no match; then the file is changed."""
    world, gateway = small()
    announced_s = visits.seal_behind(gateway)
    trust = {"assessors": [public(ASSESSOR).hex()]}
    drawn = visits.honest_draw([gateway.members()], world.policy_json(**trust), announced_s)
    file = change(visits.findings(drawn, {1: "mismatch"}))
    return Exhibit(gateway.members(), world.policy(**trust), also=Also(findings=(("findings.json", file),)))


@case(10, "finding.answers")
def an_answer_left_out() -> Exhibit:
    return visited(lambda file: file | {"answers": file["answers"][:1]})


@case(10, "finding.not_drawn")
def an_answer_for_a_device_that_was_not_drawn() -> Exhibit:
    def other(file: Found) -> Found:
        file["answers"][1]["slot"] = 7
        return resigned(file)
    return visited(other)


@case(10, "finding.other_draw")
def an_answer_of_another_visit() -> Exhibit:
    def other(file: Found) -> Found:
        file["answers"][0]["draw_sha256"] = "cd" * 32
        return resigned(file)
    return visited(other)


@case(10, "finding.other_draw")
def a_closing_of_another_visit() -> Exhibit:
    def other(file: Found) -> Found:
        file["finding"]["draw_sha256"] = "cd" * 32
        return resigned(file)
    return visited(other)


@case(10, "finding.order")
def two_answers_for_one_device() -> Exhibit:
    return visited(lambda file: resigned(file | {"answers": [file["answers"][0], *file["answers"]]}))


@case(10, "finding.time")
def an_answer_from_before_the_draw() -> Exhibit:
    def early(file: Found) -> Found:
        file["answers"][0]["at_s"] = file["draw"]["cosignature"]["time_s"] - 1
        return resigned(file)
    return visited(early)


@case(10, "finding.time")
def an_answer_from_behind_the_closing() -> Exhibit:
    def late(file: Found) -> Found:
        file["finding"]["closed_s"] = file["answers"][1]["at_s"] - 1
        return resigned(file)
    return visited(late)


@case(10, "finding.roster")
def a_visit_to_the_devices_of_another_roster() -> Exhibit:
    def other(file: Found) -> Found:
        file["draw"]["gateways"][0]["devices_root"] = "12" * 32
        return reordered(file)
    return visited(other)


@case(10, "seen.bad_signature")
def a_sample_by_a_co_signature_that_nobody_made() -> Exhibit:
    def other(file: Found) -> Found:
        file["draw"]["cosignature"]["time_s"] += 1
        return reordered(file)
    return visited(other)


@case(10, "draw.seed")
def a_sample_by_a_seed_of_ones_own() -> Exhibit:
    def other(file: Found) -> Found:
        file["draw"]["seed"] = "ee" * 32
        return redrawn(file)
    return visited(other)


@case(10, "draw.order")
def a_sample_in_an_order_of_ones_own() -> Exhibit:
    def other(file: Found) -> Found:
        file["draw"]["devices"].reverse()
        return redrawn(file)
    return visited(other)


@case(10, "draw.strata")
def a_sample_that_is_smaller_than_it_says() -> Exhibit:
    def other(file: Found) -> Found:
        file["draw"]["strata"][0] |= {"population": 3, "drawn": 3}
        return redrawn(file)
    return visited(other)


@case(10, "draw.gateways")
def a_sample_with_a_device_of_a_gateway_that_it_does_not_name() -> Exhibit:
    def other(file: Found) -> Found:
        file["draw"]["devices"][0]["gateway"] = "ab" * 16
        return redrawn(file)
    return visited(other)


@case(10, "signed.wrong_signer")
def an_answer_of_a_friend() -> Exhibit:
    def friend(file: Found) -> Found:
        file["answers"][1] = _sign("answer", file["answers"][1] | {"result": "match"}, "friend")
        return file
    return visited(friend)


@case(10, "signed.bad_signature")
def a_mismatch_made_a_match() -> Exhibit:
    def better(file: Found) -> Found:
        file["answers"][1]["result"] = "match"
        return file
    return visited(better)


@case(10, "shape.unknown_field")
def findings_with_a_place_to_hide_something() -> Exhibit:
    return visited(lambda file: file | {"extra": 1})
