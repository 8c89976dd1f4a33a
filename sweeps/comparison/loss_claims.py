"""The practical's claims on losses: their curves, G's at z_dim 20, and whether they tell of images."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from sweeps.comparison.decisions import RATIO, Claim, Part, decide, decide_correlation, undecided
from sweeps.comparison.practical import CLEAR_Z, LOSS, early_mean, lacking, late_mean, usual_z
from sweeps.comparison.records import FD, RunRecord
from sweeps.comparison.statistics import Correlation, spearman, t_interval
from sweeps.comparison.words import number, signed

NEAR = 1 / 3  # "near 6" is 4 to 8: the practical's figures are read off curves
STRONG = 0.5  # a rank correlation that tells something: a quarter of the ranks' variance
EPOCHS_TO_CORRELATE = 5
SWING = {"D": "loss_std/discriminator", "G": "loss_std/generator"}
NO_PAIRS = Correlation(math.nan, math.nan, math.nan, 0)


class Peaks(NamedTuple):
    """The highest loss of an iteration in a run's first epoch."""

    D: float
    G: float


def loss_curves(sgd: Sequence[RunRecord], adam: Sequence[RunRecord], peaks: Mapping[str, Peaks]) -> Claim:
    """SGD's curves and Adam's at one z_dim. `sgd`, `adam`: finished runs; `peaks`: by run id."""
    z = usual_z([*sgd, *adam])
    ours = {run.seed: run for run in sgd if run.z_dim == z}
    theirs = {run.seed: run for run in adam if run.z_dim == z}
    no_sgd, no_adam = lacking(sgd=list(ours)), lacking(adam=list(theirs))

    def peak(runs: Mapping[int, RunRecord], network: str) -> list[float]:
        return [getattr(peaks[run.run_id], network) for run in runs.values() if run.run_id in peaks]

    def ends(network: str) -> list[float]:
        return [late_mean(run, LOSS[network]) for run in ours.values()]

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
                late_mean(run, LOSS["G"]) - run.history[LOSS["G"]][0]
                for run in theirs.values()
                if run.history.get(LOSS["G"])
            ],
            absent=no_adam,
        ),
        *(
            decide(
                f"Adam: {network}'s loss swings more, Adam's spread within an epoch / SGD's is above 1",
                [
                    math.log(adams / sgds)
                    for seed in both
                    if (adams := late_mean(theirs[seed], SWING[network])) > 0
                    and (sgds := late_mean(ours[seed], SWING[network])) > 0
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


def flat_loss(sgd: Sequence[RunRecord]) -> Claim:
    """G's loss at z_dim 20."""
    runs = [run for run in sgd if run.z_dim == CLEAR_Z]
    why = lacking(sgd=sgd) or f"no z_dim {CLEAR_Z} in this sweep"
    ends = [late_mean(run, LOSS["G"]) for run in runs]
    changes = [
        math.log(late / early)
        for run in runs
        if (late := late_mean(run, LOSS["G"])) > 0 and (early := early_mean(run, LOSS["G"])) > 0
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


def loss_tells(runs: Sequence[RunRecord], scored: bool) -> Claim:
    """Losses against fd, over all finished runs and within each."""
    parts = []
    for network in ("G", "D"):
        over_runs, over_epochs = (
            f"{network}'s final loss with fd, over runs",
            f"{network}'s loss with fd, over the epochs of a run",
        )
        if not scored:
            parts += [undecided(what, lacking(fd=False)) for what in (over_runs, over_epochs)]
            continue
        pairs = [(run.last(LOSS[network]), fd) for run in runs if (fd := run.score(FD)) is not None]
        parts.append(
            decide_correlation(over_runs, spearman(*zip(*pairs, strict=True)) if pairs else NO_PAIRS, STRONG)
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
        f"in each run with fd at {EPOCHS_TO_CORRELATE} epochs or more, mean for each seed, t interval over "
        f"seeds.",
        parts,
    )


def _within(statement: str, runs: Sequence[RunRecord], loss: str) -> Part:
    by_seed: dict[int, list[float]] = {}
    for run in runs:
        losses = dict(zip(run.epochs.get(loss, []), run.history.get(loss, []), strict=True))
        points = [
            (losses[epoch], fd)
            for epoch, fd in zip(run.epochs.get(FD, []), run.history.get(FD, []), strict=True)
            if epoch in losses
        ]
        if len(points) >= EPOCHS_TO_CORRELATE:
            rho = spearman(*zip(*points, strict=True)).rho
            if not math.isnan(rho):
                by_seed.setdefault(run.seed, []).append(rho)
    mean = t_interval([fmean(each) for each in by_seed.values()])
    if mean.n < 2:
        few = f"ρ = {signed(mean.mean)}, one seed only" if mean.n else "fd at too few epochs"
        return undecided(statement, few)
    found = Correlation(mean.mean, max(-1.0, mean.low), min(1.0, mean.high), mean.n)
    return decide_correlation(statement, found, STRONG)
