"""Files that were promised: what matches, what differs, what is hostile, and what auditors demanded."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from protocols.evidence import jcs, merkle, opening, roster, signed
from protocols.evidence import raw as format_
from protocols.evidence.bundle import open_bundle
from tallystick.words.lookup import Words
from tests.support.schemas import validate
from verifier.commands import as_json, as_text
from verifier.conformance import raw
from verifier.conformance.world import (
    START_S,
    Gateway,
    World,
    device_row,
    key_of,
    private_part,
    two_devices,
    zipped,
)
from verifier.proof.also import sort
from verifier.proof.verify import Verdict, verify
from verifier.raw.recount import recount

HOUR_S = START_S - START_S % 3600


class Kept:
    """A gateway with five windows, the first four of them kept in one file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World()
        self.gateway: Gateway = self.world.gateway()
        self.world.round(time_s=START_S - 10)
        self.gateway.begin()
        self.private = private_part("press", maker="Maker", model="M-1", serial="S-0")
        self.gateway.roster([device_row(0, private=self.private), device_row(1)], two_devices(self.gateway)[1])
        self.seqs = [self.gateway.window(), self.gateway.window(producing=[0]), self.gateway.window(changing=[1]),
                     self.gateway.window(connected=[0], sampled=[0])]
        self.path = folder / "raw.parquet"
        self.rows = list(raw.rows(self.gateway, self.seqs))

    def keep(self, rows: list[dict[str, Any]] | None = None, *, data: bytes | None = None, **changes: Any) -> None:
        if data is None:
            data = raw.write(self.path, self.rows if rows is None else rows, **{
                name: changes.pop(name) for name in ("schema", "groups") if name in changes})
        self.path.write_bytes(data)
        self.gateway.keep(data, self.seqs[0], self.seqs[-1], **changes)
        self.gateway.window()

    def demand(self, *, slots: list[int] = [], hours: list[int] = [], deadline_s: int) -> None:  # noqa: B006  # not kept
        demand = {"gateway": self.gateway.id, "slots": slots, "hours": hours, "deadline_s": deadline_s}
        self.world.add({"type": "demand", "demand": signed.sign("demand", demand, key_of("auditor"))})

    def verdict(self, *also: Path, **changes: Any) -> Verdict:
        self.world.round(time_s=self.gateway.now_s + 10)
        found = verify(open_bundle(zipped(self.gateway.members())), self.world.policy(), also=sort(also),
                       **{"recount": recount} | changes)
        validate(as_json(found, Words("en")), "verify.schema.json")
        assert as_text(found, Words("zh"))
        return found


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def told(verdict: Verdict, prefix: str = "") -> list[tuple[str, str, str]]:
    return [(f.severity, f.code, f.where) for f in verdict.findings if f.code.startswith(prefix)]


def codes(verdict: Verdict) -> set[str]:
    return {f.code for f in verdict.findings if f.code.split(".")[0] in ("kept", "raw")}


def test_every_window_comes_out_of_the_file(kept: Kept) -> None:
    kept.keep(groups=5)
    verdict = kept.verdict(kept.path)
    assert verdict.valid and told(verdict, "kept") == [("remark", "kept.matches", "also/raw.parquet")]
    assert verdict.summary.kept.as_json() == {
        "entries": 1, "bytes": kept.path.stat().st_size, "opened": 1, "recounted": 4}
    lines = as_text(verdict, Words("en"))
    assert any("4 windows came out of them once more" in line for line in lines)


def test_without_the_file_the_promise_is_told(kept: Kept) -> None:
    kept.keep()
    verdict = kept.verdict()
    assert verdict.valid and not codes(verdict)
    assert (verdict.summary.kept.entries, verdict.summary.kept.opened) == (1, 0)


def changed(rows: list[dict[str, Any]], which: int, **changes: Any) -> list[dict[str, Any]]:
    """Change the n-th sample row of the first window."""
    at = [i for i, row in enumerate(rows) if row["kind"] == "sample" and row["window_s"] == START_S][which]
    return [*rows[:at], rows[at] | changes, *rows[at + 1:]]


@pytest.mark.parametrize(("lie", "column"), [
    (lambda rows: changed(rows, 0, quality=2), {"counted", "bad_quality"}),
    (lambda rows: changed(rows, 0, received_ns=START_S * 10**9 - 1), {"counted", "late"}),
    (lambda rows: changed(rows, 0, source_ns=1), {"counted", "stale"}),
    (lambda rows: changed(rows, 0, quality=0x80), {"counted", "not_live"}),
    (lambda rows: changed(rows, 0, slot=5), {"counted", "unknown_point"}),
    (lambda rows: [row if row["kind"] != "sample" else row | {"value": 7.0} for row in rows], {"changing"}),
    (lambda rows: [row for row in rows if row["kind"] != "answered" or row["window_s"] != rows[-1]["window_s"]],
     set()),  # a producing point connects its device by itself
    (lambda rows: [{"window_s": START_S, "kind": "discarded", "text": "queue_full", "count": 3}, *rows],
     {"received", "queue_full"}),
    (lambda rows: [*rows, {"window_s": rows[-1]["window_s"], "kind": "answered", "slot": 1, "received_ns": 1,
                           "until_ns": 1, "count": 1}], {"connected"}),
    (lambda rows: [{"window_s": START_S, "kind": "value_before", "slot": 0, "value": 9.0}, *rows], set()),
    (lambda rows: [{"window_s": START_S, "kind": "online_before", "slot": 1, "received_ns": 5, "counted_s": 0,
                    "count": 1}, *rows], {"connected"}),
])
def test_a_window_that_does_not_come_out_is_a_fault_that_names_the_column(
        kept: Kept, lie: Any, column: set[str]) -> None:
    kept.keep(lie(kept.rows))
    verdict = kept.verdict(kept.path)
    found = [dict(f.args)["column"] for f in verdict.findings if f.code == "kept.differs"]
    assert set(found) == column and verdict.valid == (not column)
    assert all(f.severity == "fault" and f.where.startswith("entry/") for f in verdict.findings
               if f.code == "kept.differs")


def test_a_file_of_somebody_else_says_nothing(kept: Kept) -> None:
    kept.keep()
    kept.path.write_bytes(kept.path.read_bytes() + b"\0")
    verdict = kept.verdict(kept.path)
    assert verdict.valid and codes(verdict) == {"kept.unknown"}


def test_a_promise_with_another_size_or_of_later_entries_is_none(kept: Kept) -> None:
    kept.keep(bytes=5)
    verdict = kept.verdict(kept.path)
    assert verdict.valid and codes(verdict) == {"kept.unknown"}
    other = Kept(kept.folder)
    other.keep(to_seq=10**6)
    verdict = other.verdict(other.path)
    assert verdict.valid and codes(verdict) == {"kept.range", "kept.unknown"}


def test_where_pyarrow_is_missing_the_digest_is_compared_and_that_is_told(
        kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.keep()
    for name in [n for n in sys.modules if n.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    verdict = kept.verdict(kept.path)
    assert verdict.valid and codes(verdict) == {"kept.matches", "kept.no_reader"}
    assert verdict.summary.kept.recounted == 0 and verdict.summary.kept.opened == 1


HOSTILE = {
    "no Parquet": (b"PAR1 and nothing", "raw.unreadable"),
    "nothing": (b"", "raw.unreadable"),
    "text": (os.urandom(50), "raw.unreadable"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_promised_file_that_is_no_segment_is_told(kept: Kept, name: str) -> None:
    data, code = HOSTILE[name]
    kept.keep(data=data)
    verdict = kept.verdict(kept.path)
    assert verdict.valid and codes(verdict) == {"kept.matches", code, "kept.not_reproduced"}


@pytest.mark.parametrize(("broken", "code"), [
    (lambda rows: [row | {"kind": "odd"} if i == 3 else row for i, row in enumerate(rows)], "raw.columns"),
    (lambda rows: [row | {"slot": None} if i == 3 else row for i, row in enumerate(rows)], "raw.columns"),
    (lambda rows: [row | {"window_s": None} if i == 3 else row for i, row in enumerate(rows)], "raw.columns"),
    (lambda rows: rows[1:], "raw.samples"),
    (lambda rows: [{"window_s": START_S, "kind": "discarded", "text": "mood", "count": 1}, *rows], "raw.reason"),
    (lambda rows: [{"window_s": START_S, "kind": "discarded", "text": "late", "count": -1}, *rows], "raw.reason"),
    (lambda rows: [row for row in rows if row["window_s"] != START_S + 60], "raw.hole"),
])
def test_a_segment_that_breaks_a_rule_is_told_and_proves_nothing(kept: Kept, broken: Any, code: str) -> None:
    kept.keep(broken(kept.rows))
    verdict = kept.verdict(kept.path)
    assert verdict.valid and code in codes(verdict) and "kept.not_reproduced" in codes(verdict)


def test_limits_are_looked_at_before_rows_are_read(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.keep()
    for limit, most in (("ROWS_MAX", 10), ("ROW_GROUPS_MAX", 0), ("GROUP_ROWS_MAX", 10), ("GROUP_BYTES_MAX", 10)):
        with monkeypatch.context() as patch:
            patch.setattr(format_, limit, most)
            patch.setattr("pyarrow.parquet.ParquetFile.read_row_group",
                          lambda *args, **kwargs: pytest.fail("rows were read"))
            verdict = kept.verdict(kept.path)
        assert "raw.too_large" in codes(verdict) or "raw.unreadable" in codes(verdict)
    with monkeypatch.context() as patch:
        patch.setattr(format_, "BYTES_MAX", 10)
        assert "raw.size" in codes(kept.verdict(kept.path))
    wide = dict(format_.COLUMNS) | {"more": "int64"}
    other = Kept(kept.folder)
    other.keep(schema=wide)
    assert "raw.columns" in codes(other.verdict(other.path))


def test_one_long_text_in_many_rows_fills_no_memory(kept: Kept) -> None:
    """As a dictionary it is a few kilobytes in the file; written out it would be gigabytes."""
    long = [row | {"text": "x" * 50_000} if row["kind"] == "sample" else row for row in kept.rows]
    kept.keep(long)
    assert kept.path.stat().st_size < 20_000
    assert "raw.columns" in codes(kept.verdict(kept.path))
    many = Kept(kept.folder)
    row = {"window_s": START_S, "kind": "discarded", "text": "late", "count": 0}
    many.keep([*[row] * 10_001, *many.rows])
    assert "raw.too_large" in codes(many.verdict(many.path))


def test_damaged_files_end_in_a_finding_and_never_in_an_exception(kept: Kept) -> None:
    whole = raw.write(kept.path, kept.rows)
    rng = random.Random(5)
    seen: set[str] = set()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            if rng.random() < 0.5:
                data[at] ^= 1 << rng.randrange(8)
            else:
                data[at : at + rng.randrange(1, 30)] = rng.randbytes(rng.randrange(30))
        one = Kept(kept.folder)
        one.keep(data=bytes(data))
        seen |= codes(one.verdict(one.path))
    assert {"raw.unreadable", "kept.matches"} <= seen


def test_windows_outside_the_bundle_are_not_counted_again(kept: Kept) -> None:
    kept.keep()
    for _ in range(300):
        kept.gateway.window()
    kept.world.round(time_s=kept.gateway.now_s + 10)
    members = kept.gateway.members(first_tile=1)
    verdict = verify(open_bundle(zipped(members)), kept.world.policy(), also=sort([kept.path]), recount=recount)
    assert verdict.valid and codes(verdict) == {"kept.unknown"}  # the promise itself is not shown either


# Demands


def opened(kept: Kept, slot: int = 0) -> Path:
    tree = merkle.Tree(merkle.leaf_hash(jcs.encode(row)) for row in kept.gateway.devices)
    bare = json.loads(kept.gateway.opening(slot, kept.private))
    file = opening.build(bare, kept.gateway.devices[slot], roster_seq=kept.gateway.roster_seq, tree=tree)
    path = kept.folder / "opening.json"
    path.write_bytes(jcs.encode(file))
    return path


def test_a_demand_is_open_then_answered_or_not(kept: Kept) -> None:
    kept.keep()
    kept.demand(slots=[0], hours=[HOUR_S], deadline_s=kept.gateway.now_s + 3600)
    verdict = kept.verdict()
    assert told(verdict, "demand") == [("remark", "demand.open", "register/1.proof")]
    seq = kept.gateway.now_s
    while kept.gateway.now_s < seq + 3700:
        kept.gateway.window()
    verdict = kept.verdict()
    assert verdict.valid and told(verdict, "demand") == [("remark", "demand.unanswered", "register/1.proof")]
    (answer,) = verdict.summary.demands
    assert (answer.slots, answer.hours, answer.state) == ((0,), (HOUR_S,), "unanswered")
    assert any("NOT ANSWERED" in line for line in as_text(verdict, Words("en")))


def test_a_demand_is_answered_by_the_device_and_every_window_of_the_hour(kept: Kept) -> None:
    kept.demand(slots=[0], hours=[HOUR_S], deadline_s=START_S)
    kept.keep()
    opening_ = opened(kept)
    verdict = kept.verdict(kept.path, opening_)
    (answer,) = verdict.summary.demands
    assert (answer.state, answer.slots) == ("unanswered", ())  # the fifth window of the hour is in no file
    assert answer.hours == (HOUR_S,)

    whole = Kept(kept.folder)
    whole.demand(slots=[0], hours=[HOUR_S], deadline_s=START_S)
    data = raw.write(whole.path, whole.rows)
    whole.gateway.keep(data, whole.seqs[0], whole.seqs[-1])
    verdict = whole.verdict(whole.path, opened(whole))
    assert verdict.summary.demands[0].state == "answered" and told(verdict, "demand") == []
    assert verdict.summary.opened == 1
    false = Kept(kept.folder)
    false.demand(hours=[HOUR_S], deadline_s=START_S)
    false.gateway.keep(raw.write(false.path, changed(false.rows, 0, quality=2)), false.seqs[0], false.seqs[-1])
    verdict = false.verdict(false.path)
    assert not verdict.valid and verdict.summary.demands[0].state == "unanswered"


def test_without_a_cosignature_after_the_deadline_a_demand_stays_open(kept: Kept) -> None:
    kept.demand(slots=[1], deadline_s=kept.gateway.now_s + 10)
    assert told(kept.verdict(), "demand")[0][1] == "demand.open"  # co-signed at the deadline, not after it


# Openings


def test_an_opening_stands_below_the_root_of_its_roster(kept: Kept) -> None:
    path = opened(kept)
    value = json.loads(path.read_bytes())
    verdict = kept.verdict(path)
    assert told(verdict, "opening") == [("remark", "opening.holds", "also/opening.json")]
    assert verdict.evidence is not None and verdict.evidence.opened[0]["name"] == "press"
    for name, changes, code in (
            ("another row", {"row": value["row"] | {"region": "110000"}}, "merkle.inclusion"),
            ("another index", {"index": 1}, "opening.misplaced"),
            ("another size", {"size": 3}, "opening.misplaced"),
            ("no hashes", {"hashes": []}, "merkle.inclusion"),
            ("too many", {"hashes": ["00" * 32] * 20}, "shape"),
            ("another name", {"opening": value["opening"] | {
                "private": value["opening"]["private"] | {"serial": "S-1"}}}, "opening.private"),
            ("a tag less", {"opening": value["opening"] | {"tags": []}}, "opening.tags")):
        path.write_bytes(jcs.encode(value | changes))
        verdict = kept.verdict(path)
        assert verdict.valid and 0 not in verdict.evidence.opened, name  # type: ignore[union-attr]
        found = [c for _, c, where in told(verdict) if where.startswith("also/")]
        assert len(found) == 1 and (found[0] == code or code == "shape"), (name, found)


def test_an_opening_of_an_older_roster_still_opens(kept: Kept) -> None:
    path = opened(kept)
    renamed = private_part("press 2", maker="Maker", model="M-1", serial="S-0")
    kept.gateway.roster([device_row(0, private=renamed), device_row(1)], kept.gateway.points)
    kept.gateway.window()
    verdict = kept.verdict(path)
    assert [code for _, code, _ in told(verdict, "opening")] == ["opening.holds", "opening.older"]


def test_openings_of_strangers_and_bare_ones(kept: Kept) -> None:
    path = kept.folder / "bare.json"
    path.write_bytes(kept.gateway.opening(0, kept.private))
    assert [code for _, code, _ in told(kept.verdict(path), "opening")] == ["opening.holds"]
    value = json.loads(path.read_bytes())
    path.write_bytes(jcs.encode(value | {"gateway": "0" * 32}))
    assert [code for _, code, _ in told(kept.verdict(path), "opening")] == ["opening.unrelated"]
    path.write_bytes(jcs.encode(value | {"slot": 9}))
    assert [code for _, code, _ in told(kept.verdict(path), "opening")] == ["opening.misplaced"]
    assert roster.OPENING is not None


# Old verifiers


def test_types_that_a_verifier_does_not_know_are_passed_over_with_a_remark(kept: Kept) -> None:
    """What `keep` and `demand` are to a verifier that was written before them."""
    kept.gateway.add("keep2", True, from_seq=3, to_seq=4, anything={"more": [1]})
    kept.gateway.window()
    kept.world.add({"type": "demand2", "gateway": kept.gateway.id, "anything": 1})
    verdict = kept.verdict()
    assert verdict.valid
    assert ("remark", "entry.unknown_type", f"entry/{kept.seqs[-1] + 1}") in told(verdict)
    assert ("remark", "register.unknown_type", "register/1.proof") in told(verdict)
