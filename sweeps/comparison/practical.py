"""What of a sweep the practical's claims are about: which runs, and what is read off them."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from gan_core.optimizers import OPTIMIZERS
from sweeps.comparison.cells import Comparison
from sweeps.comparison.records import RunRecord, SweepRecord
from sweeps.comparison.statistics import geometric_interval
from sweeps.comparison.words import listed, optimizer_name

PRACTICAL = ("sgd", "adam")
CLEAR_Z, BLURRED_Z, USUAL_Z = 20, 200, 100
LOSS = {"D": "loss/discriminator", "G": "loss/generator"}


def usual_z(runs: Sequence[RunRecord]) -> int:
    """The z_dim at which optimizers are compared: 100, or the one nearest to it that most of them have."""
    optimizers: dict[int, set[str]] = {}
    for run in runs:
        optimizers.setdefault(run.z_dim, set()).add(run.optimizer)
    return min(optimizers, key=lambda z: (-len(optimizers[z]), abs(z - USUAL_Z)), default=USUAL_Z)


def usual_rate(comparison: Comparison, optimizer: str) -> float | None:
    """An optimizer's learning rate in the claims: its default if the sweep has it, else its best by fd."""
    rates: dict[float, list[float]] = {}
    for cell in comparison.cells:
        if cell.optimizer == optimizer:
            rates.setdefault(cell.learning_rate, []).extend(cell.fds().values())
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


def scores_by_seed(runs: Sequence[RunRecord], z: int, score: str) -> dict[int, float]:
    """A score by seed, of the runs of one z_dim."""
    return {run.seed: value for run in runs if run.z_dim == z and (value := run.score(score)) is not None}


def _tenth(run: RunRecord, metric: str, where: Callable[[list[float], int], list[float]]) -> float:
    values = run.history.get(metric, [])
    return fmean(where(values, max(1, len(values) // 10))) if values else math.nan


def late_mean(run: RunRecord, metric: str) -> float:
    """The mean over the last tenth of the epochs, one at least."""
    return _tenth(run, metric, lambda values, count: values[-count:])


def early_mean(run: RunRecord, metric: str) -> float:
    """The mean over the first tenth of the epochs, one at least."""
    return _tenth(run, metric, lambda values, count: values[:count])


def lacking(fd: bool = True, **runs: Sequence[object]) -> str:
    """Why there is nothing to decide by; empty if all is there."""
    absent = [optimizer_name(name) for name, found in runs.items() if not found]
    if absent:
        return f"no finished run of {listed(absent)} in this sweep"
    return "" if fd else "fd was not measured"
