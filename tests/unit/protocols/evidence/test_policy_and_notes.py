"""Whom a checker trusts, and the notes that are signed."""

from __future__ import annotations

import json

import pytest

from protocols.errors import VerificationError
from protocols.evidence import keys, note, policy, proof
from protocols.evidence.note import COSIGNATURE_V1, ED25519, VerifierKey

# From fixed seeds: the lines below are names of tests, and every worker must give them the same.
LOG, W1, W2, W3, STRANGER = (keys.Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 6))


def vkey(name: str, key: keys.Ed25519PrivateKey, kind: int = COSIGNATURE_V1) -> VerifierKey:
    return VerifierKey(name, kind, keys.public_bytes(key))


LOG_LINE = f"log {vkey('example.org/r', LOG, ED25519)}"
WITNESSES = [f"witness w{n} {vkey(f'w{n}.example', key)}" for n, key in enumerate((W1, W2, W3), start=1)]


def quorum(*lines: str) -> policy.Quorum:
    return policy.parse_quorum("\n".join([LOG_LINE, *WITNESSES, *lines]) + "\n", where="policy")


def raw(*several: keys.Ed25519PrivateKey) -> set[bytes]:
    return {keys.public_bytes(key) for key in several}


def test_groups_nest_and_count_keys() -> None:
    nested = quorum("group city any w1 w2", "group all-of-it all city w3", "quorum all-of-it")
    assert nested.holds(raw(W2, W3))
    assert nested.holds(raw(W1, W2, W3))
    assert not nested.holds(raw(W1, W2))
    assert not nested.holds(raw(LOG, W3))
    assert quorum("group two 2 w1 w2 w3", "quorum two").holds(raw(W1, W3))
    assert not quorum("group two 2 w1 w2 w3", "quorum two").holds(raw(W1))
    assert quorum("quorum none").holds(set())


@pytest.mark.parametrize(("line", "code"), [
    (f"witness again {vkey('other.example', W1)}", "policy.duplicate_key"),
    (f"witness w1 {vkey('w1.example', STRANGER)}", "policy.name_used_twice"),
    (f"witness log {vkey('log.example', STRANGER, ED25519)}", "policy.line"),
    ("group g 4 w1 w2", "policy.line"), ("group g 0 w1 w2", "policy.line"),
    ("group g any nobody", "policy.unknown_name"), ("group g any w1\ngroup h any w1", "policy.name_used_twice"),
    ("threshold 3", "policy.line"), (LOG_LINE, "policy.line"),
    ("quorum w1\nquorum w2", "policy.quorum_lines"), ("quorum nobody", "policy.unknown_name")])
def test_a_policy_that_says_two_things_or_nothing_is_refused(line: str, code: str) -> None:
    with pytest.raises(VerificationError) as refusal:
        quorum(*line.split("\n"), *([] if line.startswith("quorum") else ["quorum w1"]))
    assert refusal.value.problems[0].code == code


def test_one_key_as_log_and_witness_is_refused() -> None:
    with pytest.raises(VerificationError, match="duplicate_key"):
        quorum(f"witness own {vkey('own', LOG)}", "quorum own")


def test_the_log_line_must_be_the_register() -> None:
    text = "\n".join([LOG_LINE, *WITNESSES, "quorum w1"])
    other = str(vkey("example.org/r", W3, ED25519))
    with pytest.raises(VerificationError, match="log_differs"):
        policy.parse(json.dumps({"register": other, "witnesses": text}).encode(), where="policy")
    with pytest.raises(VerificationError, match="log_differs"):
        policy.parse(json.dumps({"witnesses": text}).encode(), where="policy")
    fields = {"register": LOG_LINE[4:], "witnesses": text}
    with pytest.raises(VerificationError, match="unknown_name"):
        policy.parse(json.dumps({**fields, "independent": ["w9"]}).encode(), where="p")
    good = policy.parse(json.dumps({**fields, "independent": ["w2"]}).encode(), where="p")
    assert good.independent_keys == {keys.public_bytes(W2): "w2"}


TEXT = "example.org/r\n1\n" + "A" * 43 + "=\n"


def test_unknown_signatures_are_passed_over_and_a_known_bad_one_rejects_the_note() -> None:
    log, witness = vkey("example.org/r", LOG, ED25519), vkey("w1.example", W1)
    data = note.format_note(TEXT, [
        note.sign(TEXT, LOG, name="example.org/r"), note.cosign(TEXT, W1, name="w1.example", time_s=99),
        note.sign(TEXT, W3, name="stranger")])
    parsed = note.parse(data, where="")
    note.require_signed(parsed, log, where="")
    assert [(c.name, c.time_s) for c in note.cosignatures(parsed, [witness], where="")] == [("w1.example", 99)]
    moved = note.parse(data.replace(b"\n1\n", b"\n2\n"), where="")
    with pytest.raises(VerificationError, match="bad_signature"):
        note.require_signed(moved, log, where="")
    with pytest.raises(VerificationError, match="bad_signature"):
        note.cosignatures(moved, [witness], where="")
    with pytest.raises(VerificationError, match="unsigned"):
        note.require_signed(parsed, vkey("example.org/r", W2, ED25519), where="")


@pytest.mark.parametrize("data", [
    b"", b"text\n", b"text\n\n", b"text\n\nno dash\n", "text\n\n\u2014 name AAAA\n".encode(), b"\xff\n\n",
    "te\x01xt\n\n\u2014 n AAAAAAAA\n".encode(), "t\n\n\u2014 a+b AAAAAAAA\n".encode(),
    ("t\n\n" + "\u2014 n AAAAAAAA\n" * 101).encode(), "t\n\n\u2014 n AAAAAAB=\n".encode(), b"a" * 70_000])
def test_malformed_notes_are_refused(data: bytes) -> None:
    with pytest.raises(VerificationError):
        note.parse(data, where="")


def test_a_proof_file_reads_back_and_its_variants_are_refused() -> None:
    whole = proof.LogProof(7, (b"\1" * 32, b"\2" * 32), note.format_note(TEXT, [note.sign(TEXT, LOG, name="x")]), b"{}")
    data = whole.encode()
    assert proof.parse(data, where="") == whole
    for bad in (data.replace(b"index 7", b"index 07"), data.replace(b"index 7", b"index -7"), data[:40], b"x" + data,
                data.replace(b"extra", b"Extra"), data.replace(b"index 7\n", b"index 7\n" + b"AAAA\n"), b"x" * 200_000):
        with pytest.raises(VerificationError):
            proof.parse(bad, where="")
