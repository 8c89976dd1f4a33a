"""The practical's claims on images: SGD against Adam, and which z_dim is best."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from sweeps.comparison.cells import log_ratios
from sweeps.comparison.decisions import PLAIN, RATIO, Claim, Part, Shown, decide, undecided
from sweeps.comparison.practical import BLURRED_Z, CLEAR_Z, lacking, scores_by_seed
from sweeps.comparison.records import FD, RunRecord
from sweeps.comparison.words import listed, optimizer_name
from sweeps.grid import text_of as short

SENSIBLE_Z = (50, 100)


class Clarity(NamedTuple):
    """A score of how clear digits are."""

    score: str
    name: str
    better: Callable[[float], float]  # more of this is better
    shown: Shown  # a difference of it


CLARITY = (
    Clarity(FD, "fd", lambda fd: -math.log(fd), RATIO),
    Clarity("quality/precision", "precision", lambda share: share, PLAIN),
    Clarity("quality/confidence", "confidence", lambda share: share, PLAIN),
)


def sgd_wins(
    sgd: Sequence[RunRecord], adam: Sequence[RunRecord], rates: Mapping[str, float | None], scored: bool
) -> Claim:
    """SGD against Adam by fd. `rates`: of each; `scored`: whether fd was measured."""
    statement = "Adam's Fréchet distance / SGD's is above 1"
    ratios: dict[int, list[float]] = {}  # by seed: one element a z_dim, which are no independent values
    for z in sorted({run.z_dim for run in sgd}):
        ours, theirs = scores_by_seed(adam, z, FD), scores_by_seed(sgd, z, FD)
        for seed in ours.keys() & theirs.keys():
            ratios.setdefault(seed, []).append(math.log(ours[seed] / theirs[seed]))
    used = listed(f"{optimizer_name(name)} at {short(rate)}" for name, rate in rates.items() if rate)
    part = (
        decide(statement, [fmean(each) for each in ratios.values()], shown=RATIO)
        if ratios and scored
        else undecided(statement, lacking(sgd=sgd, adam=adam, fd=scored))
    )
    return Claim(
        "SGD beats Adam",
        "By fd, paired by seed and z_dim: the ratio for each z_dim, its geometric mean over z_dims for each "
        f"seed. {used}: a comparison of these two settings, not of the optimizers as such.",
        [part],
    )


def clearest_digits(sgd: Sequence[RunRecord], shown: Sequence[str]) -> Claim:
    """z_dim 20 and 200 against all others, by the scores of CLARITY that are `shown`."""
    z_dims = sorted({run.z_dim for run in sgd})
    parts = []
    for which, z in (("clearest", CLEAR_Z), ("blurriest", BLURRED_Z)):
        for clarity in CLARITY:
            statement = f"{clarity.name}: z_dim {z} is the {which}"
            if not sgd or z not in z_dims or len(z_dims) < 2:
                why = lacking(sgd=sgd) or (
                    f"no z_dim {z} in this sweep" if z not in z_dims else "one z_dim only"
                )
                parts.append(undecided(statement, why))
            elif clarity.score not in shown:
                parts.append(undecided(statement, f"{clarity.name} was not measured"))
            else:
                sign = 1 if which == "clearest" else -1
                others = [other for other in z_dims if other != z]
                compared = [_lead(sgd, z, other, clarity, sign) for other in others]
                parts.append(_every(statement, compared))
    return Claim(
        f"z_dim {CLEAR_Z} gives the clearest digits, z_dim {BLURRED_Z} the blurriest",
        f"With SGD, by fd, precision and confidence: z_dim {CLEAR_Z} better than each other z_dim and "
        f"{BLURRED_Z} worse than each other one, paired by seed. Holds if it does against every one of them, "
        f"does "
        "not hold if it is the other way round against one.",
        parts,
    )


def sensible_z(sgd: Sequence[RunRecord], scored: bool) -> Claim:
    """The z_dims inside SENSIBLE_Z against those outside, by fd."""
    z_dims = sorted({run.z_dim for run in sgd})
    inside = [z for z in z_dims if SENSIBLE_Z[0] <= z <= SENSIBLE_Z[1]]
    statement = f"fd at every other z_dim / fd at {listed(inside)} is above 1"
    rule = (
        f"With SGD: every z_dim outside {SENSIBLE_Z[0]} to {SENSIBLE_Z[1]} has a larger fd than those "
        f"inside "
        "(their geometric mean), paired by seed. Needs one z_dim below, one inside and one above. Does not "
        "hold "
        "if one outside has a smaller fd."
    )
    if not sgd or not inside or z_dims[0] >= SENSIBLE_Z[0] or z_dims[-1] <= SENSIBLE_Z[1] or not scored:
        why = lacking(sgd=sgd, fd=scored) or "no z_dim below, inside and above in this sweep"
        part = undecided("fd is least inside", why)
    else:
        middle: dict[int, list[float]] = {}
        for z in inside:
            for seed, fd in scores_by_seed(sgd, z, FD).items():
                middle.setdefault(seed, []).append(math.log(fd))
        means = {seed: math.exp(fmean(logs)) for seed, logs in middle.items() if len(logs) == len(inside)}
        part = _every(
            statement,
            [
                decide(
                    f"z_dim {z}", log_ratios(scores_by_seed(sgd, z, FD), means), shown=RATIO,
                )
                for z in z_dims
                if z not in inside
            ],
        )  # fmt: skip
    return Claim(f"z_dim {SENSIBLE_Z[0]} to {SENSIBLE_Z[1]} is the sensible choice", rule, [part])


def _lead(runs: Sequence[RunRecord], z: int, other: int, clarity: Clarity, sign: int) -> Part:
    """How far z is better than another z_dim (worse, for sign −1), seed by seed."""
    ours, theirs = scores_by_seed(runs, z, clarity.score), scores_by_seed(runs, other, clarity.score)
    leads = [
        sign * (clarity.better(ours[seed]) - clarity.better(theirs[seed]))
        for seed in sorted(ours.keys() & theirs.keys())
    ]
    return decide(f"z_dim {other}", leads, shown=clarity.shown)


def _every(statement: str, compared: Sequence[Part]) -> Part:
    """One part made of several, of which each has to hold."""
    whole = Claim("", "", list(compared)).outcome
    return Part(statement, whole, "; ".join(f"{part.statement}: {part.numbers}" for part in compared))
