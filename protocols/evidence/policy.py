"""Whom the checker trusts: one JSON file from outside the bundle, and the quorum of witnesses in it.

    {register: vkey, platform: key, witnesses: tlog-policy text, independent: [names], supervisors: [keys],
     auditors: [keys], assessors: [keys], maker_cas: [certificates], gateways: [vkeys]}

Absent fields mean empty. The quorum counts distinct keys: one key under two names is refused, because key ids differ
by type and prove nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from protocols.errors import Problem, VerificationError
from protocols.evidence import jcs, keys, note
from protocols.evidence.shape import Base64, Hex, ListOf, Object, Shape, Text, require
from protocols.evidence.tiles import ENTRY_BYTES_MAX

POLICY_BYTES_MAX = 16 * ENTRY_BYTES_MAX
MEMBERS_MAX = 1000
WITNESSES_MAX = GROUPS_MAX = 256
"""tlog-policy asks for 32 of each at least. Groups nest, and nobody should be able to nest them without end."""
_VKEY = Text(400)

FIELDS: Mapping[str, Shape] = {
    "register": _VKEY, "platform": Hex(32), "witnesses": Text(64 * 1024), "independent": ListOf(Text(), MEMBERS_MAX),
    "supervisors": ListOf(Hex(32), MEMBERS_MAX), "auditors": ListOf(Hex(32), MEMBERS_MAX),
    "assessors": ListOf(Hex(32), MEMBERS_MAX), "maker_cas": ListOf(Base64(), MEMBERS_MAX),
    "gateways": ListOf(_VKEY, 10 * MEMBERS_MAX),
}


@dataclass(frozen=True, slots=True)
class Group:
    """`threshold` of `members` (witness or group names) must have co-signed."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quorum:
    """A parsed tlog-policy. `needed` is a witness or group name, None for `quorum none`."""

    log: note.VerifierKey | None = None
    witnesses: Mapping[str, note.VerifierKey] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    needed: str | None = None

    def holds(self, signers: Collection[bytes]) -> bool:
        """Return whether the witnesses whose raw keys are in `signers` fulfil the quorum."""
        return self.needed is None or self._met(self.needed, signers)

    def _met(self, name: str, signers: Collection[bytes]) -> bool:
        if name in self.witnesses:
            return self.witnesses[name].public in signers
        group = self.groups[name]
        return sum(self._met(member, signers) for member in group.members) >= group.threshold


@dataclass(frozen=True, slots=True)
class Policy:
    """The trust of one checker. Keys are lowercase hex; `gateways`: first keys of plants without a platform."""

    register: note.VerifierKey | None
    platform: str | None
    quorum: Quorum
    independent: frozenset[str]
    gateways: Mapping[str, note.VerifierKey]
    supervisors: frozenset[str] = frozenset()
    auditors: frozenset[str] = frozenset()
    assessors: frozenset[str] = frozenset()
    maker_cas: tuple[str, ...] = ()

    @property
    def independent_keys(self) -> dict[bytes, str]:
        """Raw key -> name of every witness that the policy calls independent."""
        return {key.public: name for name, key in self.quorum.witnesses.items() if name in self.independent}


def parse(data: bytes, *, where: str) -> Policy:
    """Parse a policy file. Raises VerificationError, every problem that was found at once where possible."""
    raw = jcs.parse(data, where=where, bytes_max=POLICY_BYTES_MAX)
    present = {name: shape for name, shape in FIELDS.items() if isinstance(raw, dict) and name in raw}
    require(Object(present), raw, where=where)

    register = note.parse_verifier_key(raw["register"], where=f"{where} register") if "register" in raw else None
    quorum = parse_quorum(raw.get("witnesses", ""), where=f"{where} witnesses")
    if (quorum.log or register) and quorum.log != register:
        raise VerificationError(Problem.of(f"{where} witnesses", "policy.log_differs"))
    unknown = [name for name in raw.get("independent", []) if name not in quorum.witnesses]
    if unknown:
        raise VerificationError([Problem.of(f"{where} independent", "policy.unknown_name", name=n) for n in unknown])
    gateways: dict[str, note.VerifierKey] = {}
    for line in raw.get("gateways", []):
        key = note.parse_verifier_key(line, where=f"{where} gateways")
        gateway = keys.gateway_id(key.public)
        if key.name != keys.gateway_origin(gateway):
            raise VerificationError(Problem.of(f"{where} gateways", "policy.gateway_name", name=key.name))
        gateways[gateway] = key
    return Policy(
        register=register, platform=raw.get("platform"), quorum=quorum,
        independent=frozenset(raw.get("independent", [])), gateways=gateways,
        supervisors=frozenset(raw.get("supervisors", [])), auditors=frozenset(raw.get("auditors", [])),
        assessors=frozenset(raw.get("assessors", [])), maker_cas=tuple(raw.get("maker_cas", [])))


def parse_quorum(text: str, *, where: str) -> Quorum:
    """Parse a tlog-policy: `log`, `witness`, `group` and exactly one `quorum` line, names before their use.

    The empty text is the policy without a log. Narrower than the specification in one thing: there is one log, the
    register. Raises: VerificationError `policy.line`, `policy.characters`, `policy.duplicate_key`,
    `policy.name_used_twice`, `policy.unknown_name` or `policy.quorum_lines`.
    """
    if any((c < " " and c not in "\t\n") or c == "\x7f" for c in text):
        raise VerificationError(Problem.of(where, "policy.characters"))
    log: note.VerifierKey | None = None
    witnesses: dict[str, note.VerifierKey] = {}
    groups: dict[str, Group] = {}
    grouped: set[str] = set()
    quorums: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        # Space and tab only: which other characters are white space depends on the version of Unicode.
        words = [word for word in line.replace("\t", " ").split(" ") if word]
        at = f"{where} line {number}"
        if len(witnesses) > WITNESSES_MAX or len(groups) > GROUPS_MAX:
            raise VerificationError(Problem.of(at, "policy.line", line=line[:80]))
        match words:
            case []:
                continue
            case [first, *_] if first.startswith("#"):
                continue
            case ["log", vkey, *rest] if log is None and len(rest) <= 1:
                log = note.parse_verifier_key(vkey, where=at)
                if log.kind != note.ED25519:
                    raise VerificationError(Problem.of(at, "policy.line", line=line[:80]))
            case ["witness", name, vkey, *rest] if len(rest) <= 1:
                key = note.parse_verifier_key(vkey, where=at)
                if key.kind != note.COSIGNATURE_V1:
                    raise VerificationError(Problem.of(at, "policy.line", line=line[:80]))
                if any(key.public == other.public for other in witnesses.values()):
                    raise VerificationError(Problem.of(at, "policy.duplicate_key", name=name))
                if name in witnesses or name in groups or name == "none":
                    raise VerificationError(Problem.of(at, "policy.name_used_twice", name=name))
                witnesses[name] = key
            case ["group", name, count, *members] if members:
                for member in members:
                    if member not in witnesses and member not in groups:
                        raise VerificationError(Problem.of(at, "policy.unknown_name", name=member))
                    if member in grouped:
                        raise VerificationError(Problem.of(at, "policy.name_used_twice", name=member))
                    grouped.add(member)
                if name in witnesses or name in groups or name == "none":
                    raise VerificationError(Problem.of(at, "policy.name_used_twice", name=name))
                threshold = {"any": 1, "all": len(members)}.get(count) or (
                    int(count) if count.isascii() and count.isdigit() and count[0] != "0" and len(count) < 5 else 0)
                if not 1 <= threshold <= len(members):
                    raise VerificationError(Problem.of(at, "policy.line", line=line[:80]))
                groups[name] = Group(threshold, tuple(members))
            case ["quorum", name]:
                if name != "none" and name not in witnesses and name not in groups:
                    raise VerificationError(Problem.of(at, "policy.unknown_name", name=name))
                quorums.append(name)
            case _:
                raise VerificationError(Problem.of(at, "policy.line", line=line[:80]))
    if not text:
        return Quorum()
    if len(quorums) != 1:
        raise VerificationError(Problem.of(where, "policy.quorum_lines", count=len(quorums)))
    needed = quorums[0]
    if log and any(log.public == key.public for key in witnesses.values()):
        raise VerificationError(Problem.of(where, "policy.duplicate_key", name=log.name))
    return Quorum(log, witnesses, groups, None if needed == "none" else needed)
