"""Receipts: verified before they are kept, thinned by the rule, whole chains only; and what is seen."""

from __future__ import annotations

import random

import pytest

from gateway.sealing import receipts
from gateway.sealing.receipts import KEEP_EVERY_S, Receipts, Trust
from protocols.evidence import note, proof
from protocols.evidence.encoding import from_base64
from tests.sim.disk import FaultyDisk
from tests.sim.platform import REGISTER, WITNESS, Platform, enrolment
from tests.sim.rows import registry
from tests.sim.world import Gateway, Time, private_key

KEY = private_key(1)


class Desk:
    """A gateway and a platform that hands proofs over on demand."""

    def __init__(self) -> None:
        rng = random.Random(0)
        self.time = Time()
        self.disk = FaultyDisk(rng)
        self.platform = Platform(self.time, rng, KEY)
        self.gateway = Gateway(self.disk, KEY, self.time, registry(1, 1), rng,
                               before_begin=lambda sealer: sealer.enrol(self.platform.certificate))
        self.events: list[tuple[str, dict]] = []
        self.receipts = self.opened()

    def opened(self, bytes_max: int = receipts.RECEIPTS_BYTES_MAX) -> Receipts:
        return Receipts(self.gateway.journal, self.platform.gateway, Trust.of(enrolment(KEY)),
                        lambda code, where, **args: self.events.append((code, args)), bytes_max=bytes_max)

    def head(self) -> str:
        """Submit everything, have the head co-signed, return its proof."""
        journal, platform = self.gateway.journal, self.platform
        first = platform.tree.size
        rosters = [{"seq": 2, "rows": journal.roster_rows(2).decode()}] if first <= 2 else []
        stored, _ = platform._submit({
            "first": first, "entries": [e.decode() for e in journal.encoded(first, journal.size)],
            "checkpoint": self.gateway.sealer.checkpoint_at(journal.size).decode(), "rosters": rosters})
        assert stored
        platform.round()
        return platform.proof(max(platform._heads.values()))

    def take(self, *proofs: str, checkpoint: bytes | None = None) -> None:
        self.receipts.take([p.encode() for p in proofs], checkpoint, now_s=self.time.wall_ns // 10**9)

    def kept(self) -> list[int]:
        return sorted(int(n.removesuffix(".proof")) for n in self.disk.names("register"))


def test_a_head_proves_only_with_its_whole_chain() -> None:
    desk = Desk()
    desk.gateway.run(12)
    desk.take(desk.head())
    assert desk.receipts.proven == 0
    desk.take(desk.platform.proof(0))
    assert desk.receipts.proven == desk.gateway.journal.size
    assert desk.opened().proven == desk.receipts.proven  # also after a restart


def test_first_in_ten_minutes_first_after_an_outage_and_newest_stay() -> None:
    desk = Desk()
    start = desk.time.wall_ns // 10**9
    desk.time.pass_s(KEEP_EVERY_S - start % KEEP_EVERY_S)
    desk.gateway.windows.tick()
    desk.take(desk.platform.proof(0))
    indexes = []
    for _ in range(4):
        desk.gateway.run(6)
        desk.take(desk.head())
        indexes.append(max(desk.platform._heads.values()))
    assert desk.kept() == [0, indexes[0], indexes[-1]]
    desk.time.pass_s(60)  # asleep: an outage
    desk.gateway.run(12)
    desk.take(desk.head())
    after_gap = max(desk.platform._heads.values())
    desk.gateway.run(6)
    desk.take(desk.head())
    assert desk.kept() == [0, indexes[0], after_gap, after_gap + 1]
    assert desk.events == []


@pytest.mark.parametrize("change", ["bit", "index", "register", "witness"])
def test_a_false_proof_is_told_and_not_kept(change: str) -> None:
    desk = Desk()
    desk.gateway.run(6)
    parsed = proof.parse(desk.head().encode(), where="t")
    signed = note.parse(parsed.checkpoint, where="t")
    keep = {"register": WITNESS.name, "witness": REGISTER.name}.get(change)
    lines = [s for s in signed.signatures if keep is None or s.name == keep]
    changed = proof.LogProof(
        index=parsed.index + (change == "index"), hashes=parsed.hashes,
        checkpoint=note.format_note(signed.text, lines),
        extra=parsed.extra.replace(b'"size":', b'"size":1') if change == "bit" else parsed.extra)
    desk.take(changed.encode().decode())
    assert desk.kept() == [] and [code for code, _ in desk.events] == ["sealing.proof_refused"]


def test_a_head_that_is_not_ours_is_told() -> None:
    desk = Desk()
    desk.gateway.run(6)
    head = desk.head()
    other = Desk()
    other.gateway.rng.seed(5)
    other.gateway.run(12)
    other.take(head)
    assert [code for code, _ in other.events] == ["sealing.head_differs"] and other.kept() == []


def test_seen_is_the_newest_and_verifies_from_its_parts() -> None:
    desk = Desk()
    assert desk.receipts.seen is None
    desk.take(checkpoint=desk.platform._note)
    first = desk.receipts.seen
    assert first is not None and first["witness"] == "bureau"
    old = desk.platform._note
    desk.gateway.run(6)
    desk.head()
    desk.take(checkpoint=desk.platform._note)
    desk.take(checkpoint=old)
    seen = desk.receipts.seen
    assert seen is not None and seen["size"] == 2 > first["size"]
    text = f"{REGISTER.name}\n{seen['size']}\n" + note.parse(desk.platform._note, where="t").text.split("\n")[2] + "\n"
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    Ed25519PublicKey.from_public_bytes(WITNESS.public).verify(
        from_base64(seen["signature"], where="t"), note.cosigned_message(text, seen["time_s"]))


def test_register_that_shows_two_histories_is_told() -> None:
    desk, other = Desk(), Desk()
    desk.gateway.run(6)
    desk.head()
    desk.take(checkpoint=desk.platform._note)
    seen = desk.receipts.seen
    other.gateway.run(12)
    other.head()
    desk.take(checkpoint=other.platform._note)
    assert desk.receipts.seen == seen
    assert desk.events == [("sealing.proof_refused", {"reason": "sealing.register_split"})]


def test_budget_lets_the_oldest_heads_go_and_never_the_chain() -> None:
    desk = Desk()
    desk.take(desk.platform.proof(0))
    desk.receipts = desk.opened(bytes_max=4_000)
    for _ in range(8):
        desk.gateway.run(6)
        desk.time.pass_s(1)
        desk.receipts._newest = None  # every head is the first of its ten minutes
        desk.take(desk.head())
    kept = desk.kept()
    assert kept[0] == 0 and kept[-1] == max(desk.platform._heads.values()) and len(kept) < 8
    assert sum(desk.disk.size(f"register/{i}.proof") for i in kept) <= 4_000


def test_damaged_receipt_is_told_and_asked_for_again() -> None:
    desk = Desk()
    desk.gateway.run(6)
    head = desk.head()
    desk.take(head, desk.platform.proof(0))
    path = f"register/{max(desk.kept())}.proof"
    desk.disk.visible[path] = desk.disk.visible[path][:50]
    desk.receipts = desk.opened()
    assert desk.receipts.proven == 0 and desk.events[-1][0] == "sealing.proof_refused"
    desk.take(head)
    assert desk.receipts.proven == desk.gateway.journal.size
