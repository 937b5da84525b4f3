"""Rows of the roster, the tags that stand for identities, and openings of single devices.

A row is a slot: gapless from 0, append-only, never reused. Public rows hold no value that names a machine: a tag is
SHA-256("tag/v1" 0 scheme 0 r 0 value) with r = HMAC-SHA-256(K, scheme 0 value), so that a serial cannot be guessed
without K, and one tag can be opened by showing its r.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from protocols.evidence import jcs
from protocols.evidence.column import BITS_MAX
from protocols.evidence.merkle import root_of
from protocols.evidence.shape import Boolean, Hex, Integer, ListOf, Nullable, Object, OneOf, Text
from protocols.evidence.signed import GATEWAY, USCC
from protocols.terms.vocabulary import (
    DEPLOYMENTS,
    ID_BASES,
    POINT_TYPES,
    PROTOCOLS,
    ROLES,
    STATES,
    TAG_SCHEMES,
    THINGS,
)

SLOT = Integer(0, BITS_MAX)
NOT_IN_ROSTER = -1
"""`server.via` when the server that owns the key is no slot of this roster."""

DUP_SCHEMES = ("spki-sha256", "voprf-p256-v1")
ROW_BYTES_MAX = 8192

DEVICE_ROW = Object({
    "slot": SLOT, "state": OneOf(STATES), "replaces": Nullable(SLOT), "parent": Nullable(SLOT),
    "thing": OneOf(THINGS), "class": Nullable(Text(80, "[a-z0-9_]+")),
    "industry": Nullable(Text(5, "[A-T]?[0-9]{2,4}")),
    "uscc": Nullable(USCC), "region": Nullable(Text(6, "[0-9]{6}")), "deployment": Nullable(OneOf(DEPLOYMENTS)),
    "energy": Nullable(Boolean()), "kind": Nullable(Hex(32)),
    "tags": ListOf(Object({"scheme": OneOf(TAG_SCHEMES), "tag": Hex(32)}), len(TAG_SCHEMES)),
    "dup_tags": ListOf(Object({"scheme": OneOf(DUP_SCHEMES), "tag": Hex(32)}), len(DUP_SCHEMES)),
    "id_basis": OneOf(ID_BASES),
    "server": Object({"spki_sha256": Nullable(Hex(32)), "via": Nullable(Integer(NOT_IN_ROSTER, BITS_MAX))}),
    "private_sha256": Hex(32),
})

POINT_ROW = Object({
    "point": SLOT, "device": SLOT, "state": OneOf(STATES), "protocol": OneOf(PROTOCOLS), "role": OneOf(ROLES),
    "type": Nullable(OneOf(POINT_TYPES)), "addr": Hex(32), "base": Hex(32),
})

PRIVATE = Object({
    "blind": Hex(16), "name": Text(), "maker": Text(), "model": Text(), "serial": Text(), "asset": Text(),
    "identifiers": Object({"product_instance_uri": Text(), "vaa": Text(), "handle": Text(), "mac": Text(),
                           "unit": Text(32)}),
})

OPENING = Object({
    "gateway": GATEWAY, "slot": SLOT, "private": PRIVATE,
    "tags": ListOf(Object({"scheme": OneOf(TAG_SCHEMES), "r": Hex(32), "value": Text(1024)}), len(TAG_SCHEMES)),
})

_DROPPED = re.compile("[\x00-/:-`{-\x7f]")  # every ASCII character but a-z and 0-9, after lower-casing
_UPPER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def normalise(part: str) -> str:
    """Return NFKC, ASCII in lower case, every ASCII character but a-z and 0-9 dropped; other scripts stay."""
    return _DROPPED.sub("", unicodedata.normalize("NFKC", part).translate(_UPPER))


def tag_values(private: Mapping[str, Any]) -> dict[str, str]:
    """Return scheme -> normalised value for every device tag that a private row supports.

    The parts of a value are joined by `|`; a scheme with an empty part is left out.
    """
    ids = private["identifiers"]
    parts: dict[str, Sequence[str]] = {
        "serial": (private["maker"], private["model"], private["serial"]),
        "product_instance_uri": (ids["product_instance_uri"],), "asset": (private["asset"],), "vaa": (ids["vaa"],),
        "handle": (ids["handle"],), "mac_unit": (ids["mac"], ids["unit"]),
    }
    values = {scheme: [normalise(part) for part in group] for scheme, group in parts.items()}
    return {scheme: "|".join(group) for scheme, group in values.items() if all(group)}


def blinding(key: bytes, scheme: str, value: str) -> bytes:
    """Return r = HMAC-SHA-256(K, scheme 0 value). Both ends know K or r, never both parties K."""
    return hmac.digest(key, scheme.encode() + b"\0" + value.encode(), "sha256")


def tag(scheme: str, r: bytes, value: str) -> str:
    """Return the tag of a value, lowercase hex. `r`: 32 raw bytes."""
    return hashlib.sha256(b"tag/v1\0" + scheme.encode() + b"\0" + r + b"\0" + value.encode()).hexdigest()


def keyed_tag(key: bytes, scheme: str, value: str) -> str:
    """Return the tag that the holder of K gives to a value."""
    return tag(scheme, blinding(key, scheme, value), value)


def point_tags(key: bytes, gateway: str, device: int, address: str, base: str) -> tuple[str, str]:
    """Return (addr, base) of a point: tags of JCS [gateway, device slot, address text], not normalised."""
    def one(scheme: str, text: str) -> str:
        return keyed_tag(key, scheme, jcs.encode([gateway, device, text]).decode())
    return one("addr", address), one("base", base)


def kind(maker: str, model: str) -> str | None:
    """Return the unkeyed kind of a device, None if maker or model is empty. Kinds are counted over all enterprises."""
    parts = normalise(maker), normalise(model)
    if not all(parts):
        return None
    return hashlib.sha256(b"kind/v1\0" + parts[0].encode() + b"\0" + parts[1].encode()).hexdigest()


def private_sha256(private: Mapping[str, Any]) -> str:
    """Return the digest that a public row carries of its private part."""
    return hashlib.sha256(jcs.encode(dict(private))).hexdigest()


def rows_root(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the RFC 6962 root over the JCS of rows in slot order, lowercase hex."""
    return root_of(jcs.encode(dict(row)) for row in rows).hex()


def k_sha256(key: bytes) -> str:
    """Return the digest of K that every enrolment of the enterprise names."""
    return hashlib.sha256(key).hexdigest()
