"""Receipts: verified before they are kept, thinned by the rule, whole chains only; and what is seen."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from gateway.sealing import receipts
from gateway.sealing.export import export_bundle
from gateway.sealing.journal import Journal
from gateway.sealing.receipts import KEEP_EVERY_S, Receipts, Trust
from protocols.evidence import keys, note, proof, signed
from protocols.evidence.bundle import open_bundle
from protocols.evidence.encoding import from_base64
from protocols.evidence.policy import parse
from tests.sim.disk import FaultyDisk
from tests.sim.platform import POLICY, REGISTER, WITNESS, Platform, enrolment
from tests.sim.rows import registry
from tests.sim.world import Gateway, Time, private_key
from verifier.proof.verify import verify

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


def demand(desk: Desk, *, by: int = 50, **changes: Any) -> dict[str, Any]:
    return {"type": "demand", "demand": signed.sign("demand", {
        "gateway": desk.platform.gateway, "slots": [0], "hours": [3600], "deadline_s": 1_900_000_000} | changes,
        private_key(by))}


def revocation(desk: Desk, from_size: int) -> dict[str, Any]:
    return {"type": "revoke", "revocation": signed.sign("revocation", {
        "gateway": desk.platform.gateway, "gateway_key": desk.platform.public.hex(), "from_size": from_size},
        private_key(99))}


def everything(desk: Desk) -> list[str]:
    """What the platform answers when it is asked for the register."""
    return [desk.platform.proof(i) for i in (*desk.platform._chain, max(desk.platform._heads.values()))]


def test_a_demand_is_told_once_and_listed_also_after_a_restart() -> None:
    desk = Desk()
    desk.gateway.run(6)
    desk.take(desk.head(), desk.platform.proof(0))
    assert desk.receipts.demands == [] and desk.events == []
    index = desk.platform.say(demand(desk))
    desk.platform.say(demand(desk, gateway="0" * 32))  # of another gateway of the enterprise
    for _ in range(2):
        desk.take(*everything(desk))
    assert [code for code, _ in desk.events] == ["statements.demanded"]
    assert desk.events[0][1]["slots"] == 1 and desk.events[0][1]["hours"] == 1
    for receipts_ in (desk.receipts, desk.opened()):
        assert [(d.index, d.slots, d.hours, d.deadline_s) for d in receipts_.demands] == [
            (index, (0,), (3600,), 1_900_000_000)]
        assert receipts_.demands[0].key == keys.public_bytes(private_key(50)).hex()
        assert receipts_.revoked_from is None
    assert [code for code, _ in desk.events] == ["statements.demanded"], "not at the start again"


def test_an_announced_draw_is_told_as_such() -> None:
    desk = Desk()
    desk.gateway.run(6)
    desk.head()
    index = desk.platform.say(demand(desk, slots=[], hours=[]))
    desk.take(*everything(desk))
    assert [code for code, _ in desk.events] == ["statements.announced"]
    assert [(d.index, d.slots, d.hours) for d in desk.receipts.demands] == [(index, (), ())]


def test_a_demand_that_nobody_signed_is_not_listed() -> None:
    desk = Desk()
    desk.gateway.run(6)
    desk.head()
    said = demand(desk)
    said["demand"]["deadline_s"] += 1
    desk.platform.say(said)
    desk.take(*everything(desk))
    assert desk.receipts.demands == [] and desk.events == []
    assert desk.receipts.proven == desk.gateway.journal.size, "the chain is whole all the same"


def test_a_deadline_beyond_every_calendar_is_told() -> None:
    desk = Desk()
    desk.gateway.run(6)
    desk.head()
    desk.platform.say(demand(desk, deadline_s=2**53 - 1))
    desk.take(*everything(desk))
    assert desk.events[0][1]["deadline"] == f"{2**53 - 1} s"


def test_a_revocation_of_this_gateway_is_told_and_reaches_its_bundle(tmp_path: Path) -> None:
    """Nothing grows any more, so the register repeats the head; the first one stays, for its earlier time."""
    desk = Desk()
    desk.gateway.run(12)
    desk.take(desk.head(), desk.platform.proof(0))
    first = max(desk.platform._heads.values())
    size = desk.gateway.journal.size
    for number, from_size in enumerate((size - 1, size - 2)):
        desk.time.pass_s(1)
        desk.platform.say(revocation(desk, from_size))
        desk.take(*everything(desk))
        assert [code for code, _ in desk.events] == ["statements.own_key_revoked"] * (number + 1)
        assert desk.receipts.revoked_from == from_size
        newest = max(desk.platform._heads.values())
        assert desk.kept() == [0, first, *desk.platform._chain[1:], newest], "of the repeats the newest only"
    assert desk.opened().revoked_from == size - 2
    done = export_bundle(Journal(desk.disk, writable=False), out=tmp_path / "x.tally")
    assert done.heads == 2
    verdict = verify(open_bundle(tmp_path / "x.tally"), parse(POLICY, where="policy"))
    assert verdict.valid, verdict.findings
    told = verdict.summary.as_json()
    assert "register.revoked" in {f.code for f in verdict.findings}
    assert told["revocation"]["from_size"] == size - 2


def test_a_bundle_of_an_earlier_interval_shows_what_was_said_since(tmp_path: Path) -> None:
    desk = Desk()
    desk.gateway.run(700)
    desk.take(desk.head(), desk.platform.proof(0))
    middle = desk.time.wall_ns // 10**9
    desk.gateway.run(700)
    desk.take(desk.head())
    index = desk.platform.say(demand(desk))
    desk.gateway.run(700)
    desk.take(desk.head())
    head = max(desk.platform._heads.values())
    export_bundle(Journal(desk.disk, writable=False), out=tmp_path / "early.tally", end_s=middle)
    assert index not in open_bundle(tmp_path / "early.tally").numbered["register"], "its chain was not fetched yet"
    desk.take(*everything(desk))
    export_bundle(Journal(desk.disk, writable=False), out=tmp_path / "x.tally", end_s=middle)
    shown = open_bundle(tmp_path / "x.tally").numbered["register"]
    assert index in shown and head in shown
    verdict = verify(open_bundle(tmp_path / "x.tally"), parse(POLICY, where="policy"))
    assert verdict.valid, verdict.findings


def test_damage_in_the_chain_is_told_and_asked_for_again() -> None:
    desk = Desk()
    desk.gateway.run(6)
    desk.head()
    index = desk.platform.say(demand(desk))
    desk.take(*everything(desk))
    desk.disk.visible[f"register/{index}.proof"] = b"damaged"
    desk.events.clear()
    again = desk.opened()
    assert again.proven == 0 and [code for code, _ in desk.events] == ["sealing.proof_refused"]
    desk.receipts = again
    desk.take(*everything(desk))
    assert again.proven == desk.gateway.journal.size and len(again.demands) == 1


def test_a_bundle_that_thins_receipts_beside_a_running_gateway_does_not_stop_it() -> None:
    desk = Desk()
    for _ in range(3):
        desk.gateway.run(6)
        desk.take(desk.head())
    del desk.disk.visible[f"register/{desk.kept()[-1]}.proof"]  # by `bundle`, which had a newer head
    desk.take(*everything(desk))
    assert desk.receipts.proven == desk.gateway.journal.size
    desk.receipts.bytes_max = 0
    desk.gateway.run(6)
    desk.take(desk.head())
    assert desk.receipts.proven == desk.gateway.journal.size and desk.events == []


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
