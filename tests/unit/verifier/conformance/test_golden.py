"""The golden case: what its tables say is true is what the evidence proves, device by device."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from config.classification import load_classification
from config.programme import PROGRAMMES, load_programme
from protocols.evidence.bundle import open_bundle
from protocols.evidence.policy import parse
from protocols.evidence.roster import normalise
from protocols.terms.basis import NOT_COUNTED_REASONS, Basis
from tests.support.golden import BUNDLES, case, folder
from verifier.conformance import golden_plants as plants
from verifier.conformance.golden import T_S
from verifier.conformance.golden_plants import Machine
from verifier.proof.figures import Evidence, Figures, figures
from verifier.proof.verify import verify

NO_REASON_HERE = {"virtual_or_simulated", "after_cutoff", "disconnected_before_cutoff", "evidence_invalid",
                  "claim_withdrawn"}
"""Reasons that no basis gives a device of a roster in force: nobody can see them in rows and columns. What is not in
the roster at T (retired before, added after) is told from the list of claimed devices."""


@cache
def evidence() -> tuple[Evidence, ...]:
    policy = parse((folder() / "policy.json").read_bytes(), where="policy")
    result = []
    for name in BUNDLES:
        verdict = verify(open_bundle(folder() / name), policy)
        assert verdict.valid, verdict.findings
        assert verdict.evidence is not None
        result.append(verdict.evidence)
    return tuple(result)


@cache
def counted(programme: str) -> Figures:
    return figures(evidence(), T_S, load_programme(programme).basis)


def machines() -> dict[tuple[str, int], Machine]:
    return {(site.gateway.id, slot): machine for site in case().sites for slot, machine in enumerate(site.machines)}


def running(counts: Sequence[Machine]) -> list[Machine]:
    return [m for m in counts if m.why is None]


def test_1012_are_claimed_and_987_proven() -> None:
    rows = list(csv.DictReader((folder() / "devices.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert len(rows) == plants.CLAIMED == 1012
    assert len({row["设备ID"] for row in rows}) == 1012
    assert counted("jiangxi_2024").counted == plants.PROVEN == 987
    truth = json.loads((folder() / "truth.json").read_text(encoding="utf-8"))
    assert len(truth["differ"]) == 25 and truth["counted"] == 987


def test_each_device_counts_or_not_for_the_reason_that_the_case_means() -> None:
    known = machines()
    found = counted("jiangxi_2024")
    told = {(d.gateway, d.row.slot): d.reason for d in found.devices}
    assert {key: known[key].reason for key in told} == told
    gone = {key: machine.change for key, machine in known.items() if key not in told}
    assert sorted(gone.values(), key=str) == ["after", "retired"]
    assert sum(machine.why is not None for machine in known.values()) == 25


def test_the_figures_are_those_of_the_tables() -> None:
    found, truth = counted("jiangxi_2024"), plants.truth()
    every = running(list(machines().values()))
    classes = load_classification("equipment_jx_b")
    reporting = [item for m in every if (item := classes.reporting_class(m.equipment_class))]
    assert (found.configured, found.counted, found.reasons) == (
        truth["configured"], truth["counted"], truth["not_counted"])
    assert found.points.configured == truth["points_configured"] == plants.POINTS_CLAIMED
    assert found.points.folded == truth["points_counted"] == sum(map(plants.points_that_count, every)) == 4665
    assert found.kinds_by_model == truth["models"] == len(
        {(normalise(m.maker), normalise(m.model)) for m in every if m.model}) == 11
    assert len({item.key for item in reporting}) == 10
    assert dict(found.by_region) == dict(Counter(m.region for m in every))
    assert dict(found.by_industry) == dict(Counter(m.industry for m in every))
    assert dict(found.by_class) == dict(Counter(m.equipment_class for m in every))
    assert dict(found.by_deployment) == dict(Counter(m.deployment for m in every))
    assert set(found.protocols) == {"modbus" if m.protocol.startswith("modbus") else m.protocol for m in every}


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_every_programme_counts_what_its_basis_says(programme: str) -> None:
    basis, known = load_programme(programme).basis, machines()
    told = {(d.gateway, d.row.slot) for d in counted(programme).devices if d.reason is None}
    expected = {key for key, machine in known.items() if machine.why is None
                and machine.thing in basis.things and (machine.energy is True or not basis.energy_required)}
    assert told == expected


def test_every_reason_that_a_count_can_give_is_in_the_case() -> None:
    basis = Basis(key="x", version="1")
    found = set(counted("jiangxi_2024").reasons)
    found |= set(figures(evidence(), T_S, replace(basis, regions=frozenset({"36"}))).reasons)
    found |= set(figures(evidence(), T_S, replace(basis, deployments=frozenset({"public"}))).reasons)
    assert found == set(NOT_COUNTED_REASONS) - NO_REASON_HERE


def test_the_bytes_are_the_same_at_every_run() -> None:
    """The register's root is over everything that any gateway sealed: it moves with every byte of the case."""
    roots = {site.name: site.gateway.tree.root().hex()[:16] for site in case().sites}
    roots["register"] = case().world.tree.root().hex()[:16]
    assert roots == {"ganzhou casting": "2a3fef774c1aa349", "ganzhou electronics": "a3ab97536c0d7c59",
                     "ganzhou machining": "0202d13ca90d31b6", "register": "700bdb5bc00467e1"}
