"""RFC 8785: six published cases (cyberphone/json-canonicalization at 19d51d7), and the strict reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import VerificationError
from protocols.evidence import jcs
from tests.support.vectors import vectors

CASES = vectors("jcs/input", "*.json", 6)

KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-jcs.INTEGER_MAX, jcs.INTEGER_MAX)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_encode_agrees_with_published_bytes(path: Path) -> None:
    expected = (path.parent.parent / "output" / path.name).read_bytes()
    assert jcs.encode(json.loads(path.read_text(encoding="utf-8"))) == expected
    as_hex = (path.parent.parent / "outhex" / path.with_suffix(".txt").name).read_text()
    assert bytes.fromhex("".join(as_hex.split())) == expected


@given(VALUES)
def test_what_is_written_reads_back_and_the_two_encoders_agree(value: object) -> None:
    data = jcs.encode(value)
    assert jcs.decode(data, where="", bytes_max=10**6) == value


@given(VALUES)
def test_another_layout_of_the_same_value_is_refused(value: object) -> None:
    data = json.dumps(value, indent=1).encode()
    if data == rfc8785.dumps(value):  # type: ignore[arg-type]
        return
    with pytest.raises(VerificationError, match="not_canonical"):
        jcs.decode(data, where="", bytes_max=10**6)


@pytest.mark.parametrize("data", [
    b'{"a":1,"a":1}', b"1.0", b"1e3", b"NaN", b"Infinity", b"9007199254740992", b"-9007199254740992",
    b'{"\xc3\xa9":1}', b"\xff", b"[" * 100_000, b"1" * 5000, b'"\\ud800"', b""])
def test_what_evidence_must_not_hold_is_refused(data: bytes) -> None:
    with pytest.raises(VerificationError):
        jcs.decode(data, where="", bytes_max=10**6)


def test_size_is_looked_at_before_anything_is_parsed() -> None:
    with pytest.raises(VerificationError, match="too_large"):
        jcs.decode(b"[" * 1000, where="", bytes_max=999)
