"""How often a race is wrong and what it costs, on simulated sweeps: `python -m benchmarks.race`.

What decides is the sweep's own code (sweeps/race.py). A simulated sweep has for each setting a mean log distance,
at its end and at the rungs, and a spread over seeds. A seed's deviation at a rung has the correlation CORRELATION
with its deviation at the end. Wrong is an answer "best" where another setting is better or as good, an answer
"equal" whose settings are not all within the margin or that leaves the best out, and a dropped best. Cost is in
epochs, as a share of five seeds of every setting. Behind a figure stands the 95 % interval of its simulation.

`--family FILE.json` takes a family of your own, of any number of settings, in log distances:
{"means": [at the end, ...], "spreads": [standard deviation over seeds, ...], "curves": [[at each rung, ...], ...],
"rungs": [epoch, ...]}, the last two if the settings' curves are to have shapes of their own. Without "rungs" the points
of a curve are evenly spaced before the end, epoch 100. Between points curves are straight.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from sweeps.race import CHECKS, NEAR_CHECKS, Rules, decide

EPOCHS = 100
RUNGS = (5, 10, 20, 30, 35, 60)  # epochs at which the scores are simulated, beside the end
BEST_TWO_AFTER = 10
FIXED = 5  # seeds of the grid that costs are compared with
CORRELATION = 0.5  # of a seed's deviations at a rung and at the end
SPREAD = 0.06  # median over settings, of log-normal spreads
SPREAD_LOG_SD = 0.7
FALL = 1.0  # how far a setting's mean falls from the first rung to its end, where a family does not say

# docs/results: means and standard deviations over seeds of log fd, at the end.
STUDY = (
    (3.050, 3.208, 2.934, 3.112, 1.615, 1.640, 1.619, 1.643),
    (0.0587, 0.247, 0.112, 0.114, 0.0438, 0.0076, 0.0216, 0.0453),
)
RATES = (
    (3.084, 2.480, 2.384, 2.536, 2.142, 1.619, 1.298, 4.125),
    (0.0339, 0.423, 0.0502, 0.0349, 0.0541, 0.0615, 0.0089, 0.444),
)

Array = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, ...]], Array]


class Truth(NamedTuple):
    """A sweep to be simulated."""

    means: Array  # of each setting, at the end
    spreads: Array
    curves: Array  # settings × rungs
    noise: Noise  # of variance 1


Family = Callable[[np.random.Generator], Truth]


class Outcome(NamedTuple):
    """What came of one simulated sweep."""

    wrong: bool
    answered: bool
    cost: float
    covers: bool | None = None  # whether the interval of the chosen setting's distance holds the truth


@dataclass(frozen=True)
class Sample:
    """A simulated sweep: the score of every setting, seed and rung."""

    truth: Truth
    rungs: Sequence[int]  # and the end
    scores: Array  # settings × seeds × (rungs and end)

    @classmethod
    def draw(cls, truth: Truth, rules: Rules, chance: np.random.Generator) -> "Sample":
        """As many seeds as a race can ask for."""
        shape = (len(truth.means), rules.max_seeds)
        at_end = truth.noise(chance, shape)
        own = truth.noise(chance, (*shape, len(RUNGS)))
        deviations = CORRELATION * at_end[..., None] + math.sqrt(1 - CORRELATION**2) * own
        spread = truth.spreads[:, None]
        at_rungs = truth.curves[:, None, :] + spread[..., None] * deviations
        ends = truth.means[:, None] + spread * at_end
        return cls(truth, (*RUNGS, rules.epochs), np.concatenate([at_rungs, ends[..., None]], axis=2))

    def at(self, epochs: float) -> Array:
        """The scores at the first rung that is not before so many epochs: settings × seeds."""
        return self.scores[:, :, next(n for n, rung in enumerate(self.rungs) if rung >= min(epochs, self.rungs[-1]))]


def normal(chance: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return chance.standard_normal(shape)


def heavy_tailed(chance: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return chance.standard_t(3, shape) / math.sqrt(3)


def families(rules: Rules, settings: int) -> dict[str, Family]:
    """Each family, by its name; of as many settings where it is not a recorded one."""
    fall = FALL * (1 - np.array(RUNGS) / rules.epochs)

    def fixed(means: Sequence[float], spreads: Sequence[float], _: np.random.Generator) -> Truth:
        ends = np.array(means)
        return Truth(ends, np.array(spreads), ends[:, None] + fall, normal)

    def random(spread: float, noise: Noise, chance: np.random.Generator) -> Truth:
        ends = chance.normal(0, spread, settings) if spread else np.zeros(settings)
        return Truth(ends, SPREAD * np.exp(chance.normal(0, SPREAD_LOG_SD, settings)), ends[:, None] + fall, noise)

    def crossing(chance: np.random.Generator) -> Truth:
        """Random ends, and how far a setting falls is random too: at the first rung the order says little."""
        plain = random(0.5, normal, chance)
        return plain._replace(curves=plain.means[:, None] + fall * chance.uniform(0.3, 1.7, (settings, 1)))

    return {
        "study": partial(fixed, *STUDY),
        "rates": partial(fixed, *RATES),
        "random": partial(random, 0.5, normal),
        "close": partial(random, 0.05, normal),
        "same": partial(random, 0.0, normal),
        "crossing": crossing,
        "heavy-tailed": partial(random, 0.5, heavy_tailed),
    }


def read_family(file: Path, rules: Rules) -> Family:
    """The family that a file describes."""
    found = json.loads(file.read_text(encoding="utf-8"))
    means, spreads = np.array(found["means"], dtype=float), np.array(found["spreads"], dtype=float)
    fall = FALL * (1 - np.array(RUNGS) / rules.epochs)
    curves = means[:, None] + fall
    given = np.array(found.get("curves", curves), dtype=float)
    if spreads.shape != means.shape or given.ndim != 2 or len(given) != len(means):
        raise SystemExit(f"{file}: means and spreads should have a number for each setting, curves a list for each")
    if "curves" in found:
        evenly = [rules.epochs * (n + 1) / (given.shape[1] + 1) for n in range(given.shape[1])]
        places = [*found.get("rungs", evenly), rules.epochs]
        curves = np.array([np.interp(RUNGS, places, [*curve, end]) for curve, end in zip(given, means, strict=True)])
    return lambda _: Truth(means, spreads, curves, normal)


def race(sample: Sample, rules: Rules) -> Outcome:
    """The race as `run_grid.py` would run it."""
    names = [f"setting{n}" for n in range(len(sample.truth.means))]
    scores = {
        (name, seed): dict(zip(sample.rungs, map(float, its), strict=True))
        for name, of_setting in zip(names, sample.scores, strict=True)
        for seed, its in enumerate(of_setting)
    }
    found = decide(names, scores, rules)
    means = dict(zip(names, sample.truth.means, strict=True))
    left = [means[name] for name in found.left]
    no_best = found.answer == "best" and sum(mean <= left[0] for mean in means.values()) > 1
    unequal = found.answer == "equal" and max(left) - min(left) > rules.log_margin + 1e-9
    wrong = min(left) > min(means.values()) or no_best or unequal
    at = found.distance
    covers = at.low <= means[found.chosen] <= at.high if at else None
    return Outcome(wrong, found.answer != "open", _cost(found.spent, sample, rules), covers)


def _cost(spent: float, sample: Sample, rules: Rules) -> float:
    return spent / (FIXED * rules.epochs * len(sample.truth.means))


def _pick(sample: Sample, chosen: int, spent: float, rules: Rules) -> Outcome:
    """What a method gives that always names one setting."""
    means = sample.truth.means
    return Outcome(bool((means <= means[chosen]).sum() > 1), True, _cost(spent, sample, rules))


def five_seeds(sample: Sample, rules: Rules) -> Outcome:
    """All settings, five seeds, the least mean."""
    ends = sample.at(rules.epochs)[:, :FIXED].mean(axis=1)
    return _pick(sample, int(ends.argmin()), FIXED * rules.epochs * len(ends), rules)


def successive_halving(sample: Sample, rules: Rules, eta: int = 3) -> Outcome:
    """One seed; the best third goes on at a ninth and at a third of the epochs (Jamieson and Talwalkar 2016)."""
    left, spent, before = np.arange(len(sample.truth.means)), 0.0, 0.0
    for budget in (rules.epochs / eta**2, rules.epochs / eta, rules.epochs):
        spent += len(left) * (budget - before)
        before = budget
        ranked = left[sample.at(budget)[left, 0].argsort()]
        left = ranked[: max(1, len(ranked) // eta)] if budget < rules.epochs else ranked
    return _pick(sample, int(left[0]), spent, rules)


def asha(sample: Sample, rules: Rules, eta: int = 3) -> Outcome:
    """The same, settings arriving one by one: one goes on if it is in the best third of those seen at the rung."""
    seen: dict[float, list[float]] = {rules.epochs / eta**2: [], rules.epochs / eta: []}
    spent, ends = 0.0, {}
    for setting in range(len(sample.truth.means)):
        for budget, values in seen.items():
            value = float(sample.at(budget)[setting, 0])
            values.append(value)
            if sorted(values).index(value) >= max(1, len(values) // eta):
                spent += budget
                break
        else:
            spent += rules.epochs
            ends[setting] = float(sample.at(rules.epochs)[setting, 0])
    return _pick(sample, min(ends, key=lambda setting: ends[setting]), spent, rules)


def wilcoxon(sample: Sample, rules: Rules, p: float = 0.1) -> Outcome:
    """Five seeds, but a setting ends as soon as a signed-rank test against the best so far says that it is worse.

    As Optuna's WilcoxonPruner: after each seed from the second one on, one-sided, threshold 0.1.
    """
    ends, spent, best = sample.at(rules.epochs)[:, :FIXED], 0, 0
    for setting in range(len(ends)):
        seeds = 0
        for seeds in range(1, FIXED + 1):
            differences = ends[setting, :seeds] - ends[best, :seeds]
            if setting and seeds > 1 and stats.wilcoxon(differences, alternative="greater").pvalue < p:
                break
        else:
            best = setting if ends[setting].mean() < ends[best].mean() else best
        spent += seeds * rules.epochs
    return _pick(sample, best, spent, rules)


def best_two(sample: Sample, rules: Rules) -> Outcome:
    """One seed of all to the first rung, the best two to the end (Bohdal et al. 2023, with a later rung)."""
    first = BEST_TWO_AFTER
    two = sample.at(first)[:, 0].argsort()[:2]
    chosen = two[sample.at(rules.epochs)[two, 0].argmin()]
    spent = first * len(sample.truth.means) + (rules.epochs - first) * len(two)
    return _pick(sample, int(chosen), spent, rules)


METHODS: Mapping[str, Callable[[Sample, Rules], Outcome]] = {
    "race": race,
    "five seeds": five_seeds,
    "successive halving": successive_halving,
    "ASHA": asha,
    "Wilcoxon": wilcoxon,
    "best two": best_two,
}


def simulate(family: Family, method: str, rules: Rules, sweeps: int, seed: int) -> list[Outcome]:
    """The outcome of each simulated sweep; every method gets the same ones."""
    chance = np.random.default_rng(seed)
    samples = (Sample.draw(family(chance), rules, chance) for _ in range(sweeps))
    return [METHODS[method](sample, rules) for sample in samples]


def share(found: Sequence[bool]) -> str:
    """A share with its exact 95 % interval (Clopper and Pearson)."""
    if not found:
        return "–"
    low, high = proportion_confint(sum(found), len(found), method="beta")
    return f"{np.mean(found):.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=1000, help="simulated sweeps of each family (1000)")
    parser.add_argument("--settings", type=int, default=8, help="of the families that are not recorded ones (8)")
    parser.add_argument("--family", help="the name of one family, or a file (all)")
    parser.add_argument("--method", choices=METHODS, help="one method (all)")
    parser.add_argument("--confidence", type=float, default=Rules.confidence)
    parser.add_argument("--margin", type=float, default=Rules.margin)
    parser.add_argument("--max-seeds", type=int, default=Rules.max_seeds)
    parser.add_argument("--drawn", action="store_true", help="race settings from their first seed on")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (0)")
    args = parser.parse_args()
    rules = Rules(EPOCHS, args.confidence, args.margin, args.max_seeds, args.drawn)
    chosen = families(rules, args.settings)
    if args.family:
        known = chosen.get(args.family) or read_family(Path(args.family), rules)
        chosen = {args.family: known}
    print(
        f"{args.sweeps} sweeps of each family, at most {rules.max_seeds} seeds, {CHECKS} or {NEAR_CHECKS} of them to "
        f"check; margin {rules.margin:.0%}, confidence {rules.confidence:.0%}, rung at epoch {rules.rung}, seed "
        f"{args.seed}\n\n"
        "| family | method | wrong | cost, mean | answered | interval holds the truth |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    began = time.monotonic()
    for name, family in chosen.items():
        for method in [args.method] if args.method else METHODS:
            found = simulate(family, method, rules, args.sweeps, args.seed)
            costs = [one.cost for one in found]
            half = 1.96 * float(np.std(costs)) / math.sqrt(len(costs))
            print(
                f"| {name} | {method} | {share([one.wrong for one in found])} | {np.mean(costs):.3f} ± {half:.3f} "
                f"| {share([one.answered for one in found])} "
                f"| {share([one.covers for one in found if one.covers is not None])} |",
                flush=True,
            )
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
