import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special, stats
from statsmodels.stats.weightstats import ttost_ind

from sweeps.inference import (
    LEVEL,
    MOST_SEEDS,
    VARIED,
    Estimate,
    Group,
    farther_apart,
    geometric_interval,
    holm,
    interval,
    moderated,
    seeds_needed,
    spearman,
    t_test,
    worse,
)

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


def spread(values):
    return np.ptp(values) > 1e-6


@given(VALUES.filter(spread))
def test_the_interval_is_scipys(values):
    ours = interval(values)
    half = stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * stats.sem(values)
    assert ours.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx((ours.mean - half, ours.mean + half), rel=1e-6, abs=1e-6)


def test_a_single_value_has_no_interval():
    assert interval([2.0])[0::3] == (2.0, 1)
    assert math.isnan(interval([2.0]).low)
    assert interval([]).n == 0
    assert math.isnan(interval([]).mean)
    assert interval([math.nan, math.inf, 2.0]).n == 1
    assert interval([2.0, 2.0]) == (2.0, 2.0, 2.0, 2)


def test_an_estimate_is_cut_off_where_the_score_can_have_no_value():
    assert Estimate(0.5, -1.0, 3.0, 4).within(0, 1) == (0.5, 0, 1, 4)
    assert Estimate(0.5, 0.25, 0.75, 4).within(0, 1) == (0.5, 0.25, 0.75, 4)
    assert math.isnan(Estimate(0.5, math.nan, math.nan, 1).within(0, 1).low)


def test_the_geometric_interval_is_positive_and_as_far_in_ratio():
    estimate = geometric_interval([1.0, 2.0, 16.0])
    assert estimate.mean == pytest.approx(stats.gmean([1.0, 2.0, 16.0]))
    assert estimate.low > 0
    assert estimate.mean / estimate.low == pytest.approx(estimate.high / estimate.mean)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=2, max_size=10))
def test_the_paired_test_is_scipys(pairs):
    x, y = np.array(pairs).T
    if spread(x - y):
        ours, theirs = t_test(x - y), stats.ttest_rel(x, y)
        assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-9)
        assert ours.effect == pytest.approx(abs(theirs.statistic) / math.sqrt(len(pairs)), rel=1e-6)
        assert ours.estimate.mean == pytest.approx(np.mean(x - y))


def test_pairs_without_spread():
    assert t_test([0.0, 0.0])[1:] == (1, 0)
    assert t_test([0.5, 0.5])[1:] == (0, math.inf)
    assert t_test([-0.5, -0.5])[1:] == (0, math.inf)
    assert math.isnan(t_test([0.5]).p)


def test_holm_by_hand():
    # Holm 1979: 0.01×4, 0.02×3, max(0.06, 0.03×2), 0.2
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_what_was_not_tested_does_not_count():
    corrected = holm([math.nan, 0.04])
    assert math.isnan(corrected[0])
    assert corrected[1] == 0.04
    assert all(map(math.isnan, holm([math.nan])))


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_the_seeds_needed_are_those_of_the_tables(effect, n):
    """Of G*Power 3.1: difference between two dependent means, two-sided, α 0.05, power 0.8."""
    assert seeds_needed(effect) == n


def test_a_strict_level_needs_more_seeds_and_no_effect_too_many():
    assert seeds_needed(0.8, level=0.05 / 7) > seeds_needed(0.8)
    assert seeds_needed(0.8, power=0.9) > seeds_needed(0.8)
    assert seeds_needed(0.0) is None
    assert seeds_needed(math.nan) is None
    assert seeds_needed(2.0 / math.sqrt(MOST_SEEDS)) is None
    assert seeds_needed(3.0 / math.sqrt(MOST_SEEDS)) < MOST_SEEDS
    assert seeds_needed(math.inf) == 2
    assert seeds_needed(50.0) == 2


@pytest.mark.parametrize("effect", [1, 3, 5, 10, 20, 100])
def test_the_larger_an_effect_the_fewer_seeds_also_where_scipy_gives_up(effect):
    assert 2 <= seeds_needed(effect * 1.5, 0.0005) <= seeds_needed(effect, 0.0005)


def test_spearman():
    x = [1.0, 2, 3, 4, 5, 6, 7, 8]
    y = [2.0, 1, 4, 3, 6, 5, 8, 7]
    ours = spearman(x, y)
    # By hand: 1 − 6·Σd²/(n(n²−1)) = 1 − 6·8/504; interval of Bonett and Wright:
    # z = atanh(0.9048) = 1.4981, error sqrt((1 + 0.8186/2) / 5) = 0.5309
    assert ours.mean == pytest.approx(1 - 48 / 504)
    assert (ours.low, ours.high) == pytest.approx((math.tanh(0.4576), math.tanh(2.5386)), abs=2e-3)
    assert spearman(x, x).low > 0.9
    assert math.isnan(spearman(x[:3], y[:3]).mean)
    assert not math.isnan(spearman(x[:4], y[:4]).mean)
    assert math.isnan(spearman(x, [1.0] * 8).mean)
    assert math.isnan(spearman([], []).mean)


def group(values, df_of_all=1e9):
    """What a Welch test knows of these values."""
    return Group(float(np.mean(values)), float(np.var(values, ddof=1)) / len(values), len(values) - 1, df_of_all)


@pytest.mark.parametrize(("n", "m", "shift", "scale"), [(3, 3, 0.5, 1), (2, 6, 1.0, 5), (10, 4, -0.3, 0.2)])
def test_worse_and_farther_apart_are_welchs_tests(n, m, shift, scale):
    chance = np.random.default_rng(n)
    x, y = chance.normal(0, 1, n), chance.normal(shift, scale, m)
    assert worse(group(x), group(y)) == pytest.approx(stats.ttest_ind(x, y, equal_var=False, alternative="less").pvalue)
    p, *_ = ttost_ind(x, y, -0.7, 0.7, usevar="unequal")
    assert farther_apart(group(x), group(y), 0.7) == pytest.approx(p)


def test_variances_that_lean_on_each_other_have_no_more_degrees_of_freedom_than_there_are():
    x, y = group([1.0, 2.0, 3.0], 2.5), group([3.0, 4.0, 6.0], 2.5)
    difference, se = y.mean - x.mean, math.sqrt(x.variance + y.variance)
    assert worse(x, y) == pytest.approx(stats.t.sf(difference / se, 2.5))
    assert worse(Group(1.0, 0.0, 3, 9), Group(2.0, 0.0, 3, 9)) == 1.0


def test_moderated_variances_against_the_formulas_one_by_one():
    samples = [[1.0, 1.3], [2.0, 2.1, 2.6], [], [5.0], [3.0, 3.01, 3.0, 3.02]]

    def log_variance(sample):
        half = (len(sample) - 1) / 2
        return math.log(np.var(sample, ddof=1)) - special.digamma(half) + math.log(half)

    for place, (variance, df) in enumerate(moderated(samples)):
        others = [each for n, each in enumerate(samples) if n != place and len(each) > 1]
        centre = np.mean([log_variance(each) for each in others])
        doubt = np.mean([VARIED + special.polygamma(1, (len(each) - 1) / 2) for each in others]) / len(others)
        half = optimize.brentq(lambda x, y=VARIED + doubt: special.polygamma(1, x) - y, 1e-3, 1e3)
        common = math.exp(centre + special.digamma(half) - math.log(half))
        own = max(len(samples[place]) - 1, 0)
        squares = own * np.var(samples[place], ddof=1) if own else 0.0
        assert df == pytest.approx(2 * half + own)
        assert variance == pytest.approx((2 * half * common + squares) / (2 * half + own))


def test_a_sample_alone_has_its_own_variance():
    assert moderated([[1.0, 2.0, 4.0]]) == [(pytest.approx(np.var([1.0, 2.0, 4.0], ddof=1)), 2.0)]
    assert moderated([]) == []
    (first, _), (same, _) = moderated([[1.0, 1.0], [1.0, 1.0, 1.0]])  # no spread at all
    assert 0 < first < 1e-6
    assert 0 < same < 1e-6


def test_moderated_variances_are_near_the_true_ones():
    """Shrinking has to pay: nearer to the true variances than the samples' own, over many settings."""
    chance = np.random.default_rng(0)
    own, shrunk = [], []
    for _ in range(200):
        true = np.exp(chance.normal(-5, math.sqrt(VARIED), 8))
        samples = [chance.normal(0, math.sqrt(v), 3) for v in true]
        own.append(np.log([np.var(each, ddof=1) for each in samples]) - np.log(true))
        shrunk.append(np.log([v for v, _ in moderated(samples)]) - np.log(true))
    assert np.square(shrunk).mean() < 0.6 * np.square(own).mean()
