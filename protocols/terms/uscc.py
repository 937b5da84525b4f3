"""统一社会信用代码: the 18-character code of a Chinese organisation, checked by GB 32100-2015.

Standard library only. The last character is a check character over the other 17, modulo 31.
"""

from __future__ import annotations

ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
WEIGHTS = tuple(pow(3, i, 31) for i in range(17))


def check_character(first17: str) -> str:
    """Return the check character of 17 characters of ALPHABET. Raises ValueError on any other character."""
    if len(first17) != 17:
        raise ValueError("a code has 17 characters before its check character")
    total = sum(ALPHABET.index(c) * w for c, w in zip(first17, WEIGHTS, strict=True))
    return ALPHABET[(31 - total % 31) % 31]


def is_valid(code: str) -> bool:
    """Return whether `code` has 18 characters of the alphabet and the right check character."""
    return len(code) == 18 and all(c in ALPHABET for c in code) and check_character(code[:17]) == code[17]
