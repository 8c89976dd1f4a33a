"""What numbers from a few seeds can tell. Pure; knows nothing of runs."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats has all of this, and takes a second to import

LEVEL = 0.05  # of every test; intervals are at 1 − LEVEL
POWER = 0.8  # of the number of seeds that would be needed
MOST_SEEDS = 1000  # an effect that needs more is as good as none


class Estimate(NamedTuple):
    """A mean of n values and its 95 % interval; low and high are nan for n = 1, all three for n = 0."""

    mean: float
    low: float
    high: float
    n: int

    def through(self, function: Callable[[float], float]) -> "Estimate":
        """The estimate on another scale; the function grows."""
        return Estimate(function(self.mean), function(self.low), function(self.high), self.n)


class PairedTest(NamedTuple):
    """A mean difference of n pairs, its 95 % interval, and the p-value of no difference (two-sided)."""

    estimate: Estimate
    p: float  # nan with fewer than two pairs
    effect: float  # |mean| / standard deviation of the differences; nan with fewer than two pairs


class Correlation(NamedTuple):
    """A rank correlation of n pairs and its 95 % interval; nan where n or the spread is too small."""

    rho: float
    low: float
    high: float
    n: int


def t_interval(values: Sequence[float]) -> Estimate:
    """The mean and its Student t interval."""
    n = len(values)
    if n < 2:
        return Estimate(values[0] if n else math.nan, math.nan, math.nan, n)
    mean = float(np.mean(values))
    half = float(special.stdtrit(n - 1, 1 - LEVEL / 2) * np.std(values, ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def geometric_interval(values: Sequence[float]) -> Estimate:
    """The geometric mean of positive values and the t interval of their logarithms, taken back."""
    return t_interval([math.log(value) for value in values]).through(math.exp)


def paired_t(differences: Sequence[float]) -> PairedTest:
    """Student's paired t-test, given the differences of the pairs."""
    estimate = t_interval(differences)
    if estimate.n < 2:
        return PairedTest(estimate, math.nan, math.nan)
    spread = float(np.std(differences, ddof=1))
    if spread == 0:  # the same difference in each pair
        return PairedTest(estimate, float(estimate.mean == 0), 0.0 if estimate.mean == 0 else math.inf)
    effect = abs(estimate.mean) / spread
    p = 2 * float(special.stdtr(estimate.n - 1, -effect * math.sqrt(estimate.n)))
    return PairedTest(estimate, p, effect)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979), in their order; nan stays, and does not count."""
    ranked = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected = list(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(ranked):
        least = max(least, min(1.0, (len(ranked) - rank) * p))
        corrected[place] = least
    return corrected


def seeds_needed(effect: float, level: float = LEVEL, power: float = POWER) -> int | None:
    """The least number of pairs with which a paired t-test (two-sided) finds `effect` with this power.

    effect: mean difference / standard deviation of the differences (Cohen's d_z). By the noncentral t
    distribution. None if it is more than MOST_SEEDS.
    """
    if _power(effect, MOST_SEEDS, level) < power:
        return None
    low, high = 1, MOST_SEEDS  # the power grows with n: not enough at low, enough at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(effect, middle, level) >= power else (middle, high)
    return high


def _power(effect: float, n: int, level: float) -> float:
    """The power of a two-sided paired t-test; the far tail, a wrong sign, is left out."""
    if effect == 0 or math.isnan(effect):
        return 0.0
    critical, shift = float(special.stdtrit(n - 1, 1 - level / 2)), effect * math.sqrt(n)
    if shift > critical + 10:
        return 1.0  # or near enough; here SciPy's distribution function loses its footing
    return 1 - float(special.nctdtr(n - 1, shift, critical))


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Spearman's rank correlation with the interval of Bonett and Wright (2000), by Fisher's z."""
    n = len(x)
    if n < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return Correlation(math.nan, math.nan, math.nan, n)
    rho = float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])
    inside = max(-0.9999, min(0.9999, rho))  # Fisher's z of 1 is infinite
    half = float(special.ndtri(1 - LEVEL / 2)) * math.sqrt((1 + inside**2 / 2) / (n - 3))
    middle = math.atanh(inside)
    return Correlation(rho, math.tanh(middle - half), math.tanh(middle + half), n)


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
