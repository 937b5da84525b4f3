"""Machines that several rows stand for, and lists of claimed devices, as plain data: parts of the published JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class JointResult:
    """One identity that rows share. how: by an equal `tag`, the `key` of a server that they own, or `opened` serials.

    members: places in the members of the group.
    """

    how: Literal["tag", "key", "opened"]
    scheme: str
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberResult:
    """One row of a machine. reason null: it counts. explanations: places in the explanations of the group."""

    gateway: str
    slot: int
    name: str | None
    enterprise: str
    reason: str | None
    explanations: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationResult:
    """Why some devices of a group are different machines all the same: said by whom and when; not proven."""

    text: str
    by: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """Rows that are one machine: counted once, unless explained. dispute: they are of several enterprises.

    members: in the order that decides which one stays: of the register, then slots.
    """

    dispute: bool
    counted: int
    enterprises: tuple[str, ...]
    joints: tuple[JointResult, ...]
    members: tuple[MemberResult, ...]
    explanations: tuple[ExplanationResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryResult:
    """One roster entry that touched a device: signed by the gateway, from an asset ledger of this digest and date.

    what: the device was `listed` in the first roster of the bundle, or `added` later; its row or points were
    `changed` (`fields`), or it is `gone`. from_s: start of the first window under the entry, by the gateway's clock,
    null if there is none; after_s, before_s: independent co-signatures around that window, null where nothing proves
    that side.
    """

    seq: int
    what: Literal["listed", "added", "changed", "gone"]
    fields: tuple[str, ...]
    ledger_sha256: str
    ledger_date: str
    from_s: int | None
    after_s: int | None
    before_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedResult:
    """One device on which list and evidence differ.

    row: of the list, null if only the evidence has it. state: `not_counted` for `reason`; `gone`: its slot is a
    tombstone at T; `later`: its slot came after T; `unknown`: no slot and no opened device is called so; `several`:
    more than one opened device is; `not_shown`: no bundle of its gateway; `twice`: an earlier row names it;
    `not_listed`: it counts. instead: of a `duplicate_identity`, the first device of that machine that counts.
    seen_s: end of the last window until T in which it produced by points in the roles of the basis, null where none
    of the bundle's does (of the last 20 000).
    """

    row: int | None
    id: str
    gateway: str | None
    slot: int | None
    name: str | None
    state: Literal["not_counted", "gone", "later", "unknown", "several", "not_shown", "twice", "not_listed"]
    reason: str | None
    instead: str | None
    seen_s: int | None
    history: tuple[EntryResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedListResult:
    """A list of claimed devices against those that count. rows = matched + only_in_list."""

    sha256: str
    rows: int
    matched: int
    only_in_list: tuple[ListedResult, ...]
    only_in_evidence: tuple[ListedResult, ...]
