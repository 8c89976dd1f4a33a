"""Records → cells side by side: estimates over seeds, the best cell, and what is told apart from it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gan_core.evaluation.scores import SCORES
from sweeps.comparison.records import FD, RunRecord, SweepRecord
from sweeps.comparison.statistics import (
    LEVEL,
    Estimate,
    geometric_interval,
    holm,
    paired_t,
    seeds_needed,
    t_interval,
)

LOSSES = ("loss/discriminator", "loss/generator")
RANGES = {
    "quality/is": (1, 10),
    "quality/density": (0, math.inf),
    "quality/class_kl": (0, math.inf),
    **{f"quality/{share}": (0, 1) for share in ("precision", "recall", "coverage", "confidence")},
}
SOUND = ("ok", "d-dominant")  # the images may be good; of every other health they are not


@dataclass(frozen=True)
class Cell:
    """A cell and what its finished runs show."""

    name: str
    optimizer: str
    learning_rate: float
    z_dim: int
    runs: Sequence[RunRecord]  # every one that has begun, by seed
    planned: int
    losses: dict[str, Estimate]  # of the last epoch
    scores: dict[
        str, Estimate
    ]  # of the scores with real_baseline and untrained_baseline; fd: the geometric mean
    health: dict[str, int]  # of the finished runs; "" where none was recorded
    seconds: float  # of training a run, mean
    images_per_second: float

    @property
    def finished(self) -> list[RunRecord]:
        """The runs that count."""
        return [run for run in self.runs if run.status == "FINISHED"]

    @property
    def sound(self) -> bool:
        """Whether a run of it is known to be sound, or none is known not to be."""
        return any(health in (*SOUND, "") for health in self.health)

    def fds(self) -> dict[int, float]:
        """The Fréchet distance by seed."""
        return {run.seed: fd for run in self.runs if (fd := run.score(FD)) is not None}


@dataclass(frozen=True)
class Contrast:
    """A cell's Fréchet distance against the best cell's, by the seeds that both have."""

    cell: Cell
    ratio: Estimate  # to the best's; n: pairs
    p: float
    p_corrected: float  # Holm's, over all comparisons with the best; nan with fewer than two pairs
    seeds_needed: int | None  # to tell the two apart; None: more than is worth it, or not known

    @property
    def tested(self) -> bool:
        """Whether there were two pairs or more to test it by."""
        return self.ratio.n > 1

    @property
    def told_apart(self) -> bool:
        """Whether the seeds can tell it from the best."""
        return self.p_corrected < LEVEL  # nan is not


@dataclass(frozen=True)
class Comparison:
    """The cells of a sweep by their Fréchet distance: the best first, those without one last."""

    cells: list[Cell]
    contrasts: list[Contrast]  # all other cells with a distance, in the same order; empty if no best
    scores: list[
        str
    ]  # the quality scores that can be shown: measured by one classifier, with real_baseline and untrained_baseline

    @property
    def best(self) -> Cell | None:
        """The cell of least distance; None if none was measured."""
        return self.cells[0] if self.cells and FD in self.cells[0].scores else None

    @property
    def tied(self) -> list[Contrast]:
        """Those that the seeds cannot tell from the best, though there are enough to try."""
        return [contrast for contrast in self.contrasts if contrast.tested and not contrast.told_apart]

    @property
    def untested(self) -> list[Contrast]:
        """Those that share fewer than two seeds with the best."""
        return [contrast for contrast in self.contrasts if not contrast.tested]


def compare(record: SweepRecord) -> Comparison:
    """Every cell of the sweep, and each one's Fréchet distance against the best's."""
    shown = shown_scores(record)
    names = list(dict.fromkeys(run.cell for run in record.runs))
    cells = [_cell(record, name, shown) for name in names]
    cells.sort(key=lambda cell: cell.scores[FD].mean if FD in cell.scores else math.inf)
    measured = [cell for cell in cells if FD in cell.scores]
    return Comparison(cells, _contrasts(measured), shown)


def shown_scores(record: SweepRecord) -> list[str]:
    """The scores that a reader can place: one classifier measured them, and their real_baseline and untrained_baseline are known."""
    if len(record.classifiers) != 1:
        return []
    classifier = record.classifiers[0]
    known = [
        name for name in SCORES if name in classifier.real_baseline and name in classifier.untrained_baseline
    ]
    return [name for name in known if any(run.score(name) is not None for run in record.runs)]


def _cell(record: SweepRecord, name: str, shown: Sequence[str]) -> Cell:
    runs = sorted((run for run in record.runs if run.cell == name), key=lambda run: run.seed)
    finished = [run for run in runs if run.status == "FINISHED"]
    scores = {}
    for score in shown:
        values = [value for run in finished if (value := run.score(score)) is not None]
        if values:
            scores[score] = geometric_interval(values) if score == FD else _within(score, t_interval(values))
    losses = {loss: t_interval([run.last(loss) for run in finished]) for loss in LOSSES}
    return Cell(
        name=name,
        optimizer=runs[0].optimizer,
        learning_rate=runs[0].learning_rate,
        z_dim=runs[0].z_dim,
        runs=runs,
        planned=len(runs) + sum(run.cell == name for run in record.absent),
        losses=losses,
        scores=scores,
        health=dict(Counter(run.health for run in finished).most_common()),
        seconds=t_interval([run.seconds for run in finished]).mean,
        images_per_second=t_interval([run.images_per_second for run in finished]).mean,
    )


def _within(score: str, estimate: Estimate) -> Estimate:
    """The estimate with its interval cut off where the score can have no value."""
    least, most = RANGES.get(score, (-math.inf, math.inf))
    return (
        estimate._replace(low=max(least, estimate.low), high=min(most, estimate.high))
        if estimate.n > 1
        else estimate
    )


def _contrasts(measured: Sequence[Cell]) -> list[Contrast]:
    if not measured:
        return []
    best, *others = measured
    tests = [paired_t(log_ratios(cell.fds(), best.fds())) for cell in others]
    corrected = holm([test.p for test in tests])
    tested = sum(test.estimate.n > 1 for test in tests)
    return [
        Contrast(
            cell,
            test.estimate.through(math.exp),
            test.p,
            p,
            seeds_needed(test.effect, LEVEL / max(1, tested)),
        )
        for cell, test, p in zip(others, tests, corrected, strict=True)
    ]


def log_ratios(values: dict[int, float], others: dict[int, float]) -> list[float]:
    """log(value / other) for each seed that both have."""
    return [math.log(values[seed] / others[seed]) for seed in sorted(values.keys() & others.keys())]
