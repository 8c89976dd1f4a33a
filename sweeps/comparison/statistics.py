"""What numbers from a few seeds can tell: a matrix of scores and a function in, an interval out.

A matrix has one row per seed and one column per setting; nan where a run is missing. The function makes one
number of each row, as in rliable (Agarwal et al. 2021); a row that lacks a score it needs is left out.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# scipy.stats and statsmodels take seconds to import, so each function that needs one imports it.

LEVEL = 0.05  # of every test; intervals are at 1 − LEVEL
POWER = 0.8  # at which the seeds needed are counted
MOST_SEEDS = 1000  # an effect that needs more seeds is taken for none

Matrix = NDArray[np.float64]
PerSeed = Callable[[Matrix], Matrix]  # seeds × settings → one number per seed


class Estimate(NamedTuple):
    """A mean of n values and its 95 % interval; low and high are nan for n = 1, all three for n = 0."""

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


class Test(NamedTuple):
    """A mean over seeds with its interval, and the two-sided p-value of a mean of 0."""

    estimate: Estimate
    p: float  # nan with fewer than two seeds
    effect: float  # |mean| / standard deviation (Cohen's d_z); nan with fewer than two seeds


class Correlation(NamedTuple):
    """A rank correlation of n pairs and its 95 % interval; nan where n or the spread is too small."""

    rho: float
    low: float
    high: float
    n: int


def column_mean(scores: Matrix) -> Matrix:
    """The mean over the settings, one number per seed."""
    return np.asarray(scores.mean(axis=1))


def difference(scores: Matrix) -> Matrix:
    """The first column less the second, one number per seed."""
    return np.asarray(scores[:, 0] - scores[:, 1])


def test(scores: ArrayLike, per_seed: PerSeed = column_mean) -> Test:
    """Student's one-sample t interval and test of `per_seed(scores)`; paired if that is a difference."""
    rows = np.asarray(scores, dtype=np.float64)
    values = per_seed(rows[:, np.newaxis] if rows.ndim == 1 else rows)
    values = values[np.isfinite(values)]
    n = len(values)
    if n < 2:
        return Test(Estimate(float(values[0]) if n else math.nan, math.nan, math.nan, n), math.nan, math.nan)
    mean = float(values.mean())
    if np.ptp(values) <= 1e-12 * abs(mean):  # the same in each seed: SciPy would divide by 0
        return Test(Estimate(mean, mean, mean, n), float(mean == 0), math.inf if mean else 0.0)
    from scipy import stats

    found = stats.ttest_1samp(values, 0)
    interval = found.confidence_interval(1 - LEVEL)
    estimate = Estimate(mean, float(interval.low), float(interval.high), n)
    return Test(estimate, float(found.pvalue), float(abs(found.statistic)) / math.sqrt(n))


def interval(scores: ArrayLike, per_seed: PerSeed = column_mean) -> Estimate:
    """The mean over seeds of `per_seed(scores)`, with its t interval."""
    return test(scores, per_seed).estimate


def geometric_interval(scores: ArrayLike, per_seed: PerSeed = column_mean) -> Estimate:
    """The same of positive scores by their logarithms: a geometric mean, or of a difference a ratio."""
    return interval(np.log(np.asarray(scores, dtype=np.float64)), per_seed).through(math.exp)


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

    low, high = 1, MOST_SEEDS  # the power grows with n: not enough at low, enough at high
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Spearman's rank correlation with the interval of Bonett and Wright (2000), by Fisher's z."""
    n = len(x)
    if n < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return Correlation(math.nan, math.nan, math.nan, n)
    from scipy import stats

    rho = float(stats.spearmanr(x, y).statistic)
    inside = max(-0.9999, min(0.9999, rho))  # Fisher's z of 1 is infinite
    half = float(stats.norm.ppf(1 - LEVEL / 2)) * math.sqrt((1 + inside**2 / 2) / (n - 3))
    middle = math.atanh(inside)
    return Correlation(rho, math.tanh(middle - half), math.tanh(middle + half), n)
