"""Step 3: the register. Each proof stands alone: register signature, quorum on its own checkpoint, inclusion.

The register is kept by the platform, and the platform is usually the claimant: what it says counts only as far as
witnesses of the policy have co-signed it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import checkpoint, keys, merkle, note, proof, register, signed
from protocols.evidence.bundle import Bundle
from protocols.evidence.jcs import INTEGER_MAX
from protocols.evidence.policy import Policy
from verifier.proof.announced import Announcement, Announcements
from verifier.proof.findings import NO_ENTRY, REGISTER, Findings

HELD_MAX = 256
"""Checkpoint texts of the register that are remembered: a year's bundle holds fifty thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A gateway's log as the register knows it.

    cosigned_s: earliest independent co-signature of a register checkpoint that includes this head, None if none.
    """

    index: int
    size: int
    root: bytes
    cosigned_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What an auditor of the policy demanded to be opened until `deadline_s`: devices by slot, raw data by hour."""

    index: int
    slots: tuple[int, ...]
    hours: tuple[int, ...]
    deadline_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attest:
    """An attestation about this gateway that a supervisor of the policy signed; `index`: its place in the register."""

    index: int
    slot: int
    kind: str | None
    tags: frozenset[tuple[str, str]]
    spki_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A log ends at `from_size`. cosigned_s: earliest independent co-signature in the bundle of a register checkpoint
    that includes the revocation, None if none: what was co-signed before, nobody wrote because of it.
    """

    index: int
    from_size: int
    cosigned_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kin:
    """One gateway of the enterprise, as the register names it. superseded_by: the gateways that say they follow it."""

    gateway: str
    site: str
    index: int
    supersedes: str | None
    superseded_by: tuple[str, ...]
    revoked_from: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """What the register proves about one gateway and its enterprise.

    certificate: of this gateway, signed by the platform. enrol_index: its place in the register.
    gateways: every gateway that is enrolled for this enterprise, in register order, this one among them.
    heads: of this gateway, by register index. revocation: the one with the smallest `from_size`, None if none.
    forks: pairs of checkpoints that the platform calls two histories of one log; not verified yet.
    demands: what auditors of the policy demanded of this gateway, in register order. announcements: the draws that they
    announced, from any gateway of the enterprise.
    attests: what supervisors of the policy attested of its devices, in register order.
    newest_s: newest independent co-signature time in the bundle, None if there is none.
    roots: size -> root of every register checkpoint that was accepted. cosigned: `note.digest` of every independent
    co-signature that held: the windows name the same ones.
    """

    certificate: Mapping[str, Any]
    enrol_index: int
    gateways: tuple[Kin, ...]
    heads: tuple[Head, ...]
    revocation: Revocation | None
    forks: tuple[tuple[int, tuple[str, ...]], ...]
    demands: tuple[Demand, ...]
    announcements: Announcements
    attests: tuple[Attest, ...]
    newest_s: int | None
    roots: Mapping[int, bytes]
    cosigned: Collection[bytes]

    @property
    def ends_at(self) -> int | None:
        """Number of entries that count, None without a revocation."""
        return None if self.revocation is None else self.revocation.from_size

    @property
    def demanded(self) -> frozenset[int]:
        """Slots that were demanded to be opened."""
        return frozenset(slot for demand in self.demands for slot in demand.slots)


@dataclass(slots=True)
class _Checkpoints:
    """Register checkpoints that hold. Proofs often share one with their neighbours: the last texts are not read again.

    newest_s: newest independent co-signature time; of several on one checkpoint the earliest counts.
    """

    policy: Policy
    held: dict[bytes, tuple[checkpoint.Checkpoint, int | None]] = field(default_factory=dict)
    roots: dict[int, bytes] = field(default_factory=dict)
    cosigned: set[bytes] = field(default_factory=set)
    newest_s: int | None = None
    _independent: Collection[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._independent = self.policy.independent_keys

    def verify(self, data: bytes, *, where: str) -> tuple[checkpoint.Checkpoint, int | None]:
        """Return the checkpoint and its earliest independent co-signature time (s).

        Raises: VerificationError of the note, `register.origin`, `register.quorum` or `register.split_view`.
        """
        if data in self.held:
            return self.held[data]
        key = self.policy.register
        if key is None:
            raise VerificationError(Problem.of(where, "policy.register_unknown"))
        signed_note = note.parse(data, where=where)
        head = checkpoint.parse_text(signed_note.text, where=where)
        if head.origin != key.name:
            raise VerificationError(Problem.of(where, "register.origin", origin=head.origin, expected=key.name))
        note.require_signed(signed_note, key, where=where)
        lines = note.cosignatures(signed_note, self.policy.quorum.witnesses.values(), where=where)
        if not self.policy.quorum.holds({line.public for line in lines}):
            raise VerificationError(Problem.of(
                where, "register.quorum", found=", ".join(sorted({line.name for line in lines})) or "-",
                needed=self.policy.quorum.needed))
        if self.roots.setdefault(head.size, head.root) != head.root:
            raise VerificationError(Problem.of(where, "register.split_view", size=head.size))
        if any(line.time_s > INTEGER_MAX for line in lines):
            raise VerificationError(Problem.of(where, "register.cosignature_time"))
        lines = [line for line in lines if line.public in self._independent]
        time_s = min((line.time_s for line in lines), default=None)
        if time_s is not None and (self.newest_s is None or time_s > self.newest_s):
            self.newest_s = time_s
        self.cosigned.update(note.digest(line.public, line.signature, signed_note.text, line.time_s) for line in lines)
        if len(self.held) == HELD_MAX:
            del self.held[next(iter(self.held))]
        self.held[data] = (head, time_s)
        return self.held[data]


@dataclass(frozen=True, slots=True)
class _Proven:
    """A register entry whose proof holds."""

    index: int
    value: Mapping[str, Any]
    cosigned_s: int | None

    @property
    def where(self) -> str:
        return _where(self.index)


def _where(index: int) -> str:
    return f"register/{index}.proof"


def read(bundle: Bundle, policy: Policy, gateway: str, found: Findings) -> Register | None:
    """Check every register proof of the bundle and return what they say about `gateway`.

    None, with the reason recorded, if the register does not prove that the gateway is enrolled. The policy names
    a register and a platform key.
    """
    checkpoints = _Checkpoints(policy)
    proven: dict[int, _Proven] = {}
    for index in bundle.numbered["register"]:
        entry = _read_proof(bundle, index, checkpoints, found)
        if entry is not None:
            proven[index] = entry

    certificates = _certificates(proven.values(), policy, found)
    mine = [index for index, certificate in certificates.items() if _gateway(certificate) == gateway]
    refused = set(bundle.numbered["register"]) - proven.keys()  # said already; what follows from it is not said again
    if not mine:
        if not refused:
            found.fault(REGISTER, "register.not_enrolled", "register", gateway=gateway)
        return None
    certificate = certificates[mine[0]]
    family = {i: c for i, c in certificates.items() if c["uscc"] == certificate["uscc"]}
    for index in mine[1:]:
        found.fault(REGISTER, "register.enrolled_twice", _where(index), gateway=gateway)
    for index, other in family.items():
        if other["k_sha256"] != certificate["k_sha256"]:
            found.fault(REGISTER, "register.second_k", _where(index), uscc=certificate["uscc"])

    gateways = {_gateway(c): c for c in family.values()}
    _check_chain(proven, refused, gateway, certificate["uscc"], gateways.keys(), found)
    revocations = {name: _revoked_from(proven, name, c, policy, found) for name, c in gateways.items()}
    mine_ends = revocations[gateway]
    if mine_ends is not None:
        found.remark(REGISTER, "register.revoked", _where(mine_ends.index), from_size=mine_ends.from_size)
    for name, c in gateways.items():
        if c["supersedes"] is not None and c["supersedes"] not in gateways:
            found.remark(REGISTER, "register.supersedes_unknown", "register", gateway=name, supersedes=c["supersedes"])
    return Register(
        certificate=certificate, enrol_index=mine[0], gateways=_kin(family, revocations),
        heads=tuple(Head(index=e.index, size=e.value["size"], root=bytes.fromhex(e.value["root"]),
                         cosigned_s=e.cosigned_s) for e in _of(proven, "head", gateway)),
        revocation=mine_ends,
        forks=tuple((e.index, tuple(e.value["checkpoints"])) for e in _of(proven, "fork", gateway)),
        demands=_demands(proven, gateway, policy, found),
        announcements=_announcements(proven, gateways.keys(), policy),
        attests=_attests(proven, gateway, policy, found), newest_s=checkpoints.newest_s,
        roots=checkpoints.roots, cosigned=checkpoints.cosigned)


def verify_anchor(data: bytes, policy: Policy, gateway: str) -> tuple[int, bytes]:
    """Return (size, root) of a head of `gateway` from a tlog-proof that the checker kept.

    Raises: VerificationError of the proof, or `anchor.other` if it is no head of this gateway.
    """
    parsed = proof.parse(data, where="anchor")
    _verify_inclusion(parsed, _Checkpoints(policy), where="anchor")
    value = register.decode(parsed.extra, where="anchor")
    if value["type"] != "head" or value["gateway"] != gateway:
        raise VerificationError(Problem.of("anchor", "anchor.other", gateway=gateway))
    return value["size"], bytes.fromhex(value["root"])


def _read_proof(bundle: Bundle, index: int, checkpoints: _Checkpoints, found: Findings) -> _Proven | None:
    where = _where(index)
    data = found.get(REGISTER, NO_ENTRY, bundle.read, where)
    parsed = None if data is None else found.get(REGISTER, NO_ENTRY, proof.parse, data, where=where)
    if parsed is None or not found.holds(REGISTER, NO_ENTRY, _verify_inclusion, parsed, checkpoints, where=where):
        return None
    value = found.get(REGISTER, NO_ENTRY, register.decode, parsed.extra, where=where)
    if value is None:
        return None
    if parsed.index != index:
        found.fault(REGISTER, "register.misplaced", where, index=parsed.index)
        return None
    if value["last"] >= index:
        found.fault(REGISTER, "register.last_false", where, index=index, last=value["last"])
        return None
    if value["type"] == "head":  # a year has fifty thousand of them: the words that they share are kept once
        value = {sys.intern(name): sys.intern(item) if name in ("type", "gateway") else item
                 for name, item in value.items()}
    _, cosigned_s = checkpoints.held.get(parsed.checkpoint, (None, None))
    return _Proven(index, value, cosigned_s)


def _verify_inclusion(parsed: proof.LogProof, checkpoints: _Checkpoints, *, where: str) -> None:
    """Check a proof against its own checkpoint. Size and root come from there, never from the proof."""
    head, _ = checkpoints.verify(parsed.checkpoint, where=where)
    merkle.verify_inclusion(leaf=merkle.leaf_hash(parsed.extra), index=parsed.index, size=head.size,
                            proof=parsed.hashes, root=head.root, where=where)


def _gateway(certificate: Mapping[str, Any]) -> str:
    return keys.gateway_id(bytes.fromhex(certificate["gateway_key"]))


def _certificates(entries: Iterable[_Proven], policy: Policy, found: Findings) -> dict[int, Mapping[str, Any]]:
    """Return register index -> certificate of every `enrol` that the platform key signed, ascending."""
    signers = {policy.platform} if policy.platform is not None else set()
    result: dict[int, Mapping[str, Any]] = {}
    for entry in entries:
        if entry.value["type"] != "enrol":
            continue
        certificate = entry.value["certificate"]
        if found.holds(REGISTER, NO_ENTRY, _verify_certificate, certificate, signers, where=entry.where):
            result[entry.index] = certificate
    return result


def _verify_certificate(certificate: Mapping[str, Any], signers: Collection[str], *, where: str) -> None:
    signed.verify("certificate", certificate, signers=signers, where=where)
    for name in ("gateway_key", "recovery_key"):
        keys.check_public(bytes.fromhex(certificate[name]), where=where)


def _of(proven: Mapping[int, _Proven], kind: str, gateway: str) -> list[_Proven]:
    return [e for _, e in sorted(proven.items())
            if e.value["type"] == kind and register.gateway_of(e.value) == gateway]


def _check_chain(proven: Mapping[int, _Proven], refused: Collection[int], gateway: str, uscc: str,
                 family: Iterable[str], found: Findings) -> None:
    """Every entry about this enterprise that is no head, from the newest head down, must be in the bundle.

    So a second gateway, a revocation or an attestation cannot be left out. A register that lies in `last` is found
    by whoever holds it whole; that limit is printed.
    """
    heads = _of(proven, "head", gateway)
    if not heads:
        if not refused:
            found.fault(REGISTER, "register.no_head", "register", gateway=gateway)
        return
    chain: list[int] = []
    at = heads[-1].value["last"]
    while at != -1:
        if at not in proven:
            if at not in refused:
                found.fault(REGISTER, "register.chain_broken", _where(at), index=at)
            return
        chain.append(at)
        at = proven[at].value["last"]  # smaller than `at`: checked with the proof
    chain.reverse()

    known = set(family)
    for index, entry in sorted(proven.items()):
        kind, last = entry.value["type"], entry.value["last"]
        if kind not in register.SHAPES:
            found.remark(REGISTER, "register.unknown_type", entry.where, type=kind)
            continue
        ours = entry.value["certificate"]["uscc"] == uscc if kind == "enrol" \
            else register.gateway_of(entry.value) in known
        if not ours and index not in chain:
            found.remark(REGISTER, "register.unrelated", entry.where)
            continue
        # Beyond the newest head entries may follow that no chain in this bundle reaches: they are used all the same.
        reached = kind != "head" and (index in chain or index > heads[-1].index)
        previous = max((i for i in chain if i < index), default=-1)
        linked = kind == "head" and (index > heads[-1].index or last == previous)
        if not ours or not (reached or linked):
            found.fault(REGISTER, "register.last_false", entry.where, index=index, last=last)


def _kin(family: Mapping[int, Mapping[str, Any]], revocations: Mapping[str, Revocation | None]) -> tuple[Kin, ...]:
    """Return every gateway of the enterprise, in register order. A gateway that was enrolled twice stands once."""
    first: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for index, certificate in sorted(family.items()):
        first.setdefault(_gateway(certificate), (index, certificate))
    result = []
    for name, (index, certificate) in first.items():
        ends = revocations[name]
        result.append(Kin(
            gateway=name, site=certificate["site"], index=index, supersedes=certificate["supersedes"],
            superseded_by=tuple(other for other, (_, c) in first.items() if c["supersedes"] == name),
            revoked_from=None if ends is None else ends.from_size))
    return tuple(result)


def _revoked_from(proven: Mapping[int, _Proven], gateway: str, certificate: Mapping[str, Any], policy: Policy,
                  found: Findings) -> Revocation | None:
    """Return where a log ends: the smallest `from_size` that recovery or platform key signed. Others are faults."""
    signers = {certificate["recovery_key"]} | ({policy.platform} if policy.platform is not None else set())
    ends = []
    for entry in _of(proven, "revoke", gateway):
        revocation = entry.value["revocation"]
        if found.holds(REGISTER, NO_ENTRY, signed.verify, "revocation", revocation, signers=signers,
                       where=entry.where):
            ends.append(Revocation(index=entry.index, from_size=revocation["from_size"], cosigned_s=entry.cosigned_s))
    return min(ends, key=lambda r: (r.from_size, r.index), default=None)


def _demands(proven: Mapping[int, _Proven], gateway: str, policy: Policy, found: Findings) -> tuple[Demand, ...]:
    """Return what auditors of the policy demanded. Who demands nothing announces a draw."""
    return tuple(
        Demand(index=index, slots=tuple(d["slots"]), hours=tuple(d["hours"]), deadline_s=d["deadline_s"])
        for index, d in _signed(proven, "demand", "demand", gateway, policy.auditors, found) if _asks(d))


def _announcements(proven: Mapping[int, _Proven], family: Iterable[str], policy: Policy) -> Announcements:
    """Return the draws that auditors of the policy announced.

    A signature that does not hold is told with the demands of the gateway that it is about.
    """
    result = []
    for gateway in family:
        for entry in _of(proven, "demand", gateway):
            said = entry.value["demand"]
            if _asks(said) or said["key"] not in policy.auditors:
                continue
            try:
                signed.verify("demand", said, signers=policy.auditors, where=entry.where)
            except VerificationError:
                continue
            result.append(Announcement(index=entry.index, gateway=gateway, instant_s=said["deadline_s"],
                                       cosigned_s=entry.cosigned_s))
    return Announcements(said=tuple(sorted(result, key=lambda a: a.index)), family=frozenset(family))


def _asks(demand: Mapping[str, Any]) -> bool:
    """Return whether something is to be opened."""
    return bool(demand["slots"] or demand["hours"])


def _attests(proven: Mapping[int, _Proven], gateway: str, policy: Policy, found: Findings) -> tuple[Attest, ...]:
    """Return what supervisors of the policy attested."""
    return tuple(
        Attest(index=index, slot=a["slot"], kind=a["kind"], spki_sha256=a["server_spki_sha256"],
               tags=frozenset((tag["scheme"], tag["tag"]) for tag in a["tags"]))
        for index, a in _signed(proven, "attest", "attestation", gateway, policy.supervisors, found))


def _signed(proven: Mapping[int, _Proven], kind: str, field_name: str, gateway: str, signers: Collection[str],
            found: Findings) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (register index, statement) of those that `signers` signed.

    A signer that the policy does not know proves nothing, a remark; a signature that does not hold is a fault.
    """
    for entry in _of(proven, kind, gateway):
        statement = entry.value[field_name]
        if statement["key"] not in signers:
            found.remark(REGISTER, "register.unknown_signer", entry.where, kind=kind, key=statement["key"])
        elif found.holds(REGISTER, NO_ENTRY, signed.verify, field_name, statement, signers=signers,
                         where=entry.where):
            yield entry.index, statement
