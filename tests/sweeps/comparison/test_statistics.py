import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sweeps.comparison.statistics import (
    MOST_SEEDS,
    geometric_interval,
    holm,
    paired_t,
    seeds_needed,
    spearman,
    t_interval,
)

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@given(VALUES)
def test_the_interval_is_scipys(values):
    ours = t_interval(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95) if np.ptp(values) else (values[0],) * 2
    assert ours.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), rel=1e-6, abs=1e-6)


def test_an_interval_by_hand():
    # n = 4, mean 3, standard deviation sqrt(10/3), t(0.975, 3) = 3.1824
    assert t_interval([1, 2, 4, 5])[:3] == pytest.approx((3, 0.0948, 5.9052), abs=1e-4)


def test_a_single_value_has_no_interval():
    assert t_interval([2.0])[0::3] == (2.0, 1)
    assert math.isnan(t_interval([2.0]).low)
    assert t_interval([]).n == 0
    assert math.isnan(t_interval([]).mean)


def test_the_geometric_interval_is_positive_and_as_far_in_ratio():
    estimate = geometric_interval([1.0, 2.0, 16.0])
    assert estimate.mean == pytest.approx(stats.gmean([1.0, 2.0, 16.0]))
    assert estimate.low > 0
    assert estimate.mean / estimate.low == pytest.approx(estimate.high / estimate.mean)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=2, max_size=10))
def test_the_paired_test_is_scipys(pairs):
    x, y = map(np.array, zip(*pairs, strict=True))
    ours = paired_t(list(x - y))
    if np.ptp(x - y) > 1e-6:
        theirs = stats.ttest_rel(x, y)
        assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-9)
        assert ours.effect == pytest.approx(abs(theirs.statistic) / math.sqrt(len(pairs)), rel=1e-6)


def test_pairs_without_spread():
    assert paired_t([0.0, 0.0]).p == 1
    assert paired_t([0.5, 0.5]).p == 0
    assert math.isnan(paired_t([0.5]).p)


def test_holm_by_hand():
    # Holm 1979: 0.01×4, 0.02×3, max(0.06, 0.03×2), 0.2
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_what_was_not_tested_does_not_count():
    corrected = holm([math.nan, 0.04])
    assert math.isnan(corrected[0])
    assert corrected[1] == 0.04


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values):
    corrected = holm(p_values)
    assert all(p <= c <= min(1, len(p_values) * p) + 1e-12 for p, c in zip(p_values, corrected, strict=True))
    ranked = [corrected[place] for place in np.argsort(p_values, kind="stable")]
    assert ranked == sorted(ranked)


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_the_seeds_needed_are_those_of_the_tables(effect, n):
    """Of G*Power 3.1: difference between two dependent means, two-sided, α 0.05, power 0.8."""
    assert seeds_needed(effect) == n


def test_a_strict_level_needs_more_seeds_and_no_effect_too_many():
    assert seeds_needed(0.8, level=0.05 / 7) > seeds_needed(0.8)
    assert seeds_needed(0.0) is None
    assert seeds_needed(math.nan) is None
    assert seeds_needed(2.0 / math.sqrt(MOST_SEEDS)) is None
    assert seeds_needed(math.inf) == 2
    assert seeds_needed(50.0) == 2


def test_the_power_is_what_simulation_gives():
    n = seeds_needed(0.9)
    differences = np.random.default_rng(0).normal(0.9, 1, (20_000, n))
    found = (stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05).mean()
    assert 0.79 < found < 0.87


def test_spearman():
    x = [1.0, 2, 3, 4, 5, 6, 7, 8]
    y = [2.0, 1, 4, 3, 6, 5, 8, 7]
    ours = spearman(x, y)
    assert ours.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    # Bonett and Wright by hand: z = atanh(0.9048) = 1.4981, error sqrt((1 + 0.8186/2) / 5) = 0.5309
    assert (ours.low, ours.high) == pytest.approx((math.tanh(0.4576), math.tanh(2.5386)), abs=2e-3)
    assert spearman(x, x).low > 0.9
    assert math.isnan(spearman(x[:3], y[:3]).rho)
    assert math.isnan(spearman(x, [1.0] * 8).rho)


def test_the_interval_of_spearman_covers_what_it_should():
    chance = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        x = chance.normal(size=30)
        y = x + chance.normal(size=30)
        found = spearman(list(x), list(y))
        inside += found.low < 0.690 < found.high  # 6/π·asin(ρ/2) for a Pearson ρ of 1/√2
    assert 0.91 < inside / 400 < 0.99
