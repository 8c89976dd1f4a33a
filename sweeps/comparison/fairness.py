"""What a sweep held equal and what it did not, and each optimizer at its own best learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sweeps.comparison.cells import Comparison
from sweeps.comparison.records import FD, RunRecord, SweepRecord
from sweeps.comparison.statistics import Estimate, PairedTest, holm, paired_t, t_interval
from sweeps.comparison.words import counted, interval, listed, number, optimizer_name, p_clause
from sweeps.grid import text_of as short


@dataclass(frozen=True)
class AtItsBest:
    """An optimizer at the learning rate that gave the least Fréchet distance."""

    optimizer: str
    learning_rate: float
    tried: int  # learning rates
    fd: Estimate  # geometric mean over z_dims and seeds; the interval over seeds
    against_best: str  # in words; empty for the best itself


def held_equal(record: SweepRecord) -> list[str]:
    """What the runs of a sweep have in common, and what differs besides the axes, a sentence each."""
    rates = _rates(record.runs)
    lines = [
        "Runs of one seed begin with the same D and see the real images in the same order, whatever the "
        "optimizer and z_dim. Those of one z_dim as well begin with the same G and get the same noise. So "
        "cells "
        "are compared seed by seed.",
        "All runs have the same image set, number of epochs, batch size and hidden layers, and are scored by "
        "the same classifier on as many images made of the same noise.",
    ]
    if len(rates) > 1:
        each = listed(
            f"{optimizer_name(name)} at {listed((short(rate) for rate in tried), 'or')}"
            for name, tried in rates.items()
        )
        lines.append(f"Learning rates: {each}.")
        if any(len(tried) == 1 for tried in rates.values()):
            lines.append(
                "An optimizer at a single learning rate is confounded with that rate: a difference between "
                "optimizers may be one between learning rates. Several for each, such as --learning-rates "
                "sgd=0.03,0.1 adam=0.0002,0.001, tell the two apart."
            )
        if len({len(tried) for tried in rates.values()}) > 1:
            lines.append(
                "The optimizers were given different numbers of learning rates: more tries favour one."
            )
    elif rates:
        ((name, tried),) = rates.items()
        lines.append(f"One optimizer, {optimizer_name(name)}, at {listed(short(rate) for rate in tried)}.")
    return lines


def each_at_its_best(record: SweepRecord, comparison: Comparison) -> list[AtItsBest]:
    """The optimizers at their own best learning rates, the best first; empty where rates are no axis."""
    rates = _rates(record.runs)
    if FD not in comparison.scores or len(rates) < 2 or all(len(tried) == 1 for tried in rates.values()):
        return []
    best: dict[str, tuple[float, dict[int, float]]] = {}
    for optimizer, tried in rates.items():
        by_rate = {rate: _log_fids(record.runs, optimizer, rate) for rate in tried}
        measured = {rate: logs for rate, logs in by_rate.items() if logs}
        if measured:
            rate = min(measured, key=lambda rate: fmean(measured[rate].values()))
            best[optimizer] = (rate, measured[rate])
    ranked = sorted(best, key=lambda optimizer: fmean(best[optimizer][1].values()))
    logs = [best[optimizer][1] for optimizer in ranked]
    tests = [
        paired_t([mine[seed] - logs[0][seed] for seed in sorted(mine.keys() & logs[0].keys())])
        for mine in logs[1:]
    ]
    corrected = holm([test.p for test in tests])
    words = ["", *(_against(test, p) for test, p in zip(tests, corrected, strict=True))]
    return [
        AtItsBest(optimizer, best[optimizer][0], len(rates[optimizer]), _back(mine), word)
        for optimizer, mine, word in zip(ranked, logs, words, strict=True)
    ]


BEST_OF_CAUTION = (
    "The rate was chosen by the same seeds that it is compared with, so each figure is flattered, and the "
    "optimizer that had more rates to choose from is flattered more. New seeds at the chosen rates would "
    "settle it."
)


def _rates(runs: Sequence[RunRecord]) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {}
    for run in runs:
        tried = rates.setdefault(run.optimizer, [])
        if run.learning_rate not in tried:
            tried.append(run.learning_rate)
    return {optimizer: sorted(tried) for optimizer, tried in rates.items()}


def _log_fids(runs: Sequence[RunRecord], optimizer: str, rate: float) -> dict[int, float]:
    """By seed, the mean over z_dims of log fd; seeds that lack a z_dim which others have are left out."""
    by_seed: dict[int, dict[int, float]] = {}
    for run in runs:
        fd = run.score(FD)
        if run.optimizer == optimizer and run.learning_rate == rate and fd is not None:
            by_seed.setdefault(run.seed, {})[run.z_dim] = math.log(fd)
    most = max(map(len, by_seed.values()), default=0)
    return {seed: fmean(logs.values()) for seed, logs in by_seed.items() if len(logs) == most}


def _back(logs: dict[int, float]) -> Estimate:
    return t_interval(list(logs.values())).through(math.exp)


def _against(test: PairedTest, corrected: float) -> str:
    pairs = test.estimate.n
    if pairs < 2:
        return f"{counted(pairs, 'seed')} in common: cannot be tested"
    ratio = test.estimate.through(math.exp)
    return f"{number(ratio.mean)} times ({interval(ratio)}), {p_clause(corrected)}, {counted(pairs, 'pair')}"
