"""Intake: an honest log is accepted whole or in parts; every refusal has its own cause."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import verifier.platform.intake as intake_module
import verifier.platform.roster as roster_module
from protocols.errors import VerificationError
from protocols.evidence import column, jcs, keys, merkle, signed
from tests.support.scripted_gateway import (
    ScriptedGateway,
    bits,
    change,
    device_row,
    key_of,
    packed,
    point_row,
)
from verifier.platform.intake import LogState, RootDiffersError, accept, first_state


def certificate_of(gateway: ScriptedGateway) -> dict[str, Any]:
    request = gateway.enrol_request("token")
    return signed.sign("certificate", {
        **{n: request[n] for n in ("gateway_key", "uscc", "site", "k_sha256", "recovery_key", "supersedes")},
        "token_sha256": "00" * 32}, key_of("platform"))


@pytest.fixture
def gateway() -> ScriptedGateway:
    one = ScriptedGateway()
    one.begin(certificate_of(one))
    return one


def take(gateway: ScriptedGateway, state: LogState | None = None, **changes: Any) -> LogState:
    state = state or first_state(certificate_of(gateway))
    request = gateway.batch(state.size) | changes
    return accept(state, request["first"], [text.encode() for text in request["entries"]],
                  request["checkpoint"].encode(), {r["seq"]: r["rows"] for r in request["rosters"]}).state


def test_honest_log_is_accepted_whole_and_in_parts(gateway: ScriptedGateway) -> None:
    state = take(gateway)
    for step in range(6):
        gateway.window(producing=bits(0, 1), changing=bits(1), connected=bits(0))
        if step == 2:
            gateway.outage(3)
        if step == 3:
            gateway.rotate()
            gateway.start()
            gateway.roster([device_row(1, state="gone"), device_row(2, replaces=1)],
                           [point_row(2, 1, gateway.id, state="gone"), point_row(4, 2, gateway.id)])
        if step == 4:
            gateway.outage(-2, "clock_back")
            gateway.add("management", later="types are passed over")
        state = take(gateway, state)
        assert state.edge.root() == gateway.tree.root()
    whole = take(gateway)
    assert (whole.edge, whole.roster, whole.key_history, whole.life) == (
        state.edge, state.roster, state.key_history, state.life)
    assert whole.roster.alive_devices == bits(0, 2) and whole.roster.alive_points == bits(0, 1, 3, 4)


def replaced(seq: int, /, **fields: Any) -> Callable[[ScriptedGateway], None]:
    """Replace fields of the entry `seq` (of the last one for -1) and sign the result."""
    def spoil(gateway: ScriptedGateway) -> None:
        at = range(len(gateway.entries))[seq]
        gateway.entries[at] = change(gateway.entries[at], **fields)
        gateway.tree = merkle.Tree(map(merkle.leaf_hash, gateway.entries))
    return spoil


def window_with(**fields: Any) -> Callable[[ScriptedGateway], None]:
    def spoil(gateway: ScriptedGateway) -> None:
        gateway.window(**fields)
    return spoil


def columns(**values: str) -> Callable[[ScriptedGateway], None]:
    """Append a window with some columns replaced."""
    def spoil(gateway: ScriptedGateway) -> None:
        gateway.window()
        old = jcs.parse(gateway.entries[-1], where="test", bytes_max=65_535)["columns"]
        replaced(-1, columns={**old, **values})(gateway)
    return spoil


def after_window(then: Callable[[ScriptedGateway], Any]) -> Callable[[ScriptedGateway], None]:
    def spoil(gateway: ScriptedGateway) -> None:
        gateway.window()
        then(gateway)
    return spoil


def rows(devices: Callable[[ScriptedGateway], list[Any]] = lambda g: [],
         points: Callable[[ScriptedGateway], list[Any]] = lambda g: [], **fields: Any
         ) -> Callable[[ScriptedGateway], None]:
    return lambda gateway: gateway.roster(devices(gateway), points(gateway), **fields) and None


def raw_rows(edit: Callable[[str], str]) -> Callable[[ScriptedGateway], None]:
    """Change the text of the first roster's rows."""
    def spoil(gateway: ScriptedGateway) -> None:
        gateway.rows[2] = edit(gateway.rows[2])
    return spoil


def tombstone_with_bit(gateway: ScriptedGateway) -> None:
    gateway.roster([device_row(1, state="gone")], [])
    gateway.window(connected=bits(0, 1), producing=bits(0))


def alive_again(gateway: ScriptedGateway) -> None:
    gateway.roster([], [point_row(0, 0, gateway.id, state="gone")])
    gateway.roster([], [point_row(0, 0, gateway.id)])


def rotated_by(key: str, **changes: Any) -> Callable[[ScriptedGateway], None]:
    def spoil(gateway: ScriptedGateway) -> None:
        gateway.key = key_of(key)
        gateway.rotate(**changes)
    return spoil


OWN = "gateway one"
REFUSALS: dict[str, tuple[Callable[[ScriptedGateway], Any], str]] = {
    "another gateway": (replaced(1, gateway="00" * 16), "intake.other_gateway"),
    "life": (replaced(1, life=-1), "intake.life"),
    "seq": (replaced(1, seq=7), "entry.misplaced"),
    "unknown field": (replaced(1, extra=1), "shape.unknown_field"),
    "missing field": (lambda g: g.add_bytes(jcs.encode({"type": "window", "gateway": g.id, "seq": 3, "life": 2})),
                      "shape.missing_field"),
    "not canonical": (lambda g: g.add_bytes(b'{"type": "x"}'), "json.not_canonical"),
    "not JSON": (lambda g: g.add_bytes(b"\x00"), "json.unreadable"),
    "nested too deeply": (lambda g: g.add_bytes(b"[" * 30_000 + b"]" * 30_000), "json.unreadable"),
    "second enrolment": (lambda g: g.add("enrolment", certificate=certificate_of(g)), "intake.order"),
    "other certificate": (replaced(0, certificate=certificate_of(ScriptedGateway(site="Plant 2"))),
                          "intake.certificate"),
    "length that cuts the hour": (lambda g: g.start(len_s=7), "intake.len"),
    "window off the grid": (window_with(start_s=1_760_000_041), "intake.window_grid"),
    "window of another length": (window_with(len_s=30), "intake.window_grid"),
    "window with an old roster": (window_with(roster=1), "intake.window_roster"),
    "gap": (after_window(lambda g: g.window(start_s=g.next_s + 60)), "intake.window_gap"),
    "repeat": (after_window(lambda g: g.window(start_s=g.next_s - 60)), "intake.window_gap"),
    "gap after clock_back": (after_window(lambda g: (g.outage(-2, "clock_back"), g.window(start_s=g.next_s + 60))),
                             "intake.window_gap"),
    "not conserved": (lambda g: (g.window(), replaced(-1, samples={
        **jcs.parse(g.entries[-1], where="", bytes_max=65_535)["samples"], "received": 1})(g)),
        "intake.conservation"),
    "column too long": (columns(sampled=packed(0, 16)), "column.length"),
    "spare bit": (columns(sampled=packed(bits(0, 1, 2, 3, 4), 8)), "column.spare_bits"),
    "tombstone": (tombstone_with_bit, "intake.tombstone"),
    "changing beyond producing": (window_with(producing=bits(0), changing=bits(1)), "intake.nesting"),
    "producing beyond sampled": (window_with(producing=bits(0), sampled=bits(1)), "intake.nesting"),
    "producing beyond connected": (window_with(producing=bits(0, 2), connected=bits(0)), "intake.nesting"),
    "outage from elsewhere": (after_window(lambda g: g.outage(2, start_s=g.next_s + 60)), "intake.outage_start"),
    "rollback backwards": (after_window(lambda g: g.outage(-1, "rollback")), "intake.outage_end"),
    "window before the end of clock_back": (
        after_window(lambda g: (g.outage(-2, "clock_back"), g.window(start_s=g.next_s - 60))), "intake.window_gap"),
    "outage backwards": (after_window(lambda g: g.outage(-2)), "intake.outage_end"),
    "outage of other windows": (after_window(lambda g: g.outage(3, missing={"windows": 2, "samples": None})),
                                "intake.outage_windows"),
    "rotation by a stranger": (rotated_by("stranger"), "signed.wrong_signer"),
    "rotation of another root": (rotated_by(OWN, root="00" * 32), "intake.rotation"),
    "rotation to the same key": (rotated_by(OWN, new_key=keys.public_bytes(key_of(OWN)).hex()), "intake.key_again"),
    "rotation to a weak key": (rotated_by(OWN, new_key="01" + "00" * 31), "key.small_order"),
    "rows missing": (lambda g: g.rows.pop(2), "intake.roster_missing"),
    "rows of no roster": (lambda g: g.rows.update({1: ""}), "intake.roster_unasked"),
    "row left out": (raw_rows(lambda t: t.split("\n", 1)[1]), "intake.row_order"),
    "rows swapped": (raw_rows(lambda t: "".join(t.splitlines(keepends=True)[i] for i in (1, 0, 2, 3, 4, 5))),
                     "intake.row_order"),
    "device after points": (raw_rows(lambda t: t + jcs.encode(device_row(2)).decode() + "\n"), "intake.row_order"),
    "row changed": (raw_rows(lambda t: t.replace("320100", "320200", 1)), "intake.roster_root"),
    "last point left out": (raw_rows(lambda t: "".join(t.splitlines(keepends=True)[:-1])), "intake.roster_count"),
    "rows cut": (raw_rows(lambda t: t[:-1]), "intake.row_cut"),
    "row not canonical": (raw_rows(lambda t: t.replace(":", ": ", 1)), "json.not_canonical"),
    "row with an unknown field": (rows(lambda g: [{**device_row(2), "extra": 1}]), "shape.unknown_field"),
    "kind changed": (rows(lambda g: [device_row(1, kind="00" * 32)]), "intake.row_identity"),
    "tag removed": (rows(lambda g: [device_row(1, tags=[])]), "intake.row_identity"),
    "tombstone with another row": (rows(lambda g: [device_row(1, state="gone", region="320200")]),
                                   "intake.row_identity"),
    "point moved": (rows(points=lambda g: [point_row(0, 1, g.id)]), "intake.row_identity"),
    "point alive again": (alive_again, "intake.row_identity"),
    "point with another base": (rows(points=lambda g: [point_row(0, 0, g.id, base="00" * 32)]), "intake.row_identity"),
    "point given up with another row": (rows(points=lambda g: [point_row(0, 0, g.id, state="gone", role="derived")]),
                                        "intake.row_identity"),
    "address twice": (rows(points=lambda g: [{**g.points[0], "point": 4}]), "intake.row_twice"),
    "replaced and alive": (rows(lambda g: [device_row(2, replaces=0)]), "intake.row_target"),
    "parents in a circle": (rows(lambda g: [device_row(0, parent=1), device_row(1, parent=0)]), "intake.row_target"),
    "its own parent": (rows(lambda g: [device_row(1, parent=1)]), "intake.row_target"),
    "server of nobody": (rows(lambda g: [device_row(1, server={"spki_sha256": None, "via": 9})]), "intake.row_target"),
    "root of points": (rows(points_root="00" * 32), "intake.roster_root"),
    "number of devices": (lambda g: (g.roster([], []), replaced(-1, devices=3)(g)), "intake.roster_count"),
}


@pytest.mark.parametrize(("spoil", "code"), REFUSALS.values(), ids=REFUSALS.keys())
def test_spoiled_log_is_refused_with_its_cause(gateway: ScriptedGateway, spoil: Callable[[ScriptedGateway], Any],
                                               code: str) -> None:
    before = first_state(certificate_of(gateway))
    spoil(gateway)
    with pytest.raises(VerificationError) as caught:
        take(gateway, before)
    assert {problem.code for problem in caught.value.problems} == {code}
    assert before == first_state(certificate_of(gateway)), "a refused batch changes no state"


def test_too_many_bits_are_refused(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column, "BITS_MAX", 13)
    with pytest.raises(VerificationError, match=r"intake\.roster_too_large"):
        take(gateway)


def test_rows_that_change_nothing_may_be_sent_and_are_not_kept(gateway: ScriptedGateway) -> None:
    state = take(gateway)
    gateway.roster([device_row(1, region="320200")], [])
    changed = gateway.rows[3]
    everything = "".join(jcs.encode(row).decode() + "\n" for row in (*gateway.devices, *gateway.points))
    accepted = accept(state, 3, gateway.entries[3:], gateway.checkpoint().encode(), {3: everything})
    assert accepted.rosters == {3: changed}
    assert accepted.state.roster == take(gateway, state).roster


def checkpoints(gateway: ScriptedGateway) -> dict[str, tuple[str, str]]:
    return {
        "another key": (gateway.checkpoint(key=key_of("stranger")), "note.unsigned"),
        "another origin": (gateway.checkpoint(origin="tallystick/g/" + "0" * 32), "intake.origin"),
        "another size": (gateway.checkpoint(2), "intake.checkpoint_size"),
        "a flipped signature": (_flip_signature(gateway.checkpoint()), "note.bad_signature"),
        "text": ("hello", "note.malformed"),
    }


def _flip_signature(text: str) -> str:
    at = text.index("—") + 70 + len("tallystick/g/")
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1:]


@pytest.mark.parametrize("case", ["another key", "another origin", "another size", "a flipped signature", "text"])
def test_checkpoint_that_is_not_the_gateways(gateway: ScriptedGateway, case: str) -> None:
    text, code = checkpoints(gateway)[case]
    with pytest.raises(VerificationError, match=re.escape(code)):
        take(gateway, checkpoint=text)


def test_root_that_differs_is_told_apart(gateway: ScriptedGateway) -> None:
    with pytest.raises(RootDiffersError):
        take(gateway, checkpoint=gateway.checkpoint(root=b"\x00" * 32))


def test_batch_that_does_not_continue(gateway: ScriptedGateway) -> None:
    state = take(gateway)
    gateway.window()
    with pytest.raises(VerificationError, match=r"intake\.not_contiguous"):
        take(gateway, state, first=2)
    with pytest.raises(VerificationError, match=r"intake\.not_contiguous"):
        take(gateway, state, entries=[])


def test_checkpoints_are_signed_by_the_key_in_force(gateway: ScriptedGateway) -> None:
    old = gateway.key
    gateway.rotate()
    with pytest.raises(VerificationError, match=r"note\.unsigned"):
        take(gateway, checkpoint=gateway.checkpoint(key=old))
    state = take(gateway)
    assert state.key_at(3).public == keys.public_bytes(old)
    assert state.key_at(4).public == keys.public_bytes(gateway.key)


def test_every_intake_code_has_its_case() -> None:
    """A new refusal needs a case above."""
    files = (intake_module.__file__, roster_module.__file__)
    raised = set(re.findall(r'"(intake\.[a-z_]+)"', "".join(Path(str(f)).read_text() for f in files)))
    elsewhere = {"intake.not_contiguous", "intake.origin", "intake.checkpoint_size", "intake.root",
                 "intake.roster_too_large"}
    assert raised == {code for _, code in REFUSALS.values() if code.startswith("intake.")} | elsewhere


@settings(max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_any_cut_of_a_log_into_batches_gives_the_same_state(sizes: list[int], rng: Any) -> None:
    gateway = ScriptedGateway()
    gateway.begin(certificate_of(gateway))
    state = take(gateway)
    for count in sizes:
        for _ in range(count):
            rng.choice([gateway.window, gateway.window, lambda: gateway.outage(rng.randrange(1, 5))])()
        state = take(gateway, state)
    whole = take(gateway)
    assert (state.edge, state.resume_s, state.life) == (whole.edge, whole.resume_s, whole.life)
    assert whole.edge.root() == gateway.tree.root()


def test_tiles_that_are_full_before_a_key_is_rotated_are_written_too(gateway: ScriptedGateway) -> None:
    for _ in range(256):
        gateway.window()
    gateway.rotate()
    request = gateway.batch(0)
    accepted = accept(first_state(certificate_of(gateway)), 0, [text.encode() for text in request["entries"]],
                      request["checkpoint"].encode(), {r["seq"]: r["rows"] for r in request["rosters"]})
    assert [tile.path for tile, _ in accepted.tiles] == ["tile/0/000"]


@settings(max_examples=300)
@given(st.integers(0, 400), st.sampled_from(["", "\n", " ", "=", "0", "A", "B", "+", "\u2014", "\x00", "é", "9" * 17]),
       st.booleans(), st.sampled_from([0, 1, 2**53 - 1, 2**53]), st.booleans())
def test_a_checkpoint_is_read_quickly_only_where_the_long_way_reads_the_same(
        at: int, instead: str, spoiled: bool, size: int, other: bool) -> None:
    gateway = ScriptedGateway()
    state = first_state({"gateway_key": keys.public_bytes(gateway.key).hex()})
    origin = gateway.origin[:-1] + ("0" if gateway.origin[-1] != "0" else "1") if other else gateway.origin
    text = gateway.checkpoint(0, origin=origin).replace("\n0\n", f"\n{size}\n")
    data = (text[:at] + instead + text[at + 1 :] if spoiled else text).encode()
    quick = intake_module._read_plain(data, gateway.origin)
    if quick is not None:
        assert quick == intake_module._read_any(data, state)
    assert (quick is not None) or spoiled or other or size == 2**53
