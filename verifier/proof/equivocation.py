"""Steps 3 and 5, with what stands beside the bundle: has the register, or this gateway, said two things that no one log
holds?

What is required of each of the two texts, and when a proven contradiction refuses the bundle:

    register  signed by the register of the policy, and co-signed by one witness of the policy at least (where the
              policy names any): what nobody else saw was not said to anybody. A proven contradiction is a fault.
    gateway   signed by the key that was in force at that size. A fault, unless the contested entries are below a head
              of this log that an independent witness co-signed, or the two are on record in the register as `fork`:
              then the history that was co-signed first stands.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from protocols.errors import Problem, VerificationError
from protocols.evidence import equivocation, note, proof
from protocols.evidence.bundle import Bundle, open_bundle
from protocols.evidence.equivocation import Contradiction, Node, Statement, contradiction
from protocols.evidence.policy import Policy
from verifier.proof import log as logs
from verifier.proof.also import Also, where
from verifier.proof.findings import CONTAINER, NO_ENTRY, REGISTER, TILES, Findings
from verifier.proof.log import Log, Signers
from verifier.proof.register import Head, verify_anchor

CANDIDATES_MAX = 64
"""Entries tried when two checkpoints of different sizes are to be made into a portable proof."""


@dataclass(slots=True)
class Lies:
    """Looks for contradictions. `portable`: proofs of those that were found, as files.

    taken: files of --also that are about the register or the log of this bundle.
    """

    also: Also
    policy: Policy
    found: Findings
    portable: list[bytes] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _on_record: list[bytes] = field(default_factory=list)
    _compared: dict[str, int] = field(default_factory=dict)
    _register: Register = field(init=False)

    def __post_init__(self) -> None:
        self._register = Register(self.policy)

    def look_at_register(self, bundle: Bundle) -> None:
        """Step 3: compare what the register says in this bundle with what it said elsewhere."""
        key, used = self.policy.register, bool(bundle.numbered["register"])
        if key is None or not used:
            return
        for name, value in self.also.equivocations:
            pair = self._pair(name, value)
            if pair is not None and {s.head.origin for s in pair} == {key.name}:
                self._taken.add(name)
                self._judge_register(name, *pair)
        if not (self.also.heads or self.also.bundles):
            return
        inside = self._register.learn(statements(bundle))
        if inside is not None:
            self._judge_register(inside[1], *(read_member(bundle, place) for place in inside), at=inside[1])
        singles = {name for name, _ in self.also.heads}
        for name, elsewhere in self._elsewhere():
            for at, said in elsewhere:
                if said.head.origin != key.name:
                    continue
                refused = self._register.refuses(said, at)
                if refused is not None:
                    if name in singles:
                        self._taken.add(name)
                        self._refuse(name, refused)
                    continue
                self._taken.add(name)
                self._compared[name] = self._compared.get(name, 0) + 1
                clash = self._register.clash(said)
                if clash is not None:
                    self._judge_register(name, read_member(bundle, clash), said)
                    break

    def look_at_log(self, log: Log, signers: Signers, heads: Sequence[Head], forks: Iterable[Sequence[str]],
                    ends_at: int | None) -> None:
        """Step 5: compare this log with what its gateway signed elsewhere. `heads` hold; `forks` are on record."""
        cosigned = max((head.size for head in heads if head.cosigned_s is not None), default=0)
        view = _View(log, signers, cosigned, ends_at, set())
        for pair in forks:
            self._keep(pair, view)
        for name, value in self.also.equivocations:
            two = self._pair(name, value)
            if two is not None and {s.head.origin for s in two} == {log.checkpoint.origin}:
                self._taken.add(name)
                self._judge_log(name, view, *two)
        for name, at, said in self._checkpoints():
            if said.head.origin == log.checkpoint.origin:
                self._taken.add(name)
                self._compare_log(name, at, said, view)
        for name, data in self.also.heads:
            self._compare_head(name, data, view)

    def close(self) -> None:
        """Say what of --also is about nothing in this bundle, and what was compared without a contradiction."""
        self.portable += [file for file in self._on_record if file not in self.portable]
        for name in (*(n for n, _ in self.also.equivocations), *(n for n, _ in self.also.heads),
                     *(file.name for file in self.also.bundles)):
            if name in self._told:
                continue
            if name not in self._taken:
                self._remark(name, "also.unrelated")
            elif name in self._compared:
                self._remark(name, "also.consistent", compared=self._compared[name])

    def _elsewhere(self) -> Iterator[tuple[str, Iterator[tuple[str, Statement]]]]:
        """Yield every other source: its name, and what stands in it as (place, statement)."""
        for name, data in self.also.heads:
            yield name, _one(name, data)
        for file in self.also.bundles:
            if file.path is not None:
                yield file.name, _of_bundle(file.path)

    def _checkpoints(self) -> Iterator[tuple[str, str, Statement]]:
        """Yield (name, place, statement) of what may be of a gateway: single files, and the checkpoint of a bundle."""
        for name, elsewhere in self._elsewhere():
            yield from ((name, at, said) for at, said in itertools.islice(elsewhere, 1))

    def _pair(self, name: str, value: Mapping[str, object]) -> tuple[Statement, Statement] | None:
        """Return the two statements of a proof of equivocation, None with a remark if they cannot be read."""
        try:
            return read_pair(value, at=where(name))
        except VerificationError as error:
            self._refuse(name, error.problems[0].code)
            return None

    def _judge_register(self, name: str, a: Statement, b: Statement, *, at: str | None = None) -> None:
        """Judge two texts of the register. `name`: a file of --also; `at`: a member of the bundle instead."""
        at = at or where(name)
        try:
            why = require_register(self.policy, a, b, at=at)
        except VerificationError as error:
            self._refuse(name, error.problems[0].code)
            return
        self._told.add(name)
        self.portable.append(equivocation.encode(a.text, b.text))
        self.found.fault(REGISTER, "register.equivocation", at, register=a.head.origin, first=why.first,
                         last=why.end - 1)

    def _judge_log(self, name: str, view: _View, a: Statement, b: Statement) -> None:
        """Judge two texts that this gateway is said to have signed."""
        try:
            for side in (a, b):
                view.require_key(side, at=where(name))
            why = contradiction(a, b)
            if why is None:
                raise VerificationError(Problem.of(where(name), "equivocation.consistent"))
        except VerificationError as error:
            self._refuse(name, error.problems[0].code)
            return
        self.portable.append(equivocation.encode(a.text, b.text))
        self._tell_log(name, view, why, {a.note.text, b.note.text})

    def _compare_log(self, name: str, at: str, said: Statement, view: _View) -> None:
        """Hold one text of this gateway, from elsewhere, against the whole log of the bundle."""
        try:
            view.require_key(said, at=at)
        except VerificationError as error:
            self._refuse(name, error.problems[0].code)
            return
        why, other = view.clash(said), self._other_log(name, said)
        if why is None and said.head.size > view.log.checkpoint.size:
            if other is None:
                self._newer(name, said.head.size, view)
                return
            if other is not None and other.tree.root(view.log.checkpoint.size) != view.log.checkpoint.root:
                why = Contradiction(None, *_first_difference(view.log, other))
        if why is None:
            self._compared[name] = self._compared.get(name, 0) + 1
            return
        pair = view.portable(said, why, other)
        if pair is not None:
            self.portable.append(equivocation.encode(*pair))
        self._tell_log(name, view, why, {said.note.text, view.said.note.text})

    def _compare_head(self, name: str, data: bytes, view: _View) -> None:
        """Hold a head of this gateway, which the register proves, against the log."""
        try:
            size, root = verify_anchor(data, self.policy, view.log.gateway)
        except VerificationError:
            return  # no head of this gateway; what it says of the register was compared in step 3
        self._taken.add(name)
        if size > view.log.checkpoint.size:
            self._newer(name, size, view)
        elif view.log.tree.root(size) != root:
            self._told.add(name)
            self.found.fault(TILES, "head.differs", where(name), size=size)

    def _newer(self, name: str, size: int, view: _View) -> None:
        if name not in self._told:
            self._told.add(name)
            self._remark(name, "also.newer", known=size, size=view.log.checkpoint.size)

    def _other_log(self, name: str, said: Statement) -> Log | None:
        """Return the log of another bundle whose checkpoint is `said`, None if there is none or it does not hold."""
        path = next((file.path for file in self.also.bundles if file.name == name), None)
        if path is None:
            return None
        aside = Findings()
        try:
            bundle = open_bundle(path)
        except VerificationError:
            return None
        claim = logs.read_claim(bundle, aside)
        return None if claim is None or claim.checkpoint != said.head else logs.read_tiles(bundle, claim, aside)

    def _tell_log(self, name: str, view: _View, why: Contradiction, texts: set[str]) -> None:
        self._told.add(name)
        gateway, first, last = view.log.gateway, why.first, why.end - 1
        if view.settled(why) or frozenset(texts) in view.record:
            self.found.remark(TILES, "log.equivocation_settled", where(name), gateway=gateway, first=first, last=last)
        else:
            self.found.fault(TILES, "log.equivocation", where(name), gateway=gateway, first=first, last=last)

    def _keep(self, texts: Sequence[str], view: _View) -> None:
        """Make a file of a `fork` on record, if both sides hold."""
        try:
            a, b = (equivocation.read(text.encode(), where="register") for text in texts)
            for side in (a, b):
                view.signers.require_any(side.note, where="register")
        except (VerificationError, ValueError):
            return  # step 5 calls it unproven
        if contradiction(a, b) is not None:
            view.record.add(frozenset((a.note.text, b.note.text)))
            self._on_record.append(equivocation.encode(a.text, b.text))

    def _refuse(self, name: str, reason: str) -> None:
        if name not in self._told:
            self._told.add(name)
            self._remark(name, "also.not_proven", reason=reason)

    def _remark(self, name: str, code: str, **args: object) -> None:
        self.found.remark(CONTAINER, code, where(name), seq=NO_ENTRY, **args)


@dataclass(slots=True)
class Register:
    """What a register said in one or more bundles: each size and each complete subtree has one hash."""

    policy: Policy
    _roots: dict[int, tuple[bytes, str]] = field(default_factory=dict)
    _nodes: dict[Node, tuple[bytes, str]] = field(default_factory=dict)
    _refused: dict[note.Note, str | None] = field(default_factory=dict)

    def refuses(self, said: Statement, at: str) -> str | None:
        """Return why this is not the register's word before a witness, None if it is. Each checkpoint: once."""
        if said.note not in self._refused:
            try:
                _require_witnessed(self.policy, said, at=at)
                self._refused[said.note] = None
            except VerificationError as error:
                self._refused[said.note] = error.problems[0].code
        return self._refused[said.note]

    def learn(self, statements: Iterable[tuple[str, Statement]]) -> tuple[str, str] | None:
        """Take in (place, statement); return the places of the first two that contradict each other."""
        first = None
        for at, said in statements:
            if self.policy.register is None or said.head.origin != self.policy.register.name:
                continue
            if self.refuses(said, at) is not None:
                continue
            clash = self.clash(said)
            if clash is not None:
                first = first or (clash, at)
                continue
            self._roots.setdefault(said.head.size, (said.head.root, at))
            for node, known in said.nodes.items():
                self._nodes.setdefault(node, (known, at))
        return first

    def clash(self, said: Statement) -> str | None:
        """Return where something was learnt that contradicts this, None if nothing does."""
        for node in sorted(said.nodes):
            if node in self._nodes and self._nodes[node][0] != said.nodes[node]:
                return self._nodes[node][1]
        root, at = self._roots.get(said.head.size, (said.head.root, ""))
        return at if root != said.head.root else None


@dataclass(frozen=True, slots=True)
class _View:
    """The log of this bundle. cosigned: entries below this were co-signed by an independent witness."""

    log: Log
    signers: Signers
    cosigned: int
    ends_at: int | None
    record: set[frozenset[str]]

    @property
    def said(self) -> Statement:
        """The signed checkpoint of the bundle."""
        return equivocation.read(self.log.bundle.read("checkpoint"), where="checkpoint")

    def require_key(self, said: Statement, *, at: str) -> None:
        """Raise VerificationError unless the key that was in force at its size signed this."""
        self.signers.require_any(said.note, where=at)
        key = note.VerifierKey(self.signers.origin, note.ED25519, self.signers.in_force(said.head.size))
        if not any((line.name, line.key_id) == (key.name, key.key_id) for line in said.note.signatures):
            raise VerificationError(Problem.of(at, "checkpoint.old_key"))

    def settled(self, why: Contradiction) -> bool:
        """Return whether an independent witness has decided: of what still counts, all contested is co-signed."""
        end = why.end if self.ends_at is None else min(why.end, self.ends_at)
        return end <= self.cosigned

    def clash(self, said: Statement) -> Contradiction | None:
        """Return what in `said` the log contradicts, as far as both reach."""
        tree = self.log.tree
        for level, index in sorted(said.nodes):
            first, end = index << level, (index + 1) << level
            if end <= tree.size and tree.subtree(level, index) != said.nodes[level, index]:
                return Contradiction(None, first, end)
        if said.head.size <= tree.size and tree.root(said.head.size) != said.head.root:
            return Contradiction(said.head.size, 0, said.head.size)
        return None

    def portable(self, said: Statement, why: Contradiction, other: Log | None) -> tuple[str, str] | None:
        """Return two texts that show the contradiction to somebody who has neither bundle, None if none do.

        A proof carries its entry, so only entries that the bundles ship can stand in one.
        """
        sides = [said, *(() if other is None else _proofs(other, [self.log], why))]
        own = [self.said, *_proofs(self.log, [] if other is None else [other], why)]
        return next(((a.text, b.text) for a in own for b in sides if contradiction(a, b) is not None), None)


def _proofs(log: Log, others: Sequence[Log], why: Contradiction) -> list[Statement]:
    """Return tlog-proofs of some shipped entries of a log, those that most likely show the contradiction first."""
    size = log.checkpoint.size
    both = range(max(log.first, why.first), min((log.end, size, *(o.end for o in others))))
    shared = itertools.islice((seq for seq in both if all(o.ships(seq) for o in others)), 2 if others else 0)
    near = [why.first, why.end - 1, why.end, why.first - 1, size - 1, log.first, log.end - 1]
    single = [seq for seq in log.bundle.numbered["entry"] if seq >= why.first]
    result: list[Statement] = []
    for seq in dict.fromkeys((*shared, *near, *single)):
        data = log.entry(seq) if 0 <= seq < size and log.ships(seq) else None
        if data is not None:
            text = proof.LogProof(seq, tuple(log.tree.inclusion(seq, size)), log.bundle.read("checkpoint"), data)
            result.append(equivocation.read(text.encode(), where="checkpoint"))
        if len(result) == CANDIDATES_MAX:
            break
    return result


def _first_difference(a: Log, b: Log) -> tuple[int, int]:
    """Return [first, first + 1) of the first entry in which two logs differ."""
    both = range(min(a.checkpoint.size, b.checkpoint.size))
    first = next(seq for seq in both if a.tree.leaf(seq) != b.tree.leaf(seq))
    return first, first + 1


def statements(bundle: Bundle) -> Iterator[tuple[str, Statement]]:
    """Yield (member, statement) of every register proof of a bundle that holds under its own checkpoint."""
    for index in bundle.numbered["register"]:
        at = f"register/{index}.proof"
        try:
            yield at, equivocation.read(bundle.read(at), where=at)
        except VerificationError:
            continue  # step 3 says so where this is the bundle that is judged


def read_member(bundle: Bundle, name: str) -> Statement:
    """Return the statement of a register proof that `statements` has yielded."""
    return equivocation.read(bundle.read(name), where=name)


def between(bundles: Sequence[Bundle], policy: Policy) -> list[tuple[int, Contradiction]]:
    """Compare what the register of the policy says in several bundles.

    Returns (place in `bundles`, contradiction) of each bundle that contradicts one before it: no single register holds
    both, and nothing says which is the right one.
    """
    register, found = Register(policy), []
    for number, bundle in enumerate(bundles):
        places = register.learn((f"{number} {at}", said) for at, said in statements(bundle))
        if places is None:
            continue
        a, b = (read_member(bundles[int(place)], member) for place, _, member in (p.partition(" ") for p in places))
        why = contradiction(a, b)
        if why is not None:
            found.append((number, why))
    return found


def _of_bundle(path: Path) -> Iterator[tuple[str, Statement]]:
    try:
        bundle = open_bundle(path)
        yield "checkpoint", equivocation.read(bundle.read("checkpoint"), where="checkpoint")
    except VerificationError:
        return
    yield from statements(bundle)


def _one(name: str, data: bytes) -> Iterator[tuple[str, Statement]]:
    try:
        yield where(name), equivocation.read(data, where=where(name))
    except VerificationError:
        return


def read_pair(value: Mapping[str, object], *, at: str) -> tuple[Statement, Statement]:
    """Return the two statements of a proof of equivocation. Raises VerificationError if one does not hold."""
    a, b = equivocation.texts(value, where=at)
    return equivocation.read(a.encode(), where=at), equivocation.read(b.encode(), where=at)


def require_register(policy: Policy, a: Statement, b: Statement, *, at: str) -> Contradiction:
    """Return why the register of the policy lied. Raises VerificationError if the two texts do not prove that."""
    for side in (a, b):
        _require_witnessed(policy, side, at=at)
    why = contradiction(a, b)
    if why is None:
        raise VerificationError(Problem.of(at, "equivocation.consistent"))
    return why


def _require_witnessed(policy: Policy, said: Statement, *, at: str) -> None:
    """Raise VerificationError unless the register signed this and, where the policy has witnesses, one co-signed it."""
    key = policy.register
    if key is None or said.head.origin != key.name:
        raise VerificationError(Problem.of(at, "equivocation.other_log"))
    note.require_signed(said.note, key, where=at)
    witnesses = policy.quorum.witnesses.values()
    if witnesses and not note.cosignatures(said.note, witnesses, where=at):
        raise VerificationError(Problem.of(at, "equivocation.unwitnessed"))


def convict(name: str, value: Mapping[str, object], policy: Policy, found: Findings) -> None:
    """Judge a proof of equivocation without any bundle: a fault if it convicts the register, or a listed gateway.

    A gateway is convicted under its first key only: later keys stand in its log. Raises: VerificationError if the
    file proves nothing about a log that the policy trusts.
    """
    at = where(name)
    a, b = read_pair(value, at=at)
    listed = {key.name: (gateway, key) for gateway, key in policy.gateways.items()}
    if a.head.origin in listed and b.head.origin == a.head.origin:
        gateway, key = listed[a.head.origin]
        for side in (a, b):
            note.require_signed(side.note, key, where=at)
        why = contradiction(a, b)
        if why is None:
            raise VerificationError(Problem.of(at, "equivocation.consistent"))
        found.fault(TILES, "log.equivocation", at, gateway=gateway, first=why.first, last=why.end - 1)
        return
    why = require_register(policy, a, b, at=at)
    found.fault(REGISTER, "register.equivocation", at, register=a.head.origin, first=why.first, last=why.end - 1)

