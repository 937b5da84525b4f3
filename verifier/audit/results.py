"""What `count` and `audit` found, as plain data: the JSON that is published, and what texts and reports are made of.

No path, no timing and no version of this tool is in it: the same input gives the same bytes. Times are POSIX seconds.
Schemas: docs/schemas/count.schema.json and audit.schema.json, made from these classes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from protocols.terms.basis import Basis
from protocols.terms.say import Say
from verifier.audit.results_machines import GroupResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing to know. A fault decides the verdict, a remark does not. `message` is English."""

    severity: Literal["fault", "remark"]
    code: str
    args: Mapping[str, str]
    where: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleResult:
    """One bundle: the SHA-256 of its file and what `tallystick verify --json` says of it."""

    sha256: str
    verdict: Literal["valid", "invalid"]
    findings: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """T as asked and as counted, which is T or the window end before it; windows after `from_s` count."""

    asked_s: int
    counted_s: int
    from_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a split. `key` and the names are null for devices that do not state it."""

    key: str | None
    name_zh: str | None
    name_en: str | None
    devices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Devices that ran on one day of the basis; null where the day is not proven, which is not zero.

    whole: every window of the day was read; else there may be more.
    """

    date: str
    devices: int | None
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocols:
    """Protocols of devices that count: at T, and over the observation period (null if that is not covered), named as
    the basis names them. by_family, by_variant: how many under both readings, over the observation period if it is
    covered, else at T; `value` is the one of the basis."""

    at: tuple[str, ...]
    observed: tuple[str, ...] | None
    by_family: int
    by_variant: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Figures of a part of the devices: how many, the points that count (folded as the basis folds), and distinct
    kinds, enterprises, industries (Appendix A level 2), cities (GB/T 2260) and protocols among them."""

    devices: int
    points: int
    kinds_by_model: int
    kinds_by_class: int
    enterprises: int
    industries: int
    cities: int
    protocols_by_family: int
    protocols_by_variant: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFigures(Totals):
    """A part of one division. key: as in the splits, a USCC, or digits of a region code; null: not stated or in none
    of the classes."""

    key: str | None
    name_zh: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """Kinds of counted devices under both readings; `value` is the one of the basis."""

    by_model: int
    by_class: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Windows read; untrusted, late: of these. missing: on record as outages in the same time."""

    read: int
    untrusted: int
    late: int
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedResult:
    """Independent co-signatures around the windows that count; null where nothing proves that side.

    newest_end_s: end of the newest window, by the gateway's clock; newest_after_s, newest_before_s: it was sealed
    between these. first_after_s, last_before_s: all of them were.
    """

    newest_end_s: int
    newest_after_s: int | None
    newest_before_s: int | None
    first_after_s: int | None
    last_before_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenGateway:
    """A gateway of the enterprise that no bundle shows. revoked_from: its log ends at that size; null: not revoked."""

    gateway: str
    site: str
    supersedes: str | None
    superseded_by: tuple[str, ...]
    revoked_from: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnterpriseResult:
    """`enrolled` gateways exist in the register (null without one), `shown` of them here; `others` are not shown.

    predecessors_hidden: gateways whose successor is shown and that are not.
    """

    uscc: str
    enrolled: int | None
    shown: int
    others: tuple[HiddenGateway, ...]
    predecessors_hidden: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceResult:
    """Counted devices that were connected in no window a week before T (new), or a week after (gone).

    null where the evidence does not reach so far; short_before, short_after: the gateways of which it does not.
    """

    new: int | None
    gone: int | None
    short_before: tuple[str, ...]
    short_after: tuple[str, ...]


DECLARED = ("class", "industry", "region", "city", "deployment", "thing", "received")
"""What the enterprise declares of its devices, and when its gateway says that it received a sample; not proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FiguresResult:
    """Figures at T. configured = counted + the sum of `not_counted`.

    points: see verifier.proof.figures.PointTotals; its `value` is the total of the basis, folded or not.
    late_devices: how many more count with late evidence.
    stages: configured, connected, producing, changing, counted -> what these devices add up to; `points` there are
    all points of that stage (of connected devices: the sampled ones). levels: level -> counted devices of that level
    or a higher one. groups: counted devices by industry, province, city, county, class, class_level_1, deployment,
    enterprise and kind (model, named where some device of it is opened).
    daily_running is null where the basis does not ask for it. declared: splits, and times, that rest on the
    enterprise's declaration.
    """

    anchored: bool
    devices: Mapping[str, int]
    not_counted: Mapping[str, int]
    points: Mapping[str, int]
    windows: Windows
    late_devices: int
    sealed: SealedResult | None
    kinds: Kinds
    protocols: Protocols
    enterprises: int
    splits: Mapping[str, tuple[Part, ...]]
    stages: Mapping[str, Totals]
    levels: Mapping[str, Totals]
    groups: Mapping[str, tuple[PartFigures, ...]]
    daily_running: tuple[Day, ...] | None
    producing_permille: int | None
    presence: PresenceResult
    declared: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelsResult:
    """Devices that count, by assurance level "0" to "4". `behind_servers` of level 1 and above."""

    devices: Mapping[str, int]
    behind_servers: int
    servers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceResult:
    """One device of the roster at T. name, maker and model only where the bundle opens it. reason null: it counts.

    level: 0 to 4. From 1 on: the digest of its server key, since when it is the same, and the slot that owns the key
    if this device does not (-1: a server that is no slot).
    """

    gateway: str
    slot: int
    name: str | None
    maker: str | None
    model: str | None
    thing: str
    equipment_class: str | None
    connected: bool
    producing: bool
    changing: bool
    reason: str | None
    remarks: tuple[str, ...]
    level: int
    server_spki_sha256: str | None
    server_since_s: int | None
    server_via: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One sentence in both languages with its place in the document, empty if it has none."""

    zh: str
    en: str
    cite: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """SHA-256 of the files that the result depends on beside the bundles."""

    policy: str
    basis: str | None
    claim: str | None
    explanations: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedLedger:
    """The asset ledger that a gateway sealed with the roster in force at T: digest, date and rows of its file."""

    gateway: str
    sha256: str
    date: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CountResult:
    """All of `tallystick count`. figures and levels are null for an invalid bundle; `basis` has every parameter.

    duplicates: groups of rows that are one machine. ledgers: of the gateways whose roster entry at T is shown.
    """

    verdict: Literal["valid", "invalid"]
    at: Instant | None
    basis: Mapping[str, Any]
    bundles: tuple[BundleResult, ...]
    enterprises: tuple[EnterpriseResult, ...]
    figures: FiguresResult | None
    devices: tuple[DeviceResult, ...]
    duplicates: tuple[GroupResult, ...]
    ledgers: tuple[SealedLedger, ...]
    findings: tuple[Finding, ...]
    ambiguities: tuple[Sentence, ...]
    levels: LevelsResult | None
    limits: tuple[str, ...]
    digests: Digests


def noted(severity: Literal["fault", "remark"], code: str, where: str, say: Say, **args: object) -> Finding:
    """Return a finding with its English message."""
    texts = {name: str(value) for name, value in sorted(args.items())}
    return Finding(severity=severity, code=code, args=texts, where=where, message=say.english(code, **texts))


def basis_json(basis: Basis) -> dict[str, Any]:
    """Return every parameter of a basis as JSON; null means no restriction."""
    return {f.name: _plain(getattr(basis, f.name)) for f in dataclasses.fields(basis)}


def as_json(result: object) -> dict[str, Any]:
    """Return the published form of a result."""
    value: dict[str, Any] = _plain(result)
    return value


def as_bytes(value: Mapping[str, Any]) -> str:
    """Return JSON text: sorted keys, the same for the same value."""
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)


_SCALARS = frozenset({str, int, bool, float, type(None)})
_field_names: dict[type, tuple[str, ...]] = {}
"""Of each class of results that was met: 50 000 devices are told field by field."""


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    names = _field_names.get(kind)
    if names is None and dataclasses.is_dataclass(kind):
        names = _field_names[kind] = tuple(f.name for f in dataclasses.fields(kind))
    if names is not None:
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
