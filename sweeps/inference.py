"""What numbers from a few seeds can tell: one value per seed in, an interval or a p-value out."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# scipy.stats and statsmodels take seconds to import, so each function that needs one imports it.

LEVEL = 0.05  # of every test; intervals are at 1 − LEVEL
POWER = 0.8  # at which the seeds needed are counted
VARIED = 2.0  # variance of log variance over settings: spreads differ by a factor of 2 either way, often
TINY = 1e-12  # a variance of 0 has no logarithm
MOST_SEEDS = 1000  # an effect that needs more seeds is taken for none


class Estimate(NamedTuple):
    """A mean of n values, or a correlation of n pairs, and its 95 % interval; nan where n is too small."""

    mean: float
    low: float
    high: float
    n: int

    def through(self, function: Callable[[float], float]) -> "Estimate":
        """The estimate on another scale; the function must be increasing."""
        return Estimate(function(self.mean), function(self.low), function(self.high), self.n)

    def within(self, least: float, most: float) -> "Estimate":
        """The estimate, its interval cut off at the least and the greatest possible value."""
        return self._replace(low=max(least, self.low), high=min(most, self.high)) if self.n > 1 else self


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


class TTest(NamedTuple):
    """A mean over seeds with its interval, and the two-sided p-value of a mean of 0."""

    estimate: Estimate
    p: float  # nan with fewer than two seeds
    effect: float  # |mean| / standard deviation (Cohen's d_z); nan with fewer than two seeds


def t_test(per_seed: ArrayLike) -> TTest:
    """Student's one-sample t interval and test of the finite values; paired if these are differences."""
    values = np.asarray(per_seed, dtype=np.float64)
    values = values[np.isfinite(values)]
    n = len(values)
    if n < 2:
        return TTest(NOTHING._replace(mean=float(values[0]), n=1) if n else NOTHING, math.nan, math.nan)
    mean = float(values.mean())
    if np.ptp(values) <= 1e-12 * abs(mean):  # the same in each seed: SciPy would divide by 0
        return TTest(Estimate(mean, mean, mean, n), float(mean == 0), math.inf if mean else 0.0)
    from scipy import stats

    found = stats.ttest_1samp(values, 0)
    low, high = map(float, found.confidence_interval(1 - LEVEL))
    return TTest(Estimate(mean, low, high, n), float(found.pvalue), float(abs(found.statistic)) / math.sqrt(n))


def interval(per_seed: ArrayLike) -> Estimate:
    """The mean, with its t interval."""
    return t_test(per_seed).estimate


def geometric_interval(per_seed: ArrayLike) -> Estimate:
    """The geometric mean of positive values, with the t interval of their logarithms."""
    return interval(np.log(np.asarray(per_seed, dtype=np.float64))).through(math.exp)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979), in their order; nan stays, and does not count."""
    corrected = np.asarray(p_values, dtype=np.float64)
    tested = np.isfinite(corrected)
    if tested.any():
        from statsmodels.stats.multitest import multipletests

        corrected[tested] = multipletests(corrected[tested], LEVEL, method="holm")[1]
    return [float(p) for p in corrected]


def seeds_needed(effect: float, level: float = LEVEL, power: float = POWER) -> int | None:
    """The least number of pairs at which a two-sided paired t-test finds `effect` with this power.

    effect: mean difference / standard deviation of the differences (Cohen's d_z). By the noncentral t
    distribution. None if it is more than MOST_SEEDS.
    """
    if math.isnan(effect) or effect == 0:
        return None
    from scipy import stats
    from statsmodels.stats.power import TTestPower

    def enough(n: int) -> bool:
        # One side at half the level: the other side is a lead in the wrong direction.
        found = TTestPower().power(effect, n, level / 2, alternative="larger")
        if math.isnan(found):  # SciPy gives up where the effect is far beyond the critical value
            return bool(effect * math.sqrt(n) > stats.t.ppf(1 - level / 2, n - 1))
        return bool(found >= power)

    pairs = range(2, MOST_SEEDS + 1)
    place = bisect_left(pairs, True, key=enough)  # the power grows with n
    return pairs[place] if place < len(pairs) else None


def spearman(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """Spearman's rank correlation with the interval of Bonett and Wright (2000), by Fisher's z.

    nan where there are fewer than four pairs, or no spread.
    """
    n = len(x)
    if n < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return NOTHING._replace(n=n)
    from scipy import stats

    rho = float(stats.spearmanr(x, y).statistic)
    inside = max(-0.9999, min(0.9999, rho))  # Fisher's z of 1 is infinite
    half = float(stats.norm.ppf(1 - LEVEL / 2)) * math.sqrt((1 + inside**2 / 2) / (n - 3))
    return Estimate(rho, math.tanh(math.atanh(inside) - half), math.tanh(math.atanh(inside) + half), n)


class Group(NamedTuple):
    """What is known of one setting: the mean of its values and how sure it is."""

    mean: float
    variance: float  # of the mean
    df: float  # degrees of freedom of the variance
    df_of_all: float  # of the variances of all groups together


def moderated(samples: Sequence[ArrayLike]) -> list[tuple[float, float]]:
    """The variance of each sample, shrunk towards those of the others, and its degrees of freedom.

    samples: float, of any lengths; of less than two values, nothing is known but what the others show, and
    without others the variance is infinite.

    Smyth (2004), Linear models and empirical Bayes methods, https://doi.org/10.2202/1544-6115.1027: true
    variances vary about a common one as a scaled inverse chi-squared variable of d degrees of freedom, so a
    sample's own n - 1 become n - 1 + d. Smyth estimates d; here the logarithms of true variances vary by
    VARIED, from our own studies, because a few samples of two or three values cannot tell. The centre is that
    of the other samples, and counts for less where these are few or short.
    """
    from scipy import special

    values = [np.asarray(sample, dtype=np.float64) for sample in samples]
    df = np.array([max(len(sample) - 1, 0) for sample in values], dtype=np.float64)
    variance = np.array([max(sample.var(ddof=1), TINY) if len(sample) > 1 else 0.0 for sample in values])
    known, half = df > 0, np.maximum(df, 1) / 2
    # An unbiased estimate of each logarithm, and the variance of that estimate.
    logs = np.where(known, np.log(np.where(known, variance, 1)) - special.digamma(half) + np.log(half), 0.0)
    errors = np.where(known, VARIED + special.polygamma(1, half), 0.0)
    others = known.sum() - known
    counted = np.maximum(others, 1)
    centre = (logs.sum() - logs) / counted
    prior = 2 * _inverse_trigamma(VARIED + (errors.sum() - errors) / counted**2)
    common = np.exp(centre + special.digamma(prior / 2) - np.log(prior / 2))
    shrunk = (prior * common + df * variance) / (prior + df)
    alone = np.where(known, variance, np.inf), np.where(known, df, 1.0)  # nothing to lean on
    found = np.where(others > 0, shrunk, alone[0]), np.where(others > 0, prior + df, alone[1])
    return [(float(v), float(n)) for v, n in zip(*found, strict=True)]


def _inverse_trigamma(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """By Newton's method on 1 / trigamma, which is convex (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    x = 0.5 + 1 / y
    for _ in range(20):
        value = polygamma(1, x)
        x = x + value * (1 - value / y) / polygamma(2, x)
    return np.asarray(x)


def worse(one: Group, other: Group) -> float:
    """The one-sided p-value of "the other mean is not greater": Welch's t-test."""
    return _upper_tail(other.mean - one.mean, one, other)


def farther_apart(one: Group, other: Group, margin: float) -> float:
    """The p-value of "the means are at least `margin` apart": the two one-sided tests (Schuirmann 1987)."""
    return _upper_tail(margin - abs(one.mean - other.mean), one, other)


def _upper_tail(difference: float, one: Group, other: Group) -> float:
    from scipy.special import stdtr  # what stats.t.sf computes by, a hundred times as fast

    variance = one.variance + other.variance
    if variance <= 0 or math.isinf(variance):
        return 1.0
    # Welch and Satterthwaite's degrees of freedom. Shrunk variances are not independent of each other: together
    # they cannot have more than all samples have.
    df = variance**2 / (one.variance**2 / one.df + other.variance**2 / other.df)
    return float(stdtr(min(df, max(one.df_of_all, 1)), -difference / math.sqrt(variance)))
