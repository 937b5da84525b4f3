"""Why a device is not counted: the reason is the figures', and the sentences say what this process saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway.web.facts import NS_PER_S
from gateway.web.index import make_index
from gateway.web.why import causes
from protocols.samples import BAD, GOOD, NOT_LIVE, SampleBatch
from tests.support.web_plant import WebPlant
from tests.unit.gateway.commissioning.plants import device, point

DEVICES = [device("a", serial="S1"), device("twin", serial="S1"), device("beat"), device("empty"), device("none"),
           device("nobody", uscc=""), device("line", serial="L"), device("child", parent="line"),
           device("box").replace(",equipment,", ",infrastructure,")]
POINTS = [point("a", 0), point("twin", 1), point("beat", 2, role="heartbeat"), point("none", 3), point("none", 4),
          point("nobody", 5), point("line", 6), point("child", 7), point("box", 8)]


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[WebPlant]:
    plant = WebPlant(tmp_path, DEVICES, POINTS)
    yield plant
    plant.close()


def why(plant: WebPlant, id_: str) -> list[tuple[str, dict[str, object]]]:
    facts = plant.facts()
    index = make_index(facts.config, facts.roster)
    line = index.by_id[id_]
    return [(cause.code.removeprefix("web.why."), cause.args)
            for cause in causes(line, plant.live.cells(line.points), facts, index)]


def sample(plant: WebPlant, slot: int, *, quality: int = GOOD, age_s: int = 0, ago_s: int = 0) -> None:
    """One sample of a point, received `ago_s` ago with a source time `age_s` before that."""
    at_ns = plant.now_ns() - ago_s * NS_PER_S
    plant.live.samples(SampleBatch(
        point_index=np.array([slot]), received_ns=np.array([at_ns]), source_ns=np.array([at_ns - age_s * NS_PER_S]),
        value=np.array([1.0]), quality=np.array([quality], dtype=np.uint8)))


def test_before_the_first_window_nothing_is_decided(plant: WebPlant) -> None:
    assert why(plant, "a") == [("no_window", {"time_s": plant.agent.windows.opens_s + 60})]


def test_a_device_that_came_after_the_figures_is_not_decided(plant: WebPlant) -> None:
    plant.window(producing=["a"])
    assert plant.agent.figures is not None
    plant.agent.figures = dataclasses.replace(plant.agent.figures, stage=plant.agent.figures.stage[:3])
    assert why(plant, "empty")[0][0] == "too_new"


def test_what_the_ledger_says_is_named(plant: WebPlant) -> None:
    plant.window(producing=["a", "twin", "nobody", "line", "child", "box"])
    assert why(plant, "twin") == [("same_machine", {"others": "a", "schemes": "serial"})]
    assert why(plant, "nobody") == [("owner", {"device": "nobody"})]
    assert why(plant, "line") == [("relatives", {"others": "child"})]
    assert why(plant, "box") == [("thing", {"thing": "infrastructure"})]


def test_a_device_that_counts_and_is_silent_is_told_before_it_stops_counting(plant: WebPlant) -> None:
    plant.window(producing=["a"])
    assert why(plant, "a")[0][0] == "counted_before"
    plant.heard("a", ago_s=3_600)
    assert why(plant, "a")[0][0] == "counted_silent"
    plant.heard("a")
    assert why(plant, "a") == []


def test_without_data_the_sentence_follows_what_was_seen(plant: WebPlant) -> None:
    plant.window()
    assert why(plant, "empty") == [("no_points", {"device": "empty"})]
    assert why(plant, "none")[0][0] == "never_answered"
    plant.heard("none", ago_s=600)
    assert [code for code, _ in why(plant, "none")] == ["silent", "no_values"]
    plant.heard("none")
    assert why(plant, "none") == [("no_values", {"count": 2})]
    plant.window(producing=["beat"])
    plant.heard("beat")
    assert why(plant, "beat") == [("roles", {"listed": "heartbeat"})]


@pytest.mark.parametrize(("given", "code"), [
    ({"quality": BAD}, "bad_quality"), ({"quality": NOT_LIVE}, "not_live"), ({"age_s": 7_200}, "stale"),
    ({}, "next_window"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_values_that_do_not_count_are_told_apart(plant: WebPlant, given: dict[str, int], code: str) -> None:
    plant.window()
    plant.heard("none")
    # A sample that came while its window is open: the oldest window that is not closed begins in the future here.
    plant.agent.windows._next = plant.now_ns() // NS_PER_S // 60
    sample(plant, plant.point("none", "p3"), **given)
    assert [found for found, _ in why(plant, "none")] == [code]
