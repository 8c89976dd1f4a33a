"""The claims of the practical that this project grew out of, each tested on the runs of a sweep."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from gan_core.optimizers import OPTIMIZERS
from sweeps.comparison.cells import Comparison, log_ratios
from sweeps.comparison.decisions import (
    PLAIN,
    RATIO,
    Claim,
    Part,
    Shown,
    decide,
    decide_correlation,
    undecided,
)
from sweeps.comparison.records import FID, RunRecord, SweepRecord
from sweeps.comparison.statistics import Correlation, geometric_interval, spearman, t_interval
from sweeps.comparison.words import listed, number, optimizer_name
from sweeps.grid import short

PRACTICAL = ("sgd", "adam")
CLEAR_Z, BLURRED_Z, USUAL_Z = 20, 200, 100
SENSIBLE_Z = (50, 100)
NEAR = 1 / 3  # "near 6" is 4 to 8: the practical's figures are read off curves
STRONG = 0.5  # a rank correlation that tells something: a quarter of the ranks' variance
EPOCHS_TO_CORRELATE = 5
LOSS = {"D": "loss/discriminator", "G": "loss/generator"}
SWING = {"D": "loss_std/discriminator", "G": "loss_std/generator"}


class Clarity(NamedTuple):
    """A score of how clear digits are."""

    score: str
    name: str
    better: Callable[[float], float]  # more of this is better
    shown: Shown  # a difference of it


CLARITY = (
    Clarity(FID, "fid", lambda fid: -math.log(fid), RATIO),
    Clarity("quality/precision", "precision", lambda share: share, PLAIN),
    Clarity("quality/confidence", "confidence", lambda share: share, PLAIN),
)


class Peaks(NamedTuple):
    """The highest loss of an iteration in a run's first epoch."""

    D: float
    G: float


def usual_z(runs: Sequence[RunRecord]) -> int:
    """The z_dim at which optimizers are compared: 100, or the one nearest to it that most of them have."""
    optimizers: dict[int, set[str]] = {}
    for run in runs:
        optimizers.setdefault(run.z_dim, set()).add(run.optimizer)
    return min(optimizers, key=lambda z: (-len(optimizers[z]), abs(z - USUAL_Z)), default=USUAL_Z)


def usual_rate(comparison: Comparison, optimizer: str) -> float | None:
    """An optimizer's learning rate in the claims: its default if the sweep has it, else its best by fid."""
    rates: dict[float, list[float]] = {}
    for cell in comparison.cells:
        if cell.optimizer == optimizer:
            rates.setdefault(cell.learning_rate, []).extend(cell.fids().values())
    default = OPTIMIZERS[optimizer].learning_rate if optimizer in OPTIMIZERS else None
    if default in rates:
        return default
    return min(
        rates,
        key=lambda rate: geometric_interval(rates[rate]).mean if rates[rate] else math.inf,
        default=None,
    )


def practical_runs(record: SweepRecord, comparison: Comparison, optimizer: str) -> list[RunRecord]:
    """The finished runs of an optimizer at its `usual_rate`."""
    rate = usual_rate(comparison, optimizer)
    return [
        run
        for run in record.runs
        if run.status == "FINISHED" and run.optimizer == optimizer and run.learning_rate == rate
    ]


def judge_claims(record: SweepRecord, comparison: Comparison, peaks: Mapping[str, Peaks]) -> list[Claim]:
    """Every claim. `peaks`: by run id, at least of the `practical_runs` at their `usual_z`."""
    rates = {name: usual_rate(comparison, name) for name in PRACTICAL}
    sgd, adam = (practical_runs(record, comparison, name) for name in PRACTICAL)
    runs = [run for run in record.runs if run.status == "FINISHED"]
    scored = FID in comparison.scores
    return [
        _sgd_wins(sgd, adam, rates, scored),
        _curves(sgd, adam, peaks),
        _clearest(sgd, comparison.scores),
        _flat(sgd),
        _sensible(sgd, scored),
        _loss_tells(runs, scored),
    ]


def _sgd_wins(
    sgd: Sequence[RunRecord], adam: Sequence[RunRecord], rates: Mapping[str, float | None], scored: bool
) -> Claim:
    statement = "Adam's Fréchet distance / SGD's is above 1"
    ratios: dict[int, list[float]] = {}  # by seed: one element a z_dim, which are no independent values
    for z in sorted({run.z_dim for run in sgd}):
        ours, theirs = _scores(adam, z, FID), _scores(sgd, z, FID)
        for seed in ours.keys() & theirs.keys():
            ratios.setdefault(seed, []).append(math.log(ours[seed] / theirs[seed]))
    used = listed(f"{optimizer_name(name)} at {short(rate)}" for name, rate in rates.items() if rate)
    part = (
        decide(statement, [fmean(each) for each in ratios.values()], shown=RATIO)
        if ratios and scored
        else undecided(statement, _lacking(sgd=sgd, adam=adam, fid=scored))
    )
    return Claim(
        "SGD beats Adam",
        "By fid, paired by seed and z_dim: the ratio for each z_dim, its geometric mean over z_dims for each "
        f"seed. {used}: a comparison of these two settings, not of the optimizers as such.",
        [part],
    )


def _curves(sgd: Sequence[RunRecord], adam: Sequence[RunRecord], peaks: Mapping[str, Peaks]) -> Claim:
    z = usual_z([*sgd, *adam])
    ours = {run.seed: run for run in sgd if run.z_dim == z}
    theirs = {run.seed: run for run in adam if run.z_dim == z}
    no_sgd, no_adam = _lacking(sgd=list(ours)), _lacking(adam=list(theirs))

    def peak(runs: Mapping[int, RunRecord], network: str) -> list[float]:
        return [getattr(peaks[run.run_id], network) for run in runs.values() if run.run_id in peaks]

    def ends(network: str) -> list[float]:
        return [_late(run, LOSS[network]) for run in ours.values()]

    def near(statement: str, values: Sequence[float], about: float, absent: str) -> Part:
        low, high = about * (1 - NEAR), about * (1 + NEAR)
        return decide(
            f"{statement} near {number(about)} ({number(low)} to {number(high)})", values, (low, high),
            absent=absent or "no losses of single iterations are kept",
        )  # fmt: skip

    both = sorted(ours.keys() & theirs.keys())
    parts = [
        near("SGD: G's loss peaks in the first epoch", peak(ours, "G"), 6, no_sgd),
        near("SGD: D's loss peaks in the first epoch", peak(ours, "D"), 4.5, no_sgd),
        decide("SGD: G's loss ends below 3", ends("G"), (-math.inf, 3), absent=no_sgd),
        near("SGD: D's loss ends", ends("D"), 1.5, no_sgd),
        near("Adam: G's loss peaks in the first epoch", peak(theirs, "G"), 1.8, no_adam),
        decide(
            "Adam: G's loss rises, last tenth − first epoch above 0",
            [
                _late(run, LOSS["G"]) - run.history[LOSS["G"]][0]
                for run in theirs.values()
                if run.history.get(LOSS["G"])
            ],
            absent=no_adam,
        ),
        *(
            decide(
                f"Adam: {network}'s loss swings more, Adam's spread within an epoch / SGD's is above 1",
                [
                    math.log(_late(theirs[seed], SWING[network]) / _late(ours[seed], SWING[network]))
                    for seed in both
                    if _late(theirs[seed], SWING[network]) > 0 and _late(ours[seed], SWING[network]) > 0
                ],
                shown=RATIO, absent=no_sgd or no_adam or "no seed is in both",
            )
            for network in ("G", "D")
        ),
    ]  # fmt: skip
    return Claim(
        "SGD's losses start high and fall; Adam's start low, rise and swing more",
        f"At z_dim {z}, in nats. Peak: the highest iteration. End: mean of the last tenth of the epochs. "
        f"Near: "
        "within a third of the practical's figure, which was read off a curve. Swing: the standard deviation "
        "of "
        "the iterations within an epoch, mean of the last tenth.",
        parts,
    )


def _clearest(sgd: Sequence[RunRecord], shown: Sequence[str]) -> Claim:
    z_dims = sorted({run.z_dim for run in sgd})
    parts = []
    for which, z in (("clearest", CLEAR_Z), ("blurriest", BLURRED_Z)):
        for clarity in CLARITY:
            statement = f"{clarity.name}: z_dim {z} is the {which}"
            if not sgd or z not in z_dims or len(z_dims) < 2:
                why = _lacking(sgd=sgd) or (
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
        f"With SGD, by fid, precision and confidence: z_dim {CLEAR_Z} better than each other z_dim and "
        f"{BLURRED_Z} worse than each other one, paired by seed. Holds if it does against every one of them, "
        f"does "
        "not hold if it is the other way round against one.",
        parts,
    )


def _flat(sgd: Sequence[RunRecord]) -> Claim:
    runs = [run for run in sgd if run.z_dim == CLEAR_Z]
    why = _lacking(sgd=sgd) or f"no z_dim {CLEAR_Z} in this sweep"
    ends = [_late(run, LOSS["G"]) for run in runs]
    changes = [
        math.log(late / early)
        for run in runs
        if (late := _late(run, LOSS["G"])) > 0 and (early := _early(run, LOSS["G"])) > 0
    ]
    return Claim(
        f"G's loss at z_dim {CLEAR_Z} does not improve and stays at 3 to 4",
        "With SGD. Improve: the mean of the last tenth of the epochs is less than nine tenths of the first "
        "tenth's.",
        [
            decide("G's loss ends at 3 to 4", ends, (3, 4), absent=why),
            decide(
                "last tenth / first tenth is 0.9 or more", changes, (math.log(0.9), math.inf),
                RATIO, absent=why,
            ),
        ],
    )  # fmt: skip


def _sensible(sgd: Sequence[RunRecord], scored: bool) -> Claim:
    z_dims = sorted({run.z_dim for run in sgd})
    inside = [z for z in z_dims if SENSIBLE_Z[0] <= z <= SENSIBLE_Z[1]]
    statement = f"fid at every other z_dim / fid at {listed(inside)} is above 1"
    rule = (
        f"With SGD: every z_dim outside {SENSIBLE_Z[0]} to {SENSIBLE_Z[1]} has a larger fid than those "
        f"inside "
        "(their geometric mean), paired by seed. Needs one z_dim below, one inside and one above. Does not "
        "hold "
        "if one outside has a smaller fid."
    )
    if not sgd or not inside or z_dims[0] >= SENSIBLE_Z[0] or z_dims[-1] <= SENSIBLE_Z[1] or not scored:
        why = _lacking(sgd=sgd, fid=scored) or "no z_dim below, inside and above in this sweep"
        part = undecided("fid is least inside", why)
    else:
        middle: dict[int, list[float]] = {}
        for z in inside:
            for seed, fid in _scores(sgd, z, FID).items():
                middle.setdefault(seed, []).append(math.log(fid))
        means = {seed: math.exp(fmean(logs)) for seed, logs in middle.items() if len(logs) == len(inside)}
        part = _every(
            statement,
            [
                decide(
                    f"z_dim {z}", log_ratios(_scores(sgd, z, FID), means), shown=RATIO,
                )
                for z in z_dims
                if z not in inside
            ],
        )  # fmt: skip
    return Claim(f"z_dim {SENSIBLE_Z[0]} to {SENSIBLE_Z[1]} is the sensible choice", rule, [part])


def _loss_tells(runs: Sequence[RunRecord], scored: bool) -> Claim:
    parts = []
    for network in ("G", "D"):
        over_runs, over_epochs = (
            f"{network}'s final loss with fid, over runs",
            f"{network}'s loss with fid, over the epochs of a run",
        )
        if not scored:
            parts += [undecided(what, _lacking(fid=False)) for what in (over_runs, over_epochs)]
            continue
        pairs = [(run.last(LOSS[network]), fid) for run in runs if (fid := run.score(FID)) is not None]
        parts.append(
            decide_correlation(over_runs, spearman(*zip(*pairs, strict=True)) if pairs else _NO_PAIRS, STRONG)
        )
        parts.append(_within(over_epochs, runs, LOSS[network]))
    return Claim(
        "The loss tells how good the images are",
        f"Spearman's rank correlation ρ; it tells if ρ is beyond ±{STRONG} with its whole interval, does not "
        f"if "
        f"the interval lies within ±{STRONG}. + : a higher loss goes with worse images. Over runs: the "
        f"interval "
        "of Bonett and Wright, which takes runs of one cell for independent and so is too narrow. Over "
        "epochs: ρ "
        f"in each run with fid at {EPOCHS_TO_CORRELATE} epochs or more, mean for each seed, t interval over "
        f"seeds.",
        parts,
    )


_NO_PAIRS = Correlation(math.nan, math.nan, math.nan, 0)


def _within(statement: str, runs: Sequence[RunRecord], loss: str) -> Part:
    by_seed: dict[int, list[float]] = {}
    for run in runs:
        losses = dict(zip(run.epochs.get(loss, []), run.history.get(loss, []), strict=True))
        points = [
            (losses[epoch], fid)
            for epoch, fid in zip(run.epochs.get(FID, []), run.history.get(FID, []), strict=True)
            if epoch in losses
        ]
        if len(points) >= EPOCHS_TO_CORRELATE:
            rho = spearman(*zip(*points, strict=True)).rho
            if not math.isnan(rho):
                by_seed.setdefault(run.seed, []).append(rho)
    mean = t_interval([fmean(each) for each in by_seed.values()])
    if mean.n < 2:
        few = f"ρ = {mean.mean:+.2f}, one seed only" if mean.n else "fid at too few epochs"
        return undecided(statement, few)
    return decide_correlation(statement, Correlation(mean.mean, mean.low, mean.high, mean.n), STRONG)


def _lead(runs: Sequence[RunRecord], z: int, other: int, clarity: Clarity, sign: int) -> Part:
    """How far z is better than another z_dim (worse, for sign −1), seed by seed."""
    ours, theirs = _scores(runs, z, clarity.score), _scores(runs, other, clarity.score)
    leads = [
        sign * (clarity.better(ours[seed]) - clarity.better(theirs[seed]))
        for seed in sorted(ours.keys() & theirs.keys())
    ]
    return decide(f"z_dim {other}", leads, shown=clarity.shown)


def _every(statement: str, compared: Sequence[Part]) -> Part:
    """One part made of several, of which each has to hold."""
    whole = Claim("", "", list(compared)).outcome
    return Part(statement, whole, "; ".join(f"{part.statement}: {part.numbers}" for part in compared))


def _scores(runs: Sequence[RunRecord], z: int, score: str) -> dict[int, float]:
    """A score by seed, of the runs of one z_dim."""
    return {run.seed: value for run in runs if run.z_dim == z and (value := run.score(score)) is not None}


def _tenth(run: RunRecord, metric: str, where: Callable[[list[float], int], list[float]]) -> float:
    values = run.history.get(metric, [])
    return fmean(where(values, max(1, len(values) // 10))) if values else math.nan


def _late(run: RunRecord, metric: str) -> float:
    """The mean over the last tenth of the epochs, one at least."""
    return _tenth(run, metric, lambda values, count: values[-count:])


def _early(run: RunRecord, metric: str) -> float:
    return _tenth(run, metric, lambda values, count: values[:count])


def _lacking(fid: bool = True, **runs: Sequence[object]) -> str:
    """Why there is nothing to decide by; empty if all is there."""
    absent = [optimizer_name(name) for name, found in runs.items() if not found]
    if absent:
        return f"no finished run of {listed(absent)} in this sweep"
    return "" if fid else "fid was not measured"
