"""Every tampering has its own cause, and each numbered step is needed: without it, some tampering passes."""

from __future__ import annotations

import io
import json
import random
import socket
import zipfile
from dataclasses import replace

import pytest

from protocols.errors import VerificationError
from protocols.evidence import bundle as bundles
from protocols.evidence import keys, note, tiles
from protocols.evidence.bundle import open_bundle
from verifier.conformance import tamperings_equivocation, tamperings_probes, tamperings_sealed, tamperings_visits
from verifier.conformance.tamperings import CASES, Exhibit
from verifier.conformance.world import small, zipped
from verifier.proof.findings import ALL_STEPS
from verifier.proof.verify import Verdict, verify

assert all(room.CASES is CASES for room in (
    tamperings_sealed, tamperings_probes, tamperings_equivocation, tamperings_visits))


def judge(exhibit: Exhibit, steps: frozenset[int] = ALL_STEPS) -> Verdict:
    return verify(open_bundle(zipped(exhibit.members)), exhibit.policy, anchor=exhibit.anchor, also=exhibit.also,
                  steps=steps)


def faults(verdict: Verdict) -> set[tuple[int, str]]:
    return {(f.step, f.code) for f in verdict.findings if f.severity == "fault"}


@pytest.mark.parametrize("name", CASES)
def test_tampering_is_refused_with_its_own_cause(name: str) -> None:
    step, code, build = CASES[name]
    verdict = judge(build())
    assert faults(verdict) == {(step, code)}
    assert not verdict.valid and verdict.evidence is None


@pytest.mark.parametrize("step", [3, 4, 5, 6, 7, 8, 9, 10])
def test_without_this_step_a_tampering_passes(step: int) -> None:
    """A verifier that lacks one step, and uses what that step would have refused."""
    passed = [name for name, (at, _, build) in CASES.items()
              if at == step and judge(build(), ALL_STEPS - {step}).valid]
    assert passed


def test_without_the_container_a_stranger_among_the_members_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    world, gateway = small()
    data = zipped(gateway.members() | {"entry/4.bak": b"anything"})
    with pytest.raises(VerificationError, match=r"container\.unknown_member"):
        open_bundle(data)
    sort_in = bundles.Bundle._sort_in
    monkeypatch.setattr(bundles.Bundle, "_sort_in", lambda self, name: sort_in(self, name) or True)
    assert verify(open_bundle(data), world.policy()).valid


def test_without_the_policy_a_gateway_vouches_for_itself() -> None:
    exhibit = CASES["a_gateway_that_nobody_vouches_for"][2]()
    path = next(tiles.parse_path(n) for n in exhibit.members if n.startswith("tile/entries/"))
    assert path is not None
    first = json.loads(tiles.split_entries(exhibit.members[path.path], path, where="")[0])
    key = bytes.fromhex(first["certificate"]["gateway_key"])
    itself = keys.gateway_id(key)
    trusting = replace(exhibit.policy, gateways={
        itself: note.VerifierKey(keys.gateway_origin(itself), note.ED25519, key)})
    assert verify(open_bundle(zipped(exhibit.members)), trusting).valid


@pytest.mark.parametrize("change", ["removed", "cut", "swapped", "doubled"])
def test_members_removed_cut_swapped_doubled(change: str) -> None:
    world, gateway = small()
    whole, policy = gateway.members(), world.policy()
    names = sorted(whole)
    for i, name in enumerate(names):
        members = dict(whole)
        if change == "removed":
            del members[name]
        elif change == "cut":
            members[name] = members[name][: len(members[name]) // 2]
        elif change == "swapped":
            other = names[(i + 1) % len(names)]
            members[name], members[other] = members[other], members[name]
        else:
            with pytest.warns(UserWarning, match="Duplicate name"):
                data = doubled(members, name)
            with pytest.raises(VerificationError, match=r"container\.doubled"):
                open_bundle(data)
            continue
        try:
            verdict = verify(open_bundle(zipped(members)), policy)
        except VerificationError as error:
            assert (change, name) == ("removed", "checkpoint")
            assert [p.code for p in error.problems] == ["container.missing_member"]
        else:
            assert not verdict.valid, f"{change} {name}"


def doubled(members: dict[str, bytes], name: str) -> bytes:
    buffer = io.BytesIO(zipped(members))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name, members[name])
    return buffer.getvalue()


@pytest.mark.parametrize("what", ["removed", "doubled", "swapped"])
def test_entries_removed_doubled_swapped(what: str) -> None:
    """As somebody without the gateway's key can: the tiles, and the tree above them, are rebuilt to fit."""
    world, gateway = small()
    policy, signed_head = world.policy(), gateway.checkpoint()
    registered = {n: d for n, d in gateway.members().items() if n.startswith("register/")}
    for i in range(5):
        _, twin = small()
        entries = list(twin.entries)
        if what == "removed":
            del entries[i]
        elif what == "doubled":
            entries.insert(i, entries[i])
        else:
            entries[i], entries[(i + 1) % 5] = entries[(i + 1) % 5], entries[i]
        twin.entries, twin.tree = [], type(twin.tree)()
        for data in entries:
            twin.put(data)
        members = {n: d for n, d in twin.members().items() if n.startswith(("tile/", "roster/"))} | registered
        resigned = members | {"checkpoint": twin.checkpoint()}
        codes = {code for _, code in faults(verify(open_bundle(zipped(members | {"checkpoint": signed_head})), policy))}
        assert codes & {"tile.root", "tile.missing", "tile.unexpected"}
        assert not verify(open_bundle(zipped(resigned)), policy).valid


def test_nothing_asks_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the verifier opened a socket")

    world, gateway = small()
    for name in ("socket", "create_connection", "getaddrinfo", "socketpair"):
        monkeypatch.setattr(socket, name, refuse)
    assert verify(open_bundle(zipped(gateway.members())), world.policy()).valid


def test_same_bytes_give_the_same_verdict() -> None:
    for _, _, build in list(CASES.values())[::5]:
        exhibit = build()
        first, second = judge(exhibit), judge(exhibit)
        assert (first.findings, first.summary) == (second.findings, second.summary)


def test_findings_are_sorted_and_all_found_in_one_run() -> None:
    world, gateway = small()
    members = gateway.members()
    members["register/9.proof"] = b"no proof"
    members["roster/9.jsonl"] = b"{}"
    members["tile/0/007"] = bytes(8192)
    found = verify(open_bundle(zipped(members)), world.policy()).findings
    assert [(f.step, f.code) for f in found] == [
        (3, "proof.malformed"), (5, "tile.unexpected"), (8, "roster.unexpected")]


def test_readme_is_not_evidence_but_a_changed_one_is_told() -> None:
    world, gateway = small()
    verdict = verify(open_bundle(zipped(gateway.members() | {"README.txt": b"trust me"})), world.policy())
    assert verdict.valid and [f.code for f in verdict.findings] == ["container.readme_differs"]


def test_random_bytes_never_raise() -> None:
    rng = random.Random(2)
    world, gateway = small()
    whole, policy = gateway.members(), world.policy()
    for _ in range(400):
        members = dict(whole)
        name = rng.choice(sorted(members))
        data = bytearray(members[name])
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            data = data[: rng.randrange(len(data))]
        members[name] = bytes(data)
        assert verify(open_bundle(zipped(members)), policy).valid == (members == whole)
