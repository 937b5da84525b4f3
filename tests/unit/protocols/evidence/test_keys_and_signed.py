"""Keys that must not be trusted (C2SP/CCTV ed25519 at 1e3d286, BSD-3-Clause), and signed objects."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from protocols.errors import VerificationError
from protocols.evidence import keys, signed
from tests.support.vectors import vectors

(CCTV,) = vectors("ed25519_cctv", "ed25519vectors.json", 1)
CASES = json.loads(CCTV.read_text())
assert len(CASES) == 914


def refused(raw: bytes) -> bool:
    try:
        keys.check_public(raw, where="")
    except VerificationError:
        return True
    return False


def test_every_key_of_small_order_or_other_encoding_is_refused() -> None:
    bad = {case["key"] for case in CASES if {"low_order_A", "non_canonical_A"} & set(case["flags"] or ())}
    assert bad
    assert [key for key in sorted(bad) if not refused(bytes.fromhex(key))] == []


def test_no_other_key_of_the_list_is_refused() -> None:
    fine = {case["key"] for case in CASES if not {"low_order_A", "non_canonical_A"} & set(case["flags"] or ())}
    assert fine
    assert [key for key in sorted(fine) if refused(bytes.fromhex(key))] == []


def test_our_own_keys_pass_and_points_off_the_curve_do_not() -> None:
    for _ in range(50):
        keys.check_public(keys.public_bytes(keys.generate()), where="")
    off = sum(refused((y).to_bytes(32, "little")) for y in range(2, 200))
    assert 60 < off < 140, "about half of all y have no point"


def test_a_saved_key_is_private_and_is_never_overwritten(tmp_path: Path) -> None:
    key = keys.generate()
    keys.save(key, tmp_path / "a" / "k.pem")
    assert stat.S_IMODE((tmp_path / "a" / "k.pem").stat().st_mode) == 0o600
    assert keys.public_bytes(keys.load(tmp_path / "a" / "k.pem")) == keys.public_bytes(key)
    with pytest.raises(FileExistsError):
        keys.save(key, tmp_path / "a" / "k.pem")


FIELDS = {"gateway": "0" * 32, "gateway_key": "1" * 64, "from_size": 7}


def test_a_signed_object_holds_for_its_type_its_signer_and_its_bytes_only() -> None:
    key = keys.generate()
    signer = keys.public_bytes(key).hex()
    value = signed.sign("revocation", FIELDS, key)
    signed.verify("revocation", value, signers={signer}, where="")
    with pytest.raises(VerificationError, match="wrong_signer"):
        signed.verify("revocation", value, signers=set(), where="")
    with pytest.raises(VerificationError, match="bad_signature"):
        signed.verify("revocation", {**value, "from_size": 8}, signers={signer}, where="")
    with pytest.raises(VerificationError, match="unknown_field"):
        signed.verify("revocation", {**value, "more": 8}, signers={signer}, where="")
    other = signed.sign("rotation", {"gateway": "0" * 32, "seq": 7, "root": "2" * 64, "new_key": "1" * 64}, key)
    with pytest.raises(VerificationError):
        signed.verify("revocation", {**FIELDS, "key": other["key"], "sig": other["sig"]}, signers={signer}, where="")
