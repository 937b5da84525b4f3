"""Machines that are reached several times: which rows they are, what joins them, which one counts, and explanations.

Nothing is removed in silence. Within an enterprise a machine counts once; between enterprises it is a dispute, where
the gateway that enrolled first keeps it. In both cases an explanation lets devices count beside one another; it is
printed with who said it and when, and it proves nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from config.loader import Section, parse_toml, validate
from protocols.errors import ConfigError, Problem
from protocols.terms.say import Say
from verifier.audit.results import Finding, noted
from verifier.audit.results_machines import ExplanationResult, GroupResult, JointResult, MemberResult
from verifier.proof.figures import Evidence, Figures
from verifier.proof.machines import Device, Group

NAMED = re.compile(r"([0-9a-f]{8,32})[:/-]([0-9]{1,6})", re.ASCII)
"""A device is named by its gateway, or by the first eight or more digits of it, and its slot."""

EXPLANATIONS_MAX = 10_000
TEXT_MAX = 2000


class ExplanationTable(Section):
    """[[explanation]]: these devices are different machines although something joins them."""

    devices: list[str] = Field(min_length=2)
    text: str = Field(min_length=1, max_length=TEXT_MAX)
    by: str = Field(min_length=1, max_length=200)
    date: date


class ExplanationFile(Section):
    """A file of explanations (`--explain FILE`)."""

    schema_: Literal["explanations/1"] = Field(alias="schema")
    explanations: list[ExplanationTable] = Field(alias="explanation", min_length=1, max_length=EXPLANATIONS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One explanation, its devices found in the evidence."""

    devices: tuple[Device, ...]
    told: ExplanationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanations:
    """A file of explanations. `sha256` is of the file."""

    sha256: str
    items: tuple[Explanation, ...]

    @property
    def devices(self) -> tuple[tuple[Device, ...], ...]:
        """The devices of each explanation."""
        return tuple(item.devices for item in self.items)


def load_explanations(path: Path, evidence: Sequence[Evidence]) -> Explanations:
    """Read a file of explanations. Raises ConfigError with every problem of it, unknown devices included."""
    raw, problems = parse_toml(path)
    if raw is None:
        raise ConfigError(problems)
    file, problems = validate(raw, ExplanationFile, str(path))
    named = Names(evidence)
    found = {place: named.device(text) for place, text in _written(raw)}
    problems = problems + [Problem.of(f"{path}, {place}", device.code, **dict(device.args))
                           for place, device in found.items() if isinstance(device, Unnamed)]
    if file is None or problems:
        raise ConfigError(problems)
    items = []
    for i, table in enumerate(file.explanations):
        devices = [found[f"explanation[{i}].devices[{k}]"] for k in range(len(table.devices))]
        known = tuple(dict.fromkeys(d for d in devices if not isinstance(d, Unnamed)))
        if len(known) < 2:
            problems.append(Problem.of(f"{path}, explanation[{i}].devices", "duplicates.explains_one"))
        items.append(Explanation(devices=known, told=ExplanationResult(
            text=table.text, by=table.by, date=table.date.isoformat())))
    if problems:
        raise ConfigError(problems)
    return Explanations(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), items=tuple(items))


def _written(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every device as it stands in the file, whatever else is wrong there."""
    tables = raw.get("explanation")
    for i, table in enumerate(tables if isinstance(tables, list) else ()):
        devices = table.get("devices") if isinstance(table, dict) else None
        for k, text in enumerate(devices if isinstance(devices, list) else ()):
            if isinstance(text, str):
                yield f"explanation[{i}].devices[{k}]", text


@dataclass(frozen=True, slots=True)
class Unnamed:
    """Why a text names no device: the code that says so."""

    code: str
    args: tuple[tuple[str, str], ...]


class Names:
    """Finds the device that `GATEWAY:SLOT` means; of the gateway eight digits are enough where only one begins so."""

    def __init__(self, evidence: Sequence[Evidence]) -> None:
        self._slots: dict[str, int] = {}
        for one in evidence:
            last = one.rosters.last()
            self._slots[one.gateway] = len(last.devices) if last is not None else 0

    def device(self, text: str) -> Device | Unnamed:
        """Return the device, or why there is none."""
        match = NAMED.fullmatch(text.strip())
        if match is None:
            return Unnamed("duplicates.no_name", (("text", text[:80]),))
        begin, slot = match[1], int(match[2])
        gateways = [gateway for gateway in self._slots if gateway.startswith(begin)]
        if len(gateways) != 1:
            code = "duplicates.two_gateways" if gateways else "duplicates.no_gateway"
            return Unnamed(code, (("gateway", begin),))
        if slot >= self._slots[gateways[0]]:
            return Unnamed("duplicates.no_slot", (("gateway", begin), ("slot", str(slot))))
        return gateways[0], slot


def groups(found: Figures, evidence: Sequence[Evidence], explained: Explanations | None) -> tuple[GroupResult, ...]:
    """Return every group of rows that are one machine, with what joins them, who counts, and what explains it."""
    if not found.groups:
        return ()
    wanted = {device for group in found.groups for device in group.members}
    reasons = {key: d.reason for d in found.devices if (key := (d.gateway, d.row.slot)) in wanted}
    of = {one.gateway: one for one in evidence}
    naming: dict[Device, list[int]] = {}
    for number, item in enumerate(explained.items if explained else ()):
        for device in item.devices:
            naming.setdefault(device, []).append(number)
    return tuple(_group(group, reasons, of, naming, explained) for group in found.groups)


def _group(group: Group, reasons: Mapping[Device, str | None], of: Mapping[str, Evidence],
           naming: Mapping[Device, Sequence[int]], explained: Explanations | None) -> GroupResult:
    place = {device: i for i, device in enumerate(group.members)}
    times = Counter(number for device in group.members for number in naming.get(device, ()))
    numbers = sorted(number for number, devices in times.items() if devices > 1)
    here = {number: i for i, number in enumerate(numbers)}
    return GroupResult(
        dispute=len(group.enterprises) > 1, counted=sum(reasons[device] is None for device in group.members),
        enterprises=group.enterprises,
        joints=tuple(JointResult(how=_HOW[joint.how], scheme=joint.scheme,
                                 members=tuple(place[device] for device in joint.members)) for joint in group.joints),
        members=tuple(MemberResult(
            gateway=gateway, slot=slot, name=(of[gateway].opened.get(slot) or {}).get("name"),
            enterprise=of[gateway].uscc, reason=reasons[gateway, slot],
            explanations=tuple(here[n] for n in naming.get((gateway, slot), ()) if n in here))
            for gateway, slot in group.members),
        explanations=tuple(explained.items[number].told for number in numbers) if explained else ())


_HOW: Mapping[str, Literal["tag", "key", "opened"]] = {"tag": "tag", "key": "key", "opened": "opened"}


def group_findings(told: Sequence[GroupResult], explained: Explanations | None, say: Say) -> list[Finding]:
    """Say what a reader must know of them: disputes by the enterprises that have them, and what was explained."""
    result = []
    disputes: dict[tuple[str, ...], list[GroupResult]] = {}
    for group in told:
        if group.dispute:
            disputes.setdefault(group.enterprises, []).append(group)
    for enterprises, some in sorted(disputes.items()):
        result.append(noted("remark", "duplicates.two_enterprises", "figures", say, enterprises=", ".join(enterprises),
                            groups=len(some), **_sums(some)))
    within = [group for group in told if not group.dispute]
    if any(member.reason == "duplicate_identity" for group in within for member in group.members):
        result.append(noted("remark", "duplicates.within", "figures", say, groups=len(within), **_sums(within)))
    more = sum(max(0, group.counted - 1) for group in told)
    if more:
        result.append(noted("remark", "duplicates.explained", "figures", say, devices=more,
                            groups=sum(group.counted > 1 for group in told)))
    used = _used(told)
    unused = sum(not any(device in used.get(item.told, ()) for device in item.devices)
                 for item in (explained.items if explained else ()))
    if unused:
        result.append(noted("remark", "duplicates.unused", "figures", say, explanations=unused))
    return result


def _sums(some: Iterable[GroupResult]) -> dict[str, int]:
    reasons = Counter(member.reason for group in some for member in group.members)
    return {"devices": reasons.total(), "counted": reasons[None], "excluded": reasons["duplicate_identity"]}


def _used(told: Sequence[GroupResult]) -> dict[ExplanationResult, set[Device]]:
    """Return explanation -> devices of groups in which it joins at least two."""
    used: dict[ExplanationResult, set[Device]] = {}
    for group in told:
        for member in group.members:
            for number in member.explanations:
                used.setdefault(group.explanations[number], set()).add((member.gateway, member.slot))
    return used
