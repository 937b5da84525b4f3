"""The exact bound: published figures, a slow sum over every D as the oracle, and the promise itself by enumeration."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.proof.bound import Seen, is_beyond, lower_bound, sample_size, together

A95, A99 = Fraction(5, 100), Fraction(1, 100)


@pytest.mark.parametrize(("population", "at_least", "alpha", "failures", "size"), [
    (5000, 4750, A95, 0, 58), (5000, 4750, A95, 1, 92), (5000, 4750, A95, 2, 123), (5000, 4750, A95, 3, 151),
    (5000, 4950, A95, 0, 284), (5000, 4995, A95, 0, 1965),
    (5000, 4750, A99, 0, 89), (5000, 4950, A99, 0, 430),
    (100, 95, A95, 0, 39), (500, 475, A95, 0, 54), (50_000, 47_500, A95, 0, 59),
])
def test_published_sizes(population: int, at_least: int, alpha: Fraction, failures: int, size: int) -> None:
    assert sample_size(population, at_least, alpha, failures=failures) == size
    assert lower_bound(population, size, failures, alpha) >= at_least
    assert lower_bound(population, size - 1, failures, alpha) < at_least


def test_published_bound_and_probability() -> None:
    assert lower_bound(5000, 300, 3, A95) == 4875
    p = Fraction(comb(5000 - 251, 58), comb(5000, 58))
    assert f"{float(p):.4f}" == "0.0495"
    assert is_beyond(5000, 58, 0, 251, p) and not is_beyond(5000, 58, 0, 251, p - Fraction(1, 10**12))


def slow(population: int, drawn: int, failures: int, alpha: Fraction) -> int:
    """The definition, term by term, over every D."""
    def p(bad: int) -> Fraction:
        return sum((Fraction(comb(bad, k) * comb(population - bad, drawn - k), comb(population, drawn))
                    for k in range(failures + 1) if k <= drawn), Fraction(0))

    return population - max(bad for bad in range(population + 1) if p(bad) > alpha)


@given(st.integers(1, 40), st.data())
def test_agrees_with_the_definition(population: int, data: st.DataObject) -> None:
    drawn = data.draw(st.integers(0, population))
    failures = data.draw(st.integers(0, drawn))
    alpha = Fraction(data.draw(st.integers(1, 99)), 100)
    assert lower_bound(population, drawn, failures, alpha) == slow(population, drawn, failures, alpha)


@given(st.integers(1, 40), st.integers(0, 100), st.integers(0, 2))
def test_a_size_is_the_smallest(population: int, percent: int, failures: int) -> None:
    at_least = -(-population * percent // 100)
    size = sample_size(population, at_least, A95, failures=min(failures, population))
    enough = [n for n in range(min(failures, population), population + 1)
              if lower_bound(population, n, min(failures, population), A95) >= at_least]
    assert size == (min(enough) if enough and at_least else 0 if not at_least else population)


@pytest.mark.parametrize("bad", range(9))
def test_the_promise_holds_for_every_truth(bad: int) -> None:
    """Of all samples of 4 among 8 devices at most a tenth give a bound above the truth."""
    alpha, samples, wrong = Fraction(1, 10), 0, 0
    for sample in combinations(range(8), 4):
        failures = sum(device < bad for device in sample)
        samples += 1
        wrong += lower_bound(8, 4, failures, alpha) > 8 - bad
    assert Fraction(wrong, samples) <= alpha


def test_at_the_boundary_no_float_decides() -> None:
    """1 of 20 drawn, alpha 5 %: P = 1/20 exactly for D = 19; one part in 10^30 less, and it is not ruled out."""
    assert lower_bound(20, 1, 0, Fraction(1, 20)) == 2
    assert lower_bound(20, 1, 0, Fraction(1, 20) - Fraction(1, 10**30)) == 1


def test_everything_looked_at_is_known() -> None:
    assert lower_bound(37, 37, 5, A95) == 32
    assert lower_bound(37, 0, 0, A95) == 0
    assert lower_bound(0, 0, 0, A95) == 0
    assert sample_size(10, 10, A95) == 10 and sample_size(1, 1, A95) == 1 and sample_size(0, 0, A95) == 0


def test_strata_share_alpha() -> None:
    one = [Seen(5000, 300, 3)]
    assert together([*one, Seen(0, 0, 0)], A95) == 4875
    two = [Seen(4000, 240, 2), Seen(1000, 60, 1)]
    assert together(two, A95) == lower_bound(4000, 240, 2, A95 / 2) + lower_bound(1000, 60, 1, A95 / 2)
    assert together(two, A95) < 4875
    assert together([], A95) == 0


@pytest.mark.parametrize("wrong", [(10, 11, 0, A95), (10, 5, 6, A95), (10, 5, -1, A95), (10, 5, 0, Fraction(0)),
                                   (10, 5, 0, Fraction(1))], ids=str)
def test_nonsense_is_refused(wrong: tuple[int, int, int, Fraction]) -> None:
    with pytest.raises(ValueError, match="failures among"):
        lower_bound(*wrong)


def test_fifty_thousand_devices_are_computed_exactly() -> None:
    """The limit on the time of any test is all that is asked of their speed here."""
    assert lower_bound(50_000, 5_000, 25, A95) > 49_000
    assert sample_size(50_000, 49_950, A95) > 2_000
    assert lower_bound(50_000, 25_000, 100, A95) > 49_000
