"""Normalisation, tags and kinds, against values worked out with sha256sum and openssl (docs/evidence-format.md)."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import VerificationError
from protocols.evidence import column, roster

K = bytes(range(32))
PRIVATE = {
    "blind": "00" * 16, "name": "1号冲床", "maker": "ＡＭＡＤＡ", "model": "HFE-M2 / 1003", "serial": "sn 001-A",
    "asset": "", "identifiers": {"product_instance_uri": "", "vaa": "", "handle": "", "mac": "00:1B:1B", "unit": ""}}


def test_normalise_keeps_letters_digits_and_other_scripts() -> None:
    assert roster.normalise("ＡＭＡＤＡ") == "amada"
    assert roster.normalise("HFE-M2 / 1003") == "hfem21003"
    assert roster.normalise("沈阳机床 CAK-50") == "沈阳机床cak50"
    assert roster.normalise(" -_./\t\x7f~`") == ""


def test_an_empty_part_means_no_tag() -> None:
    assert roster.tag_values(PRIVATE) == {"serial": "amada|hfem21003|sn001a"}


def test_tag_is_the_construction_of_the_format() -> None:
    value = "amada|hfem21003|sn001a"
    r = hmac.new(K, b"serial\x00" + value.encode(), hashlib.sha256).digest()
    expected = hashlib.sha256(b"tag/v1\x00serial\x00" + r + b"\x00" + value.encode()).hexdigest()
    assert roster.keyed_tag(K, "serial", value) == expected
    assert roster.keyed_tag(bytes(32), "serial", value) != expected
    assert roster.keyed_tag(K, "asset", value) != expected


def test_kind_needs_maker_and_model_and_no_key() -> None:
    expected = hashlib.sha256(b"kind/v1\x00amada\x00hfem21003").hexdigest()
    assert roster.kind("ＡＭＡＤＡ", "HFE-M2 / 1003") == expected
    assert roster.kind("AMADA", "") is None
    assert roster.kind("", "x") is None


def test_sixteen_bits_of_one_register_share_their_base_and_not_their_address() -> None:
    tags = [roster.point_tags(K, "0" * 32, 3, f"1/holding/100/bool/{bit}", "1/holding/100") for bit in range(16)]
    assert len({addr for addr, _ in tags}) == 16
    assert len({base for _, base in tags}) == 1
    other_device = roster.point_tags(K, "0" * 32, 4, "1/holding/100/bool/0", "1/holding/100")
    assert other_device[1] != tags[0][1]


@given(st.integers(0, 300).flatmap(lambda slots: st.tuples(st.just(slots), st.integers(0, 2**slots - 1))))
def test_columns_read_back(case: tuple[int, int]) -> None:
    slots, bits = case
    assert column.unpack(column.pack(bits, slots), slots, where="", name="sampled") == bits


def test_columns_of_other_lengths_and_spare_bits_are_refused() -> None:
    assert column.pack(0b101, 3) == "BQ=="
    with pytest.raises(VerificationError, match="spare_bits"):
        column.unpack("BQ==", 2, where="", name="sampled")
    with pytest.raises(VerificationError, match="length"):
        column.unpack("BQ==", 9, where="", name="sampled")
    with pytest.raises(VerificationError, match="base64"):
        column.unpack("BR==", 3, where="", name="sampled")
