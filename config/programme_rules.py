"""Rules and indicators of a programme as data: what is compared with what, for whom, and where it is written.

Comparisons name metrics of `config/programmes/metrics.toml`; divisions are the ways in which a figure is split.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field, field_validator, model_validator

from config.loader import Section

Evidence = Literal["a", "b", "c", "c+"]
"""a: measured at the edge. b: derived from signed evidence. c: declared, with documents. c+: declared, and b once the
platform's own counters sign what they count."""

Division = Literal[
    "class", "class_level_1", "industry", "city", "deployment", "domain", "model_class", "park",
    "manufacturing_subclass",
]
"""A way to split a figure. The first five are the names of the splits of `count`, so evidence can prove them."""

Kind = Literal["threshold", "form", "consistency", "proof", "quota", "qualitative"]
Scope = Literal["one_industry", "one_region"]
Filter = Literal["switch_signal_or_running_parameter", "cross_platform"]


class Sentence(Section):
    """One sentence in both languages, in our own words."""

    zh: str
    en: str


class Cited(Sentence):
    """A sentence with its place in the document."""

    cite: str = ""


class Reading(Sentence):
    """One way to read an ambiguous passage. The first reading of an ambiguity is the one that the rule computes and
    changes nothing; a later one changes what it names.

    of: it changes only comparisons of these metrics, all if empty. kinds, protocols: that parameter of the basis.
    denominator: another metric below a ratio. scope: the figure of one industry or region only. all_groups: every
    group must pass, not only so many. metrics: metric -> metric instead.
    """

    key: str = Field(pattern="^[A-Z]$")
    of: list[str] = Field(default_factory=list)
    kinds: Literal["by_model", "by_class"] | None = None
    protocols: Literal["family", "variant"] | None = None
    denominator: str | None = None
    scope: Scope | None = None
    all_groups: bool | None = None
    metrics: dict[str, str] = Field(default_factory=dict)

    def changes(self) -> bool:
        """Whether this reading gives another number than the first."""
        return bool(self.metrics) or any(value is not None for value in (
            self.kinds, self.protocols, self.denominator, self.scope, self.all_groups))


class Ambiguity(Cited):
    """What the document leaves open. It is printed beside the result; `readings` only where they change a number."""

    readings: list[Reading] = Field(default_factory=list)

    @model_validator(mode="after")
    def _told_apart(self) -> Ambiguity:
        if self.readings:
            keys = [item.key for item in self.readings]
            if keys != sorted(set(keys)) or len(keys) < 2:
                raise ValueError(f"readings are A, B and so on: {keys}")
            if self.readings[0].changes() or not all(item.changes() for item in self.readings[1:]):
                raise ValueError("the first reading changes nothing, every other one something")
        return self


class Comparison(Section):
    """One comparison. `op` follows the wording: 不少于, 不低于, 达到, 以上, 至少 are `>=`; 超过 is `>`.

    filter: only these devices or models. scope: the figure of one industry or one region, the best of them.
    kinds: how kinds are told apart here, where the programme says so. numerator, denominator: metrics of a ratio.
    since: only what is not older. proof: one of these documents must come with it.
    """

    metric: str
    op: Literal[">=", ">", "==", "<="]
    value: int | float | bool
    unit: str = ""
    wording: str = ""
    filter: Filter | None = None
    scope: Scope | None = None
    kinds: Literal["by_model", "unspecified"] | None = None
    numerator: str | None = None
    denominator: str | None = None
    since: date | None = None
    proof: list[str] = Field(default_factory=list)

    @field_validator("value", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        if not isinstance(value, int | float):
            raise ValueError("a number, or true / false")
        return value


class Branch(Section):
    """Tests that must all hold. `mode`: the discrete (离散行业) or process (流程行业) alternative."""

    mode: Literal["discrete", "process"] | None = None
    all: list[Comparison] = Field(min_length=1)


class Groups(Section):
    """The branches are asked of each group: at least so many groups pass, or every one that is claimed.

    by: the divisions whose groups are meant; with several, groups of each of them. members: the groups, by name,
    where the document names them.
    """

    by: list[Division] = Field(min_length=1)
    at_least: int | None = Field(default=None, ge=1)
    all_groups: bool = False
    members: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_demand(self) -> Groups:
        if (self.at_least is None) == (not self.all_groups):
            raise ValueError("either at_least or all_groups")
        return self


class Term(Section):
    """A summand of a check: a metric; with `by` the sum of its parts in that division, or of those in `parts`; or a
    fixed value."""

    metric: str | None = None
    by: Division | None = None
    parts: list[str] = Field(default_factory=list)
    value: int | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> Term:
        if (self.metric is None) == (self.value is None) or (self.by is None and self.parts) or (
                self.metric is None and self.by is not None):
            raise ValueError("a metric, perhaps by a division and parts of it, or a value")
        return self


class Check(Section):
    """Figures of one claim that must agree: sum of `left` against sum of `right`.

    It is asked only where every term is claimed. explained: a difference is allowed if the claim explains it.
    """

    left: list[Term] = Field(min_length=1)
    op: Literal["==", ">=", "<="]
    right: list[Term] = Field(min_length=1)
    explained: bool = False


class Rule(Cited):
    """One rule of the platform types in `types`, of all if empty.

    threshold, form: at least one branch of `any` must hold, in each group where there are `groups`. consistency: every
    one of `checks` must hold. proof, quota, qualitative are shown and never decide. interpretation: the document does
    not say it in so many words. evidence: absent means that evidence can prove it, a or b by its metrics.
    """

    id: str
    types: list[str] = Field(default_factory=list)
    kind: Kind = "threshold"
    evidence: Evidence | None = None
    interpretation: bool = False
    groups: Groups | None = None
    any: list[Branch] = Field(default_factory=list)
    checks: list[Check] = Field(alias="check", default_factory=list)
    quota: dict[str, int] = Field(default_factory=dict)
    ambiguity: list[Ambiguity] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> Rule:
        held = {"any": bool(self.any), "check": bool(self.checks), "quota": bool(self.quota)}
        wanted = {"threshold": "any", "form": "any", "consistency": "check", "quota": "quota"}.get(self.kind)
        wrong = sorted(name for name, there in held.items() if there != (name == wanted))
        if wrong:
            raise ValueError(f"a rule of kind {self.kind}: {', '.join(wrong)} must" + (
                " be there" if wanted in wrong else " not be there"))
        return self

    def applies_to(self, key: str) -> bool:
        """Whether the rule is one of this platform type."""
        return not self.types or key in self.types

    def metric_keys(self) -> set[str]:
        """Return every metric that the rule, its checks or its readings name."""
        tests = [test for branch in self.any for test in branch.all]
        keys = {key for test in tests for key in (test.metric, test.numerator, test.denominator)}
        keys |= {term.metric for check in self.checks for term in (*check.left, *check.right)}
        for reading in (reading for item in self.ambiguity for reading in item.readings):
            keys |= {reading.denominator, *reading.metrics, *reading.metrics.values()}
        return {key for key in keys if key is not None}


class Indicator(Section):
    """One indicator of a programme, by its official name. `evidence` is its class.

    metrics: what it asks for, none for a text. by: the division in which they are split, but for those in `whole`.
    together: the metrics are added up in one box. item: its number in the form. types: who fills it in, all if empty.
    starred: proof is mandatory.
    """

    id: str
    name_zh: str
    unit: str
    evidence: Evidence
    metrics: list[str] = Field(default_factory=list)
    by: Division | None = None
    whole: list[str] = Field(default_factory=list)
    together: bool = False
    item: str = ""
    cite: str
    types: list[str] = Field(default_factory=list)
    starred: bool = False
    note: Sentence | None = None
