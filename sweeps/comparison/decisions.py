"""How a claim is decided: the 95 % interval over seeds against the values at which the claim would hold."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sweeps.comparison.statistics import Correlation, Estimate, t_interval
from sweeps.comparison.words import NONE, counted, interval, number, signed

Outcome = Literal["holds", "does not hold", "not decided"]
RULE = (
    "Every part is a number a seed, and the values it may have if the claim is true. It holds if the whole "
    "95 % "
    "t interval over seeds lies among them, does not hold if the whole interval lies outside, and is not "
    "decided "
    "otherwise, or with fewer than two seeds. A claim holds if all its parts do, does not hold if one part "
    "does "
    "not, and is not decided otherwise. The claims are not corrected for their number."
)


@dataclass(frozen=True)
class Part:
    """One statement of a claim, and what the runs say to it."""

    statement: str
    outcome: Outcome
    numbers: str


@dataclass(frozen=True)
class Claim:
    """A claim of the practical, the rule it is decided by, and its parts."""

    title: str
    rule: str
    parts: list[Part]

    @property
    def outcome(self) -> Outcome:
        """All parts together."""
        outcomes = {part.outcome for part in self.parts}
        if "does not hold" in outcomes:
            return "does not hold"
        return "holds" if outcomes == {"holds"} else "not decided"


class Shown(NamedTuple):
    """How the value of a part is written."""

    scale: Callable[[float], float]
    unit: str


PLAIN = Shown(lambda value: value, "")
RATIO = Shown(math.exp, " times")  # of a logarithm
POSITIVE = (0.0, math.inf)


def decide(
    statement: str,
    values: Sequence[float],
    true_within: tuple[float, float] = POSITIVE,
    shown: Shown = PLAIN,
    absent: str = "no finished run has it",
) -> Part:
    """The part decided by one value a seed. `absent`: why there may be none."""
    estimate = t_interval([value for value in values if math.isfinite(value)])
    on_scale = estimate.through(shown.scale)
    if estimate.n < 2:
        single = f"{number(on_scale.mean)}{shown.unit}, one seed only"
        return Part(statement, "not decided", single if estimate.n else absent)
    numbers = f"{number(on_scale.mean)}{shown.unit} ({interval(on_scale)}), {counted(estimate.n, 'seed')}"
    return Part(statement, _place(estimate, *true_within), numbers)


def decide_correlation(statement: str, found: Correlation, strong: float) -> Part:
    """The part decided by a rank correlation, which should be at least `strong`, whatever its sign."""
    if math.isnan(found.rho):
        return Part(statement, "not decided", f"too few or too equal values: {counted(found.n, 'pair')}")
    numbers = f"ρ = {signed(found.rho)} ({signed(found.low)} to {signed(found.high)}), n = {found.n}"
    beyond = found.low >= strong or found.high <= -strong
    within = -strong < found.low and found.high < strong
    return Part(statement, "holds" if beyond else "does not hold" if within else "not decided", numbers)


def _place(estimate: Estimate, least: float, most: float) -> Outcome:
    if least <= estimate.low and estimate.high <= most:
        return "holds"
    return "does not hold" if estimate.high < least or most < estimate.low else "not decided"


def undecided(statement: str, why: str) -> Part:
    """A part for which the runs have nothing to say."""
    return Part(statement, "not decided", why or NONE)
