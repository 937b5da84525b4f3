"""What `audit` found, as plain data: claimed against proven, and the verdict of every rule.

Schema: docs/schemas/audit.schema.json, made from these classes. Numbers that were judged stand beside what they rest
on; nothing that is declared stands under `proven`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from verifier.audit.results import CountResult, Finding, Sentence
from verifier.audit.results_machines import ClaimedListResult

Value = int | float | bool | str

Status = Literal["met", "declared", "consistent", "not_judged", "not_met"]
"""met: by what is proven. declared: reached by the declaration alone, or by a share of something declared.
consistent: the claim agrees with itself. not_judged: shown, and decides nothing."""

RestsOn = Literal["evidence", "declaration", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartName:
    """A part of a division: its key, and its name as the classification or the claim has it."""

    by: str
    key: str | None
    name_zh: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareResult:
    """A share: what is divided by what, with the metrics' keys; null where there is no such figure."""

    numerator: str
    numerator_value: int | float | None
    denominator: str
    denominator_value: int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResult:
    """One comparison of a rule. `proven` is null where evidence says nothing of this metric.

    value: what was compared; rests_on: what that rests on, null without a value. share: how it was computed, where it
    is a share; `value` is then rounded to 4 digits, while the comparison is exact. filter: as in the rule.
    """

    metric: str
    op: str
    threshold: int | float | bool
    unit: str
    wording: str
    filter: str | None
    claimed: Value | None
    proven: int | None
    value: Value | None
    rests_on: RestsOn | None
    share: ShareResult | None
    status: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchResult:
    """Comparisons that must all hold. part: the one industry or region whose figures were compared."""

    mode: str | None
    status: Status
    part: PartName | None
    comparisons: tuple[ComparisonResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupVerdict:
    """One group of which a rule asks. claimed: the claim names it; else only the evidence does."""

    part: PartName
    claimed: bool
    status: Status
    branches: tuple[BranchResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsResult:
    """A rule that is asked of groups. at_least: so many must pass; null: all must. passing: how many do."""

    by: tuple[str, ...]
    at_least: int | None
    members: tuple[str, ...]
    passing: int
    groups: tuple[GroupVerdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """A check of figures that must agree, as a sentence of keys. claimed, proven: the two sides, null where unknown.

    explanation: why the claim says that they differ, where the rule allows that.
    """

    left: str
    op: str
    right: str
    claimed: tuple[int | float, int | float] | None
    proven: tuple[int, int] | None
    explanation: str | None
    status: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingResult:
    """One reading of an ambiguous passage and what comes of it: status of the rule, its comparisons, passing groups,
    and metric -> figure under this reading. The first reading of an ambiguity is the one that was judged."""

    key: str
    zh: str
    en: str
    status: Status | None
    branches: tuple[BranchResult, ...]
    passing: int | None
    figures: Mapping[str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AmbiguityResult(Sentence):
    """What the document leaves open, with its readings where they change a number."""

    readings: tuple[ReadingResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleResult:
    """A rule of any kind. status: of its best branch, of the groups that must pass, or of its worst check.

    evidence: the class that the document's figures have (a, b, c, c+). interpretation: the document does not say it in
    so many words. quota: of the recommending authority; it decides nothing here.
    """

    id: str
    kind: str
    evidence: str | None
    interpretation: bool
    cite: str
    zh: str
    en: str
    status: Status
    branches: tuple[BranchResult, ...]
    groups: GroupsResult | None
    checks: tuple[CheckResult, ...]
    quota: Mapping[str, int]
    ambiguities: tuple[AmbiguityResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentResult:
    """A document of the claim. state: its file matches the digest, differs from it, or is not beside the claim."""

    file: str
    sha256: str
    state: Literal["matches", "differs", "absent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """A key that was claimed, that the form requires, or that a rule needs.

    field: number and name in the form. evidence_class: a, b, c, c+ as the programme has it. stages, levels: the figure
    of the devices of each stage, and of counted devices of each level or a higher one; null where evidence says
    nothing of this metric. readings: the figure under each way to tell kinds or protocols apart.
    """

    key: str
    zh: str
    en: str
    unit: str
    field: str | None
    required: bool
    evidence: str
    evidence_class: str | None
    claimed: Value | None
    proven: int | None
    stages: Mapping[str, int] | None
    levels: Mapping[str, int] | None
    readings: Mapping[str, int] | None
    documents: tuple[DocumentResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPart:
    """One part of a claimed split; null where it is not claimed, or evidence says nothing of it."""

    part: PartName
    claimed: int | float | None
    proven: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitResult:
    """A claimed split beside the proven one, and the sums of both."""

    metric: str
    by: str
    parts: tuple[SplitPart, ...]
    claimed: int | float
    proven: int | None
    explanation: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerResult:
    """The asset ledger of which a share is claimed: a declaration, known by its digest and date."""

    devices: int
    date: str
    sha256: str
    file: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """What was claimed, by whom, for which instant; industry and region of a claim for one of them."""

    enterprise: str
    uscc: str
    at_s: int
    branch: str | None
    industry: PartName | None
    region: str | None
    ledger: LedgerResult | None
    explanations: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgrammeResult:
    """The programme and type under which the claim was judged. digests: of every data file that was used. notes: what
    a reader must know of the document and of the classifications: faults, doubts, what is borrowed."""

    key: str
    version: str
    title_zh: str
    authority_zh: str
    doc_no: str
    type: str
    type_zh: str
    type_en: str
    status: Sentence
    cutoffs: tuple[Sentence, ...]
    notes: tuple[Sentence, ...]
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """All of `tallystick audit`. ambiguities: of the whole programme, with the figures that their readings change.

    claimed_list: of --devices, null where no list was given or a bundle is invalid.
    """

    verdict: Literal["holds", "does_not_hold"]
    programme: ProgrammeResult
    claim: ClaimResult
    metrics: tuple[MetricResult, ...]
    splits: tuple[SplitResult, ...]
    rules: tuple[RuleResult, ...]
    ambiguities: tuple[AmbiguityResult, ...]
    findings: tuple[Finding, ...]
    count: CountResult
    claimed_list: ClaimedListResult | None = None
