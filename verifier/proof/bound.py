"""How many of N devices are proven to exist when n of them, drawn without replacement, were looked at and x failed.

    P(X <= x | D) = sum over k = 0..x of C(D, k) C(N - D, n - k) / C(N, n)
    lower bound L = N - max { D : P(X <= x | D) > alpha }

D is the unknown number of devices that would fail. All in integers: at the boundary a rounded probability would decide
the other way. Of several strata each has its share of alpha, and the bounds add: each of them fails with at most its
share, so all hold together with at least 1 - alpha (Boole).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb


@dataclass(frozen=True, slots=True)
class Seen:
    """One stratum: its devices, how many of them were drawn, how many of these failed. 0 <= failures <= drawn."""

    population: int
    drawn: int
    failures: int


def alpha_of(confidence_permille: int) -> Fraction:
    """Return how often a bound with this confidence may be wrong."""
    return Fraction(1000 - confidence_permille, 1000)


def is_beyond(population: int, drawn: int, failures: int, missing: int, alpha: Fraction) -> bool:
    """Return whether P(X <= failures | D = missing) <= alpha: then `missing` devices or more are ruled out."""
    bad, good = missing, population - missing
    first = max(0, drawn - good)
    if first > failures:
        return True  # so few failures are impossible
    term = comb(bad, first) * comb(good, drawn - first)
    total = term
    for k in range(first, min(failures, bad, drawn)):
        term = term * (bad - k) * (drawn - k) // ((k + 1) * (good - drawn + k + 1))
        total += term
    return total * alpha.denominator <= comb(population, drawn) * alpha.numerator


def lower_bound(population: int, drawn: int, failures: int, alpha: Fraction) -> int:
    """Return how many devices exist at least, with confidence 1 - alpha; 0 < alpha < 1.

    Raises: ValueError unless 0 <= failures <= drawn <= population.
    """
    if not 0 <= failures <= drawn <= population or not 0 < alpha < 1:
        raise ValueError(f"{failures} failures among {drawn} of {population} at {alpha}")
    # P falls as D grows: between D = failures, which is possible, and the first D that is ruled out.
    low, high = failures, population - (drawn - failures) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if is_beyond(population, drawn, failures, middle, alpha):
            high = middle
        else:
            low = middle
    return population - low


def sample_size(population: int, at_least: int, alpha: Fraction, *, failures: int = 0) -> int:
    """Return the smallest sample that proves `at_least` devices when `failures` of it fail.

    The whole population if no smaller one does; with failures even that may prove less.
    """
    if at_least <= 0:
        return 0
    missing = population - at_least + 1
    low, high = failures, population
    while high - low > 1:
        middle = (low + high) // 2
        if is_beyond(population, middle, failures, missing, alpha):
            high = middle
        else:
            low = middle
    return high


def together(strata: Sequence[Seen], alpha: Fraction) -> int:
    """Return the lower bound over all strata; alpha is shared equally among those that hold a device."""
    held = [stratum for stratum in strata if stratum.population]
    return sum(lower_bound(s.population, s.drawn, s.failures, alpha / len(held)) for s in held)
