"""Topic templates: what they subscribe to, whom a topic names, and which cannot stand beside each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import ConfigError
from protocols.mqtt.topics import parse_template


def test_a_template_is_one_subscription() -> None:
    template = parse_template("plant/{line}/{device}/+")
    assert template.filter == "plant/+/+/+"
    assert template.device_of("plant/l1/press-3/state") == "press-3"
    for other in ("plant/l1/press-3", "plant/l1/press-3/a/b", "works/l1/press-3/state", ""):
        assert template.device_of(other) is None
    deep = parse_template("{device}/#")
    assert deep.filter == "+/#"
    assert [deep.device_of(topic) for topic in ("a", "a/b", "a/b/c")] == ["a", "a", "a"]


@pytest.mark.parametrize("text", [
    "", "plant/#", "{device}/#/a", "a/{device}/{device}", "a/{x}/{x}/{device}", "a/b", "a/x{device}", "a/{Device}",
    "a/+b/{device}", "#", "/{device}", "$share/g/{device}", "a/{device}\n", "x" * 2_000 + "/{device}"])
def test_what_is_no_template(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_template(text, where="here")
    assert [(p.where, p.code) for p in caught.value.problems] == [("here", "mqtt.bad_topic_template")]


@pytest.mark.parametrize(("one", "other", "overlap"), [
    ("a/{device}/+", "a/{device}/state", True), ("a/{device}", "b/{device}", False), ("{device}/a", "b/{device}", True),
    ("a/{device}", "a/{device}/b", False), ("a/{device}/#", "a/{device}", True), ("a/{device}/#", "b/{device}", False),
    ("a/{device}/#", "a/b/c/{device}", True)])
def test_templates_that_overlap(one: str, other: str, overlap: bool) -> None:
    first, second = parse_template(one), parse_template(other)
    assert first.overlaps(second) is second.overlaps(first) is overlap


LEVEL = st.sampled_from(["a", "b", "+", "{line}"])


@given(one=st.lists(LEVEL, max_size=3, unique=True), other=st.lists(LEVEL, max_size=3, unique=True), end=st.booleans(),
       topic=st.lists(st.sampled_from("abc"), min_size=1, max_size=4))
def test_no_topic_is_of_two_templates_that_do_not_overlap(
        one: list[str], other: list[str], end: bool, topic: list[str]) -> None:
    first = parse_template("/".join([*one, "{device}", *(["#"] if end else [])]) if one else "{device}")
    second = parse_template("/".join(["{device}", *other]))
    text = "/".join(topic)
    if not first.overlaps(second):
        assert first.device_of(text) is None or second.device_of(text) is None
