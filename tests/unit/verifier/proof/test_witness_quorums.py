"""Several witnesses at a whole bundle: quorums, nested groups, whose time counts; and sizes that nobody signed."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from protocols.evidence import merkle, note, proof
from protocols.evidence.bundle import open_bundle
from protocols.evidence.checkpoint import Checkpoint
from verifier.conformance.world import REGISTER, START_S, Gateway, World, key_of, public, two_devices, zipped
from verifier.proof.verify import Verdict, verify

NAMES = ("bureau", "association", "city", "vendor")


def policy_text(world: World, *groups: str, quorum: str) -> str:
    lines = [f"log {world.vkey()}"]
    lines += [f"witness {w} {note.VerifierKey(f'{w}.example', note.COSIGNATURE_V1, public(w))}" for w in NAMES]
    return "\n".join([*lines, *groups, f"quorum {quorum}"])


def plant(signers: Sequence[str], *, times: dict[str, int] | None = None) -> Gateway:
    """Two windows; every register checkpoint is co-signed by `signers`, each at its own time after the last window."""
    world = World(witnesses=NAMES, independent=NAMES[:3])
    gateway = world.gateway()
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    size, _ = world.rounds[-1]
    text = Checkpoint(REGISTER, size, world.tree.root(size)).text
    lines = [note.sign(text, key_of("register"), name=REGISTER)]
    lines += [note.cosign(text, key_of(w), name=f"{w}.example", time_s=gateway.now_s + (times or {}).get(w, 10))
              for w in signers]
    world.rounds[-1] = (size, note.format_note(text, lines))
    return gateway


def judged(gateway: Gateway, *groups: str, quorum: str, independent: Sequence[str] = NAMES[:3]) -> Verdict:
    policy = gateway.world.policy(witnesses=policy_text(gateway.world, *groups, quorum=quorum),
                                  independent=list(independent))
    return verify(open_bundle(zipped(gateway.members())), policy)


def faults(verdict: Verdict) -> set[str]:
    return {f.code for f in verdict.findings if f.severity == "fault"}


TWO_OF_THREE = "group two 2 bureau association city"
NESTED = ("group public any bureau city", "group both all public association")


@pytest.mark.parametrize("signers,groups,quorum,holds", [
    (("bureau", "association"), (TWO_OF_THREE,), "two", True),
    (("city", "association"), (TWO_OF_THREE,), "two", True),
    (("bureau", "association", "city", "vendor"), (TWO_OF_THREE,), "two", True),
    (("bureau",), (TWO_OF_THREE,), "two", False),
    (("bureau", "vendor"), (TWO_OF_THREE,), "two", False),  # one that the group does not name
    (("bureau", "bureau"), (TWO_OF_THREE,), "two", False),  # one key twice is one key
    ((), (TWO_OF_THREE,), "two", False),
    (("city", "association"), NESTED, "both", True),
    (("bureau", "city"), NESTED, "both", False),
    (("association",), NESTED, "both", False),
    (("vendor",), (), "vendor", True),
    ((), (), "none", True),
    (("bureau", "stranger"), (TWO_OF_THREE,), "two", False),
])
def test_quorum_of_distinct_keys(signers: Sequence[str], groups: Sequence[str], quorum: str, holds: bool) -> None:
    verdict = judged(plant(signers), *groups, quorum=quorum)
    assert verdict.valid is holds
    assert faults(verdict) == (set() if holds else {"register.quorum"})


def test_the_earliest_independent_witness_gives_the_time() -> None:
    gateway = plant(("vendor", "city", "bureau"), times={"vendor": 1, "city": 40, "bureau": 25})
    verdict = judged(gateway, quorum="bureau")
    assert verdict.valid and verdict.evidence is not None
    assert set(verdict.evidence.windows.not_after_s) == {gateway.now_s + 25}
    # Who is independent is for the checker to say; the quorum is another question.
    other = judged(gateway, quorum="bureau", independent=["city"])
    assert other.evidence is not None and set(other.evidence.windows.not_after_s) == {gateway.now_s + 40}
    nobody = judged(gateway, quorum="bureau", independent=[])
    assert (nobody.valid, nobody.summary.trust, nobody.summary.time) == (True, "given", "unanchored")


def test_a_quorum_without_an_independent_witness_is_given_trust() -> None:
    verdict = judged(plant(("vendor",)), quorum="vendor")
    assert (verdict.valid, verdict.summary.trust) == (True, "given")


def test_a_line_of_another_checkpoint_is_no_line_of_this_one() -> None:
    gateway = plant(("bureau",))
    world = gateway.world
    size, good = world.rounds[-1]
    other = world.cosigned(size - 1, time_s=START_S, by=("city",))
    moved = good + other.split(b"\n\n")[1].splitlines(keepends=True)[1]
    world.rounds[-1] = (size, moved)
    assert faults(judged(gateway, "group two 2 bureau city", quorum="two")) == {"note.bad_signature"}


@pytest.mark.parametrize("independent", [NAMES[:3], ()])
def test_the_register_is_no_witness_of_itself(independent: Sequence[str]) -> None:
    """The log's key signs as a log and, with another key id, as a witness: the policy that allows it is refused."""
    gateway = plant(("bureau",))
    own = note.VerifierKey("own.example", note.COSIGNATURE_V1, public("register"))
    text = policy_text(gateway.world, f"witness own {own}", quorum="own")
    with pytest.raises(Exception, match=r"policy\.duplicate_key"):
        gateway.world.policy(witnesses=text, independent=list(independent))


# The 5-leaf / 2-leaf case: the same hashes prove another index of a tree of another size.

def five() -> tuple[World, Gateway]:
    """A register of five entries whose last is a head of the gateway: leaf 4 of 5 has a proof of one hash."""
    world = World()
    gateway = world.gateway()
    world.gateway("second")
    world.gateway("third")
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    world.add({"type": "advice"})
    world.gateways[1:] = []
    world.round(time_s=gateway.now_s + 10)
    assert len(world.entries) == 5 and json.loads(world.entries[4])["type"] == "head"
    return world, gateway


def test_a_forged_index_with_the_proof_of_another_size_is_refused() -> None:
    world, gateway = five()
    _, checkpoint = world.rounds[-1]
    hashes = tuple(world.tree.inclusion(4, 5))
    assert len(hashes) == 1
    leaf = merkle.leaf_hash(world.entries[4])
    merkle.verify_inclusion(leaf=leaf, index=1, size=2, proof=hashes, root=world.tree.root(5),
                            where="it holds for size 2")
    forged = proof.LogProof(1, hashes, checkpoint, world.entries[4]).encode()
    members = gateway.members()
    members["register/1.proof"] = forged
    del members["register/4.proof"]
    verdict = verify(open_bundle(zipped(members)), world.policy())
    assert "merkle.inclusion" in faults(verdict)
    # The same as an anchor, which says index and size as it likes.
    honest = verify(open_bundle(zipped(gateway.members())), world.policy(), anchor=forged)
    assert faults(honest) == {"merkle.inclusion"}
    assert not faults(verify(open_bundle(zipped(gateway.members())), world.policy(), anchor=world.proof(4)))


def test_a_size_that_nobody_signed_is_no_size() -> None:
    """A checkpoint text with size 2 under the root of five: the signature of the register is over another text."""
    world, gateway = five()
    _, checkpoint = world.rounds[-1]
    cut = checkpoint.replace(b"\n5\n", b"\n2\n")
    forged = proof.LogProof(1, tuple(world.tree.inclusion(4, 5)), cut, world.entries[4]).encode()
    members = gateway.members()
    members["register/1.proof"] = forged
    verdict = verify(open_bundle(zipped(members)), world.policy())
    assert "note.bad_signature" in faults(verdict)
