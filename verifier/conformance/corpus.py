"""The corpus by which another verifier is judged: folders with a bundle, a policy, and what the verdict must be.

    valid-NAME/                  no fault: exit 0
    invalid-STEP-CODE-NAME/      refused: exit 1; our verifier names CODE, found in STEP
    unusable-CODE-NAME/          nothing to judge, or no policy to judge it by: exit 2

Each holds `bundle.tally`, `policy.json`, `expected.json`, and where needed `anchor` and files in `also/`. The same
version writes the same bytes; no file is taken from a running system.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from protocols.errors import ConfigError, Problem
from protocols.evidence import jcs, note
from protocols.evidence.policy import Policy
from verifier.conformance import (  # noqa: F401 - fill KINDS, in this order, and CASES
    classes,
    classes_content,
    classes_log,
    classes_probes,
    classes_register,
    classes_trust,
    classes_visits,
    tamperings_equivocation,
    tamperings_probes,
    tamperings_sealed,
    tamperings_visits,
)
from verifier.conformance.classes import KINDS, Instance
from verifier.conformance.draw import Draw, honest
from verifier.conformance.tamperings import CASES, Exhibit
from verifier.conformance.world import public, small, zipped
from verifier.proof.also import Also

EXITS = {"valid": 0, "invalid": 1, "unusable": 2}
Expected = Literal["valid", "invalid", "unusable"]
BUNDLE, POLICY, ANCHOR, ALSO, EXPECTED = "bundle.tally", "policy.json", "anchor", "also", "expected.json"
TRIES_MAX = 4000
"""Seeds that are tried to find an honest bundle with a feature."""

VALID_FEATURES = (
    "plant without a platform", "register without witnesses", "no witness is independent", "quorum of nested groups",
    "quorum k of n", "witness down", "interval", "several rotations", "revoked", "re-enrolment",
    "revocation elsewhere", "windows taken back", "window length changed", "outage: rollback", "clock far behind",
    "offline for days", "opening", "anchor: checkpoint", "anchor: head", "signature of a stranger",
    "proofs under a later checkpoint", "transcript of reads", "chain of a server",
    "probe of an unknown security policy", "beside it: a proof about another log",
    "beside it: another bundle of this log", "findings of a visit", "register: announced draw",
)
"""Each valid case but the first shows one of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One folder. code: what our verifier names, "" for valid cases; step: where it finds that, 0 where it has none."""

    name: str
    expected: Expected
    bundle: bytes
    policy: bytes
    step: int = 0
    code: str = ""
    anchor: bytes | None = None
    also: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name of the folder."""
        parts = {"valid": ["valid"], "invalid": ["invalid", str(self.step), self.code],
                 "unusable": ["unusable", self.code]}[self.expected]
        return "-".join([*parts, self.name.replace("_", "-").replace(" ", "-").replace(":", "").replace(",", "")])


def cases() -> Iterator[Case]:
    """Yield every case, always in the same order."""
    yield from _valid()
    yield from _handmade()
    yield from _drawn()
    yield from _containers()
    yield from _unusable()


def write(folder: Path) -> int:
    """Write the corpus into an empty or new folder; return how many cases it has. Raises ConfigError."""
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(Problem.of(str(folder), "conformance.not_empty"))
    count = 0
    for case in cases():
        place = folder / case.folder
        place.mkdir(parents=True)
        (place / BUNDLE).write_bytes(case.bundle)
        (place / POLICY).write_bytes(case.policy)
        if case.anchor is not None:
            (place / ANCHOR).write_bytes(case.anchor)
        for name, data in sorted(case.also.items()):
            (place / ALSO).mkdir(exist_ok=True)
            (place / ALSO / name).write_bytes(data)
        (place / EXPECTED).write_bytes(jcs.encode({
            "code": case.code or None, "exit": EXITS[case.expected], "step": case.step or None,
            "verdict": case.expected}) + b"\n")
        count += 1
    return count


def policy_file(policy: Policy) -> bytes:
    """Return a policy file that parses to this policy. Without a register it has no witnesses: they sign nothing."""
    fields: dict[str, Any] = {
        "independent": sorted(policy.independent), "supervisors": sorted(policy.supervisors),
        "auditors": sorted(policy.auditors), "assessors": sorted(policy.assessors),
        "maker_cas": list(policy.maker_cas), "gateways": [str(key) for _, key in sorted(policy.gateways.items())]}
    if policy.platform is not None:
        fields["platform"] = policy.platform
    if policy.register is not None:
        fields["register"] = str(policy.register)
        quorum = policy.quorum
        lines = [f"log {policy.register}"]
        lines += [f"witness {name} {key}" for name, key in quorum.witnesses.items()]
        lines += [f"group {name} {group.threshold} {' '.join(group.members)}" for name, group in quorum.groups.items()]
        fields["witnesses"] = "\n".join([*lines, f"quorum {quorum.needed or 'none'}"])
    return jcs.encode(fields)


def files_of(also: Also) -> dict[str, bytes]:
    """Return what `--also` was given, as files."""
    pairs = (*also.equivocations, *also.openings, *also.transcripts, *also.chains, *also.findings)
    files = {name: jcs.encode(dict(value)) for name, value in pairs} | dict(also.heads)
    files |= {one.name: one.path.read_bytes() for one in (*also.files, *also.bundles) if one.path is not None}
    return {name: files[name] for name in sorted(files)}


def _of_exhibit(name: str, step: int, code: str, exhibit: Exhibit) -> Case:
    return Case(name=name, expected="invalid", step=step, code=code, bundle=zipped(exhibit.members),
                policy=policy_file(exhibit.policy), anchor=exhibit.anchor, also=files_of(exhibit.also))


def _valid() -> Iterator[Case]:
    world, gateway = small()
    yield Case(name="small", expected="valid", bundle=zipped(gateway.members()), policy=policy_file(world.policy()))
    wanted = dict.fromkeys(VALID_FEATURES)
    for seed in range(TRIES_MAX):
        if not wanted:
            return
        draw = honest(f"corpus/{seed}", long=True if set(wanted) == {"interval"} else None).visited()
        shown = next((feature for feature in wanted if feature in draw.features), None)
        if shown is not None:
            del wanted[shown]
            yield _of_draw(shown, draw)
    raise AssertionError(f"no honest bundle shows {', '.join(wanted)}")


def _of_draw(name: str, draw: Draw) -> Case:
    return Case(name=name, expected="valid", bundle=zipped(draw.members), policy=draw.policy, anchor=draw.anchor,
                also={n: draw.also[n] for n in sorted(draw.also)})


def _handmade() -> Iterator[Case]:
    for name, (step, code, build) in CASES.items():
        yield _of_exhibit(name, step, code, build())


def _drawn(numbers: Iterable[int] = ()) -> Iterator[Case]:
    """One instance of every mode that is a fault, of these classes or of all."""
    for number in numbers or sorted(KINDS):
        kind = KINDS[number]
        for place in range(len(kind.modes)):
            instance = classes.make(number, f"corpus/{number}/{place}")
            case = _of_instance(f"class-{number}-{instance.mode}", instance)
            if case is not None:
                yield case


def _of_instance(name: str, instance: Instance) -> Case | None:
    """Return the case of an instance; None if it is no fault, because its windows only do not count."""
    told = classes.judge(instance)
    if told.refused_before:
        expected: Expected = "unusable"
        step, code = 0, min(told.refused_before)
    elif told.faults:
        verdict = classes.judge_verdict(instance) if not any(c.startswith("container.") for c in told.faults) else None
        first = next(f for f in verdict.findings if f.severity == "fault") if verdict is not None else None
        expected = "invalid"
        step, code = (first.step, first.code) if first is not None else (1, min(told.faults))
    else:
        return None
    return Case(name=name, expected=expected, step=step, code=code, bundle=instance.data(), policy=instance.policy,
                anchor=instance.anchor, also=instance.also)


def _containers() -> Iterator[Case]:
    world, gateway = small()
    members, policy = gateway.members(), policy_file(world.policy())

    def case(name: str, code: str, bundle: bytes) -> Case:
        return Case(name=name, expected="invalid", step=1, code=f"container.{code}", bundle=bundle, policy=policy)

    yield case("a_member_twice", "doubled", _raw([*_files(members), ("checkpoint", members["checkpoint"])]))
    yield case("a_tile_twice_with_other_bytes", "doubled", _raw([*_files(members), ("tile/0/000.p/5", bytes(160))]))
    for name in ("policy.json", "tile/1/000", "entry/04", "register/1.proof.bak", "../checkpoint", "roster/2.json",
                 "Checkpoint", "tile/0/000.p/0", "openings/0"):
        yield case(f"a_stranger_{name.replace('/', '_').replace('.', '_')}", "unknown_member",
                   _raw([*_files(members), (name, b"anything")]))
    yield case("no_checkpoint", "missing_member", _raw([f for f in _files(members) if f[0] != "checkpoint"]))
    yield case("no_readme", "missing_member", _raw(_files(members)[1:]))
    yield case("packed_in_another_way", "method", _raw(_files(members), method=zipfile.ZIP_BZIP2))
    for name in ("checkpoint", "tile/0/000.p/5", "tile/entries/000.p/5", "roster/2.jsonl", "register/0.proof"):
        data = bytearray(_raw(_files(members)))
        at = data.index(members[name][:40]) + 20
        data[at] ^= 1
        yield case(f"a_checksum_that_fails_{name.replace('/', '_').replace('.', '_')}", "corrupt", bytes(data))
    data = bytearray(_raw(_files(members)))
    at = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)  # the second member, in the directory
    data[at + 24: at + 28] = (1 << 29).to_bytes(4, "little")
    yield case("a_member_that_says_it_is_huge", "limit", bytes(data))


def _files(members: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(zipped(members))) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def _raw(files: list[tuple[str, bytes]], *, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip of these files, in this order, repeats and all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files:
            archive.NameToInfo.pop(name, None)  # zipfile warns of a name that stands twice; here it is meant
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            archive.writestr(info, data, method)
    return buffer.getvalue()


def _unusable() -> Iterator[Case]:
    """Exit 2: not a zip, or a policy that says nothing or contradicts itself."""
    world, gateway = small()
    bundle, policy = zipped(gateway.members()), world.policy_json()
    raw = json.loads(policy)
    for name, data in (("empty", b""), ("text", b"evidence\n"), ("cut", bundle[:1000]), ("end_only", bundle[-22:-4])):
        yield Case(name=f"a_bundle_that_is_no_zip_{name}", expected="unusable", code="container.unreadable",
                   bundle=data, policy=policy)

    def case(name: str, code: str, changed: bytes | dict[str, Any]) -> Case:
        return Case(name=name, expected="unusable", code=code, bundle=bundle,
                    policy=changed if isinstance(changed, bytes) else json.dumps(changed).encode())

    lines = raw["witnesses"].split("\n")
    yield case("policy_empty", "json.unreadable", b"")
    yield case("policy_key_twice", "json.unreadable", b'{"platform":"00","platform":"01"}')
    yield case("policy_unknown_field", "shape.unknown_field", raw | {"strangers": []})
    yield case("policy_without_quorum", "policy.quorum_lines", raw | {"witnesses": "\n".join(lines[:-1])})
    yield case("policy_two_quorums", "policy.quorum_lines", raw | {"witnesses": "\n".join([*lines, "quorum none"])})
    yield case("policy_of_another_log", "policy.log_differs", raw | {
        "register": str(note.VerifierKey("another-register", note.ED25519, public("register")))})
    yield case("policy_unknown_independent", "policy.unknown_name", raw | {"independent": ["nobody"]})
    yield case("policy_unknown_member", "policy.unknown_name", raw | {
        "witnesses": raw["witnesses"].replace("all bureau", "all nobody")})
    yield case("policy_name_twice", "policy.name_used_twice", raw | {"witnesses": "\n".join([*lines[:-1], lines[-2],
                                                                                         lines[-1]])})
    yield case("policy_witness_of_another_kind", "policy.line", raw | {"witnesses": raw["witnesses"].replace(
        str(note.VerifierKey("vendor.example", note.COSIGNATURE_V1, public("vendor"))),
        str(note.VerifierKey("vendor.example", note.ED25519, public("vendor"))))})
    yield case("policy_threshold_zero", "policy.line", raw | {
        "witnesses": raw["witnesses"].replace("everyone all", "everyone 0")})
    yield case("policy_gateway_misnamed", "policy.gateway_name", raw | {
        "gateways": [str(note.VerifierKey("tallystick/g/" + "0" * 32, note.ED25519, public("gateway")))]})

