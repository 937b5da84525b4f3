"""What the platform answers, verified and kept: proofs of the register, and the newest `seen`.

Of the heads of this gateway are kept: the first in every ten minutes, the first after each outage, and the newest.
Leaving heads out only makes the time before which a window must have been sealed later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.sealing.journal import Journal
from gateway.sealing.sealer import Event
from protocols.errors import Problem, VerificationError
from protocols.evidence import checkpoint, keys, merkle, note, policy, proof, register, signed
from protocols.evidence.encoding import to_base64
from protocols.evidence.jcs import INTEGER_MAX
from protocols.evidence.statement import TYPES

FOLDER = "register"
KEEP_EVERY_S = 600
RECEIPTS_BYTES_MAX = 256 * 1024 * 1024
"""Beyond it the oldest heads go; the rest of the chain stays, and so do all entries."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom this gateway believes, told once at enrolment: register, platform key, witnesses."""

    register: note.VerifierKey
    platform: str
    quorum: policy.Quorum
    independent: frozenset[str]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Trust:
        """Read an ENROL_ANSWER. Raises VerificationError `vkey.malformed` or of the witness policy."""
        where = "enrolment"
        return cls(note.parse_verifier_key(answer["register"], where=where), answer["platform"],
                   policy.parse_quorum(answer["witnesses"], where=where), frozenset(answer["independent"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """An auditor's demand about this gateway: devices by slot, raw data by the first second of the hour.

    Without either, a draw is announced: the first independent co-signature after `deadline_s` draws it.
    key: who signed it (64 hex); whether that is an auditor, each checker's policy says.
    """

    index: int
    key: str
    slots: tuple[int, ...]
    hours: tuple[int, ...]
    deadline_s: int


@dataclass(frozen=True, slots=True)
class _Head:
    """last: as the entry says. repeat: of the size of the head before it, as something was said meanwhile."""

    index: int
    size: int
    last: int
    time_s: int
    kept: bool
    repeat: bool = False


class Receipts:
    """The proofs of one gateway. Methods block on the disk; one thread at a time."""

    def __init__(self, journal: Journal, gateway: str, trust: Trust, event: Event, *,
                 bytes_max: int = RECEIPTS_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._journal = journal
        self._disk = journal.disk
        self._gateway = gateway
        self._trust = trust
        self._event = event
        self.seen: Mapping[str, Any] | None = None
        self._indexes = {int(name.removesuffix(".proof")) for name in self._disk.names(FOLDER)}
        self._bytes = sum(self._disk.size(_path(index)) for index in self._indexes)
        self._newest: _Head | None = None
        self._complete = 0
        self._complete_index = -1
        self._chain: dict[int, dict[str, Any]] = {}  # entries that are no heads, as far as the newest chain led to them
        for index in sorted(self._indexes, reverse=True):
            try:
                value = register.decode(self._proof(index).extra, where=_path(index))
            except VerificationError as error:  # damaged: the platform will be asked for it again
                self._event("sealing.proof_refused", _path(index), reason=error.problems[0].code)
                self._indexes.discard(index)
                continue
            if value["type"] == "head":
                self._newest = _Head(index, value["size"], value["last"], 0, True)
                self._note_complete(self._newest)
                break

    @property
    def demands(self) -> list[Demand]:
        """What was demanded of this gateway, in register order."""
        values = [(index, value["demand"]) for index, value in sorted(self._chain.items())
                  if self._is_ours(value, "demand")]
        return [Demand(index=index, key=value["key"], slots=tuple(value["slots"]), hours=tuple(value["hours"]),
                       deadline_s=value["deadline_s"]) for index, value in values]

    @property
    def revoked_from(self) -> int | None:
        """Where the log of this gateway ends, None if nobody revoked its key."""
        return min((value["revocation"]["from_size"] for value in list(self._chain.values())
                    if self._is_ours(value, "revocation")), default=None)

    @property
    def proven(self) -> int:
        """Size that the newest co-signed head covers, 0 while none is kept or its chain has a hole."""
        return self._complete

    def take(self, proofs: list[bytes], register_checkpoint: bytes | None, *, now_s: int) -> None:
        """Verify and keep what the platform sent; what does not verify is told by an event and not kept.

        Raises: OSError.
        """
        for data in proofs:
            try:
                self._take_proof(data, now_s)
            except VerificationError as error:
                self._event("sealing.proof_refused", "register", reason=error.problems[0].code)
        if register_checkpoint is not None:
            try:
                self._take_seen(register_checkpoint)
            except VerificationError as error:
                self._event("sealing.proof_refused", "register", reason=error.problems[0].code)
        newest = self._newest
        if newest is not None and self._complete_index != newest.index:
            self._note_complete(newest)

    def _take_proof(self, data: bytes, now_s: int) -> None:
        where = "register proof"
        parsed = proof.parse(data, where=where)
        value = register.decode(parsed.extra, where=where)
        head, cosigned = self._verify_checkpoint(parsed.checkpoint, where)
        merkle.verify_inclusion(leaf=merkle.leaf_hash(parsed.extra), index=parsed.index, size=head.size,
                                proof=parsed.hashes, root=head.root, where=where)
        if parsed.index in self._indexes:
            return
        if value["type"] == "head":
            if value["gateway"] != self._gateway:
                return
            if value["size"] > self._journal.size or \
                    self._journal.tree.root(value["size"]).hex() != value["root"]:
                # Somebody else seals with our key, or our journal was set back: a person must look.
                self._event("sealing.head_differs", where, size=value["size"])
                return
            times = [c.time_s for c in cosigned if c.public in self._independent]
            self._keep_head(parsed.index, value, min(times, default=now_s), data)
        else:
            self._store(parsed.index, data)
            self._tell(parsed.index, value)

    def _tell(self, index: int, value: Mapping[str, Any]) -> None:
        """Tell once what somebody said about this gateway that its people have to act on."""
        if self._is_ours(value, "demand"):
            demand = value["demand"]
            if not demand["slots"] and not demand["hours"]:
                self._event("statements.announced", f"register {index}", instant=_local(demand["deadline_s"]),
                            key=demand["key"])
                return
            self._event("statements.demanded", f"register {index}", slots=len(demand["slots"]),
                        hours=len(demand["hours"]), deadline=_local(demand["deadline_s"]), key=demand["key"])
        elif self._is_ours(value, "revocation"):
            self._event("statements.own_key_revoked", f"register {index}",
                        from_size=value["revocation"]["from_size"])

    def _is_ours(self, value: Mapping[str, Any], kind: str) -> bool:
        """Return whether a register entry is a statement of this kind about this gateway, signed by who it says."""
        said = value.get(kind)
        if not isinstance(said, dict) or value["type"] != TYPES[kind][0] or said["gateway"] != self._gateway:
            return False
        try:
            signed.verify(kind, said, signers={said["key"]}, where="register")
        except VerificationError:
            return False
        return True

    def _keep_head(self, index: int, head: Mapping[str, Any], time_s: int, data: bytes) -> None:
        newest, size = self._newest, head["size"]
        if newest is not None and (size < newest.size or index <= newest.index):
            return
        repeat = newest is not None and size == newest.size
        kept = newest is None or newest.time_s // KEEP_EVERY_S != time_s // KEEP_EVERY_S or \
            newest.size <= self._journal.history.outage < size
        self._store(index, data)
        # The first head of a size stays beside its repeats: it proves an earlier time.
        if newest is not None and not newest.kept and (newest.repeat or not repeat):
            self._disk.remove(_path(newest.index))
            self._indexes.discard(newest.index)
        self._newest = _Head(index, size, head["last"], time_s, kept, repeat)
        self._thin()

    def _store(self, index: int, data: bytes) -> None:
        self._disk.replace(_path(index), data)
        self._indexes.add(index)
        self._bytes += len(data)

    def _thin(self) -> None:
        """Let the oldest heads go while the receipts are beyond their budget."""
        newest = self._newest
        for index in sorted(self._indexes):
            if self._bytes <= self.bytes_max or newest is None or index == newest.index:
                return
            try:
                kind = register.decode(self._proof(index).extra, where=_path(index))["type"]
            except VerificationError:  # damaged, or taken away by a `bundle` that ran beside us
                kind = "head"
            if kind == "head":
                self._bytes -= self._disk.size(_path(index))
                self._disk.remove(_path(index))
                self._indexes.discard(index)

    def _take_seen(self, data: bytes) -> None:
        head, cosigned = self._verify_checkpoint(data, "register checkpoint")
        if self.seen is not None and self.seen["size"] == head.size and self.seen["root"] != head.root.hex():
            raise VerificationError(Problem.of("register checkpoint", "sealing.register_split", size=head.size))
        names = self._independent
        usable = [c for c in cosigned if c.public in names and c.time_s <= INTEGER_MAX]
        if not usable or not head.size:
            return
        newest = max(usable, key=lambda c: c.time_s)
        if self.seen is None or (head.size, newest.time_s) > (self.seen["size"], self.seen["time_s"]):
            self.seen = {"size": head.size, "root": head.root.hex(), "witness": names[newest.public],
                         "time_s": newest.time_s, "signature": to_base64(newest.signature)}

    @property
    def _independent(self) -> dict[bytes, str]:
        return {key.public: name for name, key in self._trust.quorum.witnesses.items()
                if name in self._trust.independent}

    def _verify_checkpoint(self, data: bytes, where: str) -> tuple[checkpoint.Checkpoint, list[note.Cosignature]]:
        signed = note.parse(data, where=where)
        head = checkpoint.parse_text(signed.text, where=where)
        if head.origin != self._trust.register.name:
            raise VerificationError(Problem.of(where, "sealing.other_register", origin=head.origin))
        note.require_signed(signed, self._trust.register, where=where)
        cosigned = note.cosignatures(signed, self._trust.quorum.witnesses.values(), where=where)
        if not self._trust.quorum.holds({c.public for c in cosigned}):
            raise VerificationError(Problem.of(where, "sealing.no_quorum"))
        return head, cosigned

    def _proof(self, index: int) -> proof.LogProof:
        return proof.parse(self._disk.read(_path(index)) or b"", where=_path(index))

    def _note_complete(self, head: _Head) -> None:
        """Note the size of `head` if every entry of its chain is kept, and the enrolment of this gateway is in it."""
        enrolled, at = False, head.last
        while at >= 0:
            value = self._chained(at)
            if value is None:
                return
            if value["type"] == "enrol":
                enrolled |= keys.gateway_id(bytes.fromhex(value["certificate"]["gateway_key"])) == self._gateway
            if value["last"] >= at:
                return
            at = value["last"]
        if enrolled:
            self._complete, self._complete_index = head.size, head.index

    def _chained(self, index: int) -> dict[str, Any] | None:
        """Return an entry of the chain, None if it is not kept, or damaged: then the platform will be asked again."""
        if index not in self._chain and index in self._indexes:
            try:
                self._chain[index] = register.decode(self._proof(index).extra, where=_path(index))
            except VerificationError as error:
                self._event("sealing.proof_refused", _path(index), reason=error.problems[0].code)
                self._indexes.discard(index)
        return self._chain.get(index)


def _local(time_s: int) -> str:
    """Return a time with its zone; one that no calendar has as its number."""
    try:
        return datetime.fromtimestamp(time_s).astimezone().isoformat(sep=" ")
    except (ValueError, OverflowError, OSError):
        return f"{time_s} s"


def _path(index: int) -> str:
    return f"{FOLDER}/{index}.proof"
