"""Every class of tampering is detected, honest bundles are not refused, and nothing is called detected that was not."""

from __future__ import annotations

import random
import re

import pytest

from tests.support.source import ROOT
from verifier.conformance import classes, tamper
from verifier.conformance.classes import CLASSES, KINDS, NAMES, NO_OBJECT, PENDING, Instance, Judgement
from verifier.conformance.draw import FEATURES, honest
from verifier.conformance.world import small, zipped

SEED = 7


@pytest.mark.parametrize("number", sorted(KINDS))
def test_class_is_detected(number: int) -> None:
    first = random.Random(number).randrange(1000)  # other modes than the first two, the same at every run
    shots = tamper.shoot(number, SEED, first, 2)
    assert all(shot.causes for shot in shots), shots
    assert shots[0].digest != shots[1].digest


@pytest.mark.parametrize(("number", "seed", "place", "code"), [
    (8, 2211, 25, "note.unsigned"),  # the entry of a key, which nobody can read any more
    (28, 2211, 76, "time.unanchored"),  # a quorum that holds without the independent witness
])
def test_rare_instances_are_told_too(number: int, seed: int, place: int, code: str) -> None:
    assert [shot.causes for shot in tamper.shoot(number, seed, place, 1)] == [(code,)]


@pytest.mark.parametrize("first", [0, 25])
def test_honest_bundles_are_not_refused(first: int) -> None:
    alarms = tamper.be_honest(SEED, first, 25)
    assert alarms.refused == []
    assert alarms.drawn == 25 and len(alarms.features) > 30
    assert set(alarms.features) <= FEATURES


def test_every_class_is_drawn_or_says_why_not() -> None:
    assert sorted([*KINDS, *NO_OBJECT, *PENDING]) == sorted(NAMES) == list(range(1, CLASSES + 1))
    for number, kind in KINDS.items():
        names = [name for name, _ in kind.modes]
        assert names and len(set(names)) == len(names) and kind.causes, number


def test_the_same_seed_gives_the_same_bytes() -> None:
    for number in (2, 24, 40):
        assert classes.make(number, "a/1/3").key() == classes.make(number, "a/1/3").key()
        assert classes.make(number, "a/1/3").key() != classes.make(number, "b/1/3").key()
    one, two = honest("x"), honest("x")
    assert (one.members, one.policy, one.anchor, one.also) == (two.members, two.policy, two.anchor, two.also)


def _result(judgement: Judgement) -> tamper.Result:
    """What two instances of class 1 make of a verifier that always says this."""
    result = tamper.Result(1)
    for place in range(2):
        codes = tuple(sorted(judgement.codes))
        result.take(tamper.Shot(place, "mode", bytes([place]), tuple(c for c in codes if KINDS[1].names(c)), codes,
                                False))
    return result


@pytest.mark.parametrize(("judgement", "detected", "told"), [
    (Judgement(frozenset()), False, "PASSED"),
    (Judgement(frozenset({"window.gap"})), False, "refused, but for window.gap"),
    (Judgement(frozenset({"window.gap", "entry.altered"})), True, ""),
])
def test_nothing_is_called_detected_that_was_not(judgement: Judgement, detected: bool, told: str) -> None:
    result = _result(judgement)
    assert result.detected(2) is detected
    assert not result.detected(3), "fewer instances than asked for are no proof"
    lines = tamper.passed_lines({1: result}, tamper.Alarms(), SEED)
    assert bool(lines) is not detected and all(told in line and f"{SEED}/1/" in line for line in lines)
    text = "\n".join(tamper.class_lines({1: result}, 2))
    assert ("NOT DETECTED" in text) is not detected


def test_a_false_alarm_or_a_lost_feature_is_told() -> None:
    alarms = tamper.Alarms(drawn=tamper.COVERED_AT, refused=[("7/honest/3", ("window.gap",))])
    alarms.features.update(FEATURES - {"revoked"})
    assert tamper.passed_lines({}, alarms, SEED) == [
        "honest bundles never showed: revoked", "honest bundle 7/honest/3: refused for window.gap"]
    assert tamper.last_line({}, alarms, 2).endswith("0 instances, 1 false alarms")


def test_an_instance_that_is_honest_is_not_judged_refused() -> None:
    """The judge itself does not refuse: an untouched bundle gives no code."""
    world, gateway = small()
    instance = Instance(members=gateway.members(), policy=world.policy_json())
    assert classes.judge(instance).codes == frozenset()
    assert classes.judge(Instance(members=gateway.members(), policy=b"{}")).codes == {"policy.gateway_unknown"} | {
        "policy.register_unknown"}
    assert classes.judge(Instance(members=gateway.members() | {"x": b""}, policy=world.policy_json())).codes == {
        "container.unknown_member"}
    assert zipped(instance.members) == instance.data()


def test_the_last_line_and_the_exit_status(capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--class", "10", "--instances", "2", "--honest", "2", "--jobs", "1"]
    assert tamper.main(arguments) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"1 of 43 classes detected, 5 pending \(30 .*\), 2 without object \(7 .*, 15 .*\), "
                        r"2 instances, 0 false alarms", last)
    monkeypatch.setitem(KINDS, 10, classes.Kind(10, ("nothing.of_the_kind",), KINDS[10].modes))
    assert tamper.main(arguments) == 1
    out = capsys.readouterr().out
    assert "10 tail truncated                   NOT DETECTED" in out and "0 of 43 classes detected" in out
    assert "refused, but for head.truncated" in out


def test_pending_classes_say_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(tamper.class_lines({}, 2))
    for number, needs in PENDING.items():
        assert re.search(rf"^ *{number} .*pending: needs {re.escape(needs)}$", text, re.MULTILINE)
    assert text.count("no object: ") == len(NO_OBJECT)
    with pytest.raises(SystemExit):
        tamper.main(["--class", "30"])
    assert "time-stamp tokens" in capsys.readouterr().err


def test_the_page_tells_the_classes_as_they_are() -> None:
    """If this fails: python -m verifier.conformance.tamper --markdown, into docs/tampering.md."""
    page = (ROOT / "docs/tampering.md").read_text(encoding="utf-8")
    assert "\n".join(tamper.markdown_lines()) in page
