"""What the platform checks before it stores: every entry that a gateway submits, against all that came before it.

Pure: state and bytes in, new state and what is to be stored out, or a VerificationError that names the cause. The
whole-bundle verifier in `verifier/proof` is a second reader of the same rules; nothing here is needed to trust a
bundle. Left to that verifier: time (`seen`, brackets) and probes.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import column, entry, keys, note, signed
from protocols.evidence.checkpoint import SIZE_MAX, Checkpoint, parse_text
from protocols.evidence.merkle import leaf_hash
from protocols.evidence.tiles import Tile
from verifier.platform.edge import Edge
from verifier.platform.roster import Roster, apply_rows

_PLAIN_CHECKPOINT = re.compile(
    rb"([^\n]+)\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)\n"
    rb"\n\xe2\x80\x94 ([^ \n]+) ([A-Za-z0-9+/]{90}[AEIMQUYcgkosw048]=)\n")
"""Origin, size, root; an empty line; a dash, the name, and 68 bytes: key id and signature. Base64 in its one form."""
OVERLAPPING = ("clock_back", "clone")
"""An outage with one of these reasons may end, and the next window start, before the last window ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """One gateway's log as far as it was accepted. Times are seconds; `None` means: not seen yet.

    `certificate` is what the register's `enrol` holds. `key_history`: (first entry that the key signs for, public
    key). `window_seq`: the last window; `window_end_s`: its end; `resume_s`: where the next one must start, past any
    outage.
    """

    gateway: str
    certificate: Mapping[str, Any]
    key_history: tuple[tuple[int, bytes], ...]
    edge: Edge = field(default_factory=Edge)
    life: int = -1
    len_s: int | None = None
    roster_seq: int | None = None
    roster: Roster = field(default_factory=Roster)
    window_end_s: int | None = None
    resume_s: int | None = None
    window_seq: int | None = None

    @property
    def size(self) -> int:
        """Number of entries accepted."""
        return self.edge.size

    def key_at(self, size: int) -> note.VerifierKey:
        """Return the key that signs a checkpoint of `size`: the last one that entered before it."""
        public = next(key for first, key in reversed(self.key_history) if first < size or first == 0)
        return note.VerifierKey(keys.gateway_origin(self.gateway), note.ED25519, public)


@dataclass(slots=True)
class _Growing:
    """A state that a batch goes through, fields as above; nothing of it is seen before the whole batch holds."""

    gateway: str
    certificate: Mapping[str, Any]
    key_history: tuple[tuple[int, bytes], ...]
    edge: Edge
    life: int
    len_s: int | None
    roster_seq: int | None
    roster: Roster
    window_seq: int | None
    window_end_s: int | None
    resume_s: int | None

    @staticmethod
    def of(state: LogState) -> _Growing:
        return _Growing(state.gateway, state.certificate, state.key_history, state.edge, state.life, state.len_s,
                        state.roster_seq, state.roster, state.window_seq, state.window_end_s, state.resume_s)

    def grown(self) -> LogState:
        return LogState(
            gateway=self.gateway, certificate=self.certificate, key_history=self.key_history, edge=self.edge,
            life=self.life, len_s=self.len_s, roster_seq=self.roster_seq, roster=self.roster,
            window_seq=self.window_seq, window_end_s=self.window_end_s, resume_s=self.resume_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A batch that holds.

    `tiles`: hash tiles that became full. `rosters`: seq -> the rows that changed. `new_keys`: rotated in.
    """

    state: LogState
    first: int
    entries: tuple[bytes, ...]
    checkpoint: bytes
    head: Checkpoint
    tiles: tuple[tuple[Tile, bytes], ...]
    rosters: Mapping[int, str]
    new_keys: tuple[bytes, ...]


def first_state(certificate: Mapping[str, Any]) -> LogState:
    """Return the state of a gateway that was enrolled and has submitted nothing."""
    public = bytes.fromhex(certificate["gateway_key"])
    return LogState(gateway=keys.gateway_id(public), certificate=certificate, key_history=((0, public),))


def read_checkpoint(data: bytes, state: LogState) -> tuple[Checkpoint, note.Note]:
    """Parse a checkpoint of this gateway; its signature is checked by `require_signed` when the key is known.

    Raises: VerificationError of notes, or `intake.origin`.
    """
    return _read_plain(data, keys.gateway_origin(state.gateway)) or _read_any(data, state)


def _read_plain(data: bytes, origin: str) -> tuple[Checkpoint, note.Note] | None:
    """Read a checkpoint of `origin` with one signature, by `origin`: as gateways send them. None says nothing."""
    match = _PLAIN_CHECKPOINT.fullmatch(data)
    if match is None:
        return None
    named, size, root, signer, blob = match.groups()
    if not named == signer == origin.encode() or int(size) > SIZE_MAX:
        return None
    whole = binascii.a2b_base64(blob)
    text = data[: match.end(3) + 1].decode()
    return (Checkpoint(origin, int(size), binascii.a2b_base64(root)),
            note.Note(text, (note.Signature(origin, whole[:4], whole[4:]),)))


def _read_any(data: bytes, state: LogState) -> tuple[Checkpoint, note.Note]:
    signed_note = note.parse(data, where="checkpoint")
    head = parse_text(signed_note.text, where="checkpoint")
    if head.origin != keys.gateway_origin(state.gateway):
        raise VerificationError(Problem.of("checkpoint", "intake.origin", origin=head.origin[:100]))
    return head, signed_note


class RootDiffersError(VerificationError):
    """The entries are sound, yet together with what is stored they do not give the checkpoint's root."""


def accept(state: LogState, first: int, entries: Sequence[bytes], checkpoint: bytes, rosters: Mapping[int, str]
           ) -> Accepted:
    """Check that `entries` continue the log of `state` and that `checkpoint` covers exactly them.

    `rosters`: the changed rows of every `roster` entry among them. Raises: VerificationError; RootDiffersError.
    """
    if first != state.size or not entries:
        raise VerificationError(Problem.of("first", "intake.not_contiguous", first=first, size=state.size))
    head, signed_note = read_checkpoint(checkpoint, state)
    if head.size != first + len(entries):
        raise VerificationError(Problem.of("checkpoint", "intake.checkpoint_size", size=head.size,
                                           expected=first + len(entries)))
    after, used, new_keys = _Growing.of(state), dict[int, str](), []
    tiles: list[tuple[Tile, bytes]] = []
    leaves: list[bytes] = []
    for offset, data in enumerate(entries):
        seq = first + offset
        value = entry.decode(data, seq=seq)
        kind = value["type"]
        if kind == "roster":
            used[seq] = _roster(after, value, rosters, entry.name(seq))
        elif kind == "key":  # it names the root of what is before it
            after.edge, full = after.edge.grow(leaves)
            tiles += full
            leaves.clear()
        _step(after, value)
        if kind == "key":
            new_keys.append(bytes.fromhex(value["rotation"]["new_key"]))
        leaves.append(leaf_hash(data))
    after.edge, full = after.edge.grow(leaves)
    tiles += full
    if rosters.keys() - used.keys():
        raise VerificationError(Problem.of("rosters", "intake.roster_unasked", seq=min(rosters.keys() - used.keys())))
    grown = after.grown()
    # The key may have changed within this batch, so the signature comes last; nothing was stored so far.
    note.require_signed(signed_note, grown.key_at(head.size), where="checkpoint")
    if grown.edge.root() != head.root:
        raise RootDiffersError(Problem.of("checkpoint", "intake.root", size=head.size))
    return Accepted(state=grown, first=first, entries=tuple(entries), checkpoint=checkpoint, head=head,
                    tiles=tuple(tiles), rosters=used, new_keys=tuple(new_keys))


def _step(state: _Growing, value: Mapping[str, Any]) -> None:
    """Let one entry change the state, all but its edge. Raises VerificationError."""
    seq, kind = value["seq"], value["type"]
    where = entry.name(seq)
    if value["gateway"] != state.gateway:
        raise VerificationError(Problem.of(where, "intake.other_gateway", gateway=value["gateway"]))
    if value["life"] != state.life:
        raise VerificationError(Problem.of(where, "intake.life", life=value["life"], expected=state.life))
    if (kind == "enrolment") != (seq == 0) or (seq == 1 and kind != "start"):
        raise VerificationError(Problem.of(where, "intake.order", type=kind))
    match kind:
        case "enrolment":
            if value["certificate"] != state.certificate:
                raise VerificationError(Problem.of(where, "intake.certificate"))
        case "start":
            if 3600 % value["rule"]["len_s"]:
                raise VerificationError(Problem.of(where, "intake.len", len_s=value["rule"]["len_s"]))
            state.len_s = value["rule"]["len_s"]
        case "window":
            _window(state, value, where)
        case "outage":
            _outage(state, value, where)
        case "key":
            _key(state, value, where)
    if kind in entry.LIFE_TYPES:
        state.life = seq


def _roster(state: _Growing, value: Mapping[str, Any], rosters: Mapping[int, str], where: str) -> str:
    """Put the new roster in force; return the rows that changed it."""
    rows = rosters.get(value["seq"])
    if rows is None:
        raise VerificationError(Problem.of(where, "intake.roster_missing"))
    after, changing = apply_rows(state.roster, rows, where=f"roster/{value['seq']}")
    after.check_roots(value, where=where)
    state.roster, state.roster_seq = after, value["seq"]
    return changing


def _window(state: _Growing, value: Mapping[str, Any], where: str) -> None:
    start_s, len_s = value["start_s"], value["len_s"]
    if len_s != state.len_s or start_s % len_s:
        raise VerificationError(Problem.of(where, "intake.window_grid", start_s=start_s, len_s=len_s))
    if state.roster_seq is None or value["roster"] != state.roster_seq:
        raise VerificationError(Problem.of(where, "intake.window_roster", roster=value["roster"]))
    if state.resume_s not in (None, start_s):
        raise VerificationError(Problem.of(where, "intake.window_gap", start_s=start_s, expected=state.resume_s))
    samples = value["samples"]
    if samples["received"] != samples["counted"] + sum(samples["discarded"].values()):
        raise VerificationError(Problem.of(where, "intake.conservation"))
    _columns(state.roster, value["columns"], where)
    state.window_seq = value["seq"]
    state.window_end_s = state.resume_s = start_s + len_s


def _columns(roster: Roster, columns: Mapping[str, str], where: str) -> None:
    """Lengths, tombstones, nesting. Raises VerificationError."""
    bits: dict[str, int] = {}
    for name in column.NAMES:
        slots, alive = (len(roster.devices), roster.alive_devices) if name == "connected" else (
            len(roster.owners), roster.alive_points)
        value = column.bits_of(columns[name], slots)  # its base64 was looked at with the shape of the entry
        if value is None:
            value = column.unpack(columns[name], slots, where=where, name=name)
        if value | alive != alive:
            raise VerificationError(Problem.of(where, "intake.tombstone", name=name))
        bits[name] = value
    for inner, outer in (("changing", "producing"), ("producing", "sampled")):
        if bits[inner] | bits[outer] != bits[outer]:
            raise VerificationError(Problem.of(where, "intake.nesting", inner=inner, outer=outer))
    silent = ((1 << len(roster.devices)) - 1) & ~bits["connected"]
    if silent and bits["producing"] & roster.points_of(silent):
        raise VerificationError(Problem.of(where, "intake.nesting", inner="producing", outer="connected"))


def _outage(state: _Growing, value: Mapping[str, Any], where: str) -> None:
    start_s, end_s = value["start_s"], value["end_s"]
    if state.window_end_s is not None and start_s not in (state.resume_s, state.window_end_s):
        raise VerificationError(Problem.of(where, "intake.outage_start", start_s=start_s, expected=state.resume_s))
    if end_s < start_s and value["reason"] not in OVERLAPPING:
        raise VerificationError(Problem.of(where, "intake.outage_end", start_s=start_s, end_s=end_s))
    if state.len_s and value["missing"]["windows"] != max(-(-(end_s - start_s) // state.len_s), 0):
        raise VerificationError(Problem.of(where, "intake.outage_windows", windows=value["missing"]["windows"]))
    state.resume_s = end_s


def _key(state: _Growing, value: Mapping[str, Any], where: str) -> None:
    rotation, seq = value["rotation"], value["seq"]
    current = state.key_history[-1][1]
    signed.verify("rotation", rotation, signers=[current.hex()], where=where)
    if (rotation["gateway"], rotation["seq"], rotation["root"]) != (state.gateway, seq, state.edge.root().hex()):
        raise VerificationError(Problem.of(where, "intake.rotation"))
    new = keys.check_public(bytes.fromhex(rotation["new_key"]), where=where)
    if any(new == key for _, key in state.key_history):
        raise VerificationError(Problem.of(where, "intake.key_again"))
    state.key_history = (*state.key_history, (seq, new))
