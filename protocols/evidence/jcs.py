"""JSON as it is hashed and signed: RFC 8785 (JCS), narrowed to what evidence may contain.

Writer and reader share no encoder, so that a mistake in one has no twin: `encode` is the rfc8785 package, `decode`
parses strictly and compares with what the standard library writes for the same object. Evidence holds objects,
lists, text, integers up to 2^53-1, true, false and null; never a fraction.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import rfc8785

from protocols.errors import Problem, VerificationError

INTEGER_MAX = 2**53 - 1
Json = dict[str, "Json"] | list["Json"] | str | int | bool | None


def encode(value: Any) -> bytes:
    """Return the RFC 8785 bytes of `value`. Raises ValueError (rfc8785.CanonicalizationError) on what JCS forbids."""
    return rfc8785.dumps(value)


def decode(data: bytes, *, where: str, bytes_max: int) -> Any:
    """Parse bytes that must be canonical already.

    Raises: VerificationError `json.too_large`, `json.unreadable` or `json.not_canonical`, at `where`.
    """
    value = parse(data, where=where, bytes_max=bytes_max)
    if _plain(value) != data:
        raise VerificationError(Problem.of(where, "json.not_canonical"))
    return value


def parse(data: bytes, *, where: str, bytes_max: int) -> Any:
    """Parse JSON without fractions, big integers or doubled keys; it need not be canonical (a hand-written policy)."""
    if len(data) > bytes_max:
        raise VerificationError(Problem.of(where, "json.too_large", size=len(data), limit=bytes_max))
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_float=_refuse,
                          parse_constant=_refuse, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise VerificationError(Problem.of(where, "json.unreadable", reason=reason[:200])) from None


def _plain(value: Any) -> bytes:
    """Equal to JCS for what `parse` lets through: ASCII keys sort alike, integers have one form."""
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8")
    except (UnicodeEncodeError, RecursionError):
        return b""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    for key in result:
        if not key.isascii():
            raise ValueError("a key is not ASCII")
    return result


def _integer(text: str) -> int:
    if len(text) > 17 or abs(value := int(text)) > INTEGER_MAX:
        raise ValueError("an integer is beyond 2^53-1")
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no integer")
