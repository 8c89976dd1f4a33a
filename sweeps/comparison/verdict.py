"""Which setting to use, and how sure one can be: a few sentences made from the numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sweeps.comparison.cells import Cell, Comparison, Contrast
from sweeps.comparison.records import FD, RunRecord, SweepRecord
from sweeps.comparison.statistics import MOST_SEEDS
from sweeps.comparison.words import counted, interval, number, p_clause, setting, some, with_interval

SEEDS_TO_BEGIN_WITH = 5

Surety = Literal["told apart", "a tie", "no verdict"]


@dataclass(frozen=True)
class Verdict:
    """What one look at the page must give."""

    surety: Surety
    headline: str
    reasons: list[str]  # why, with the numbers
    cautions: list[str]  # what the reader must not overlook


class Judgement(NamedTuple):
    """The verdict but for its cautions."""

    surety: Surety
    headline: str
    reasons: list[str]


def give_verdict(record: SweepRecord, comparison: Comparison) -> Verdict:
    """The verdict on a sweep; it says so where there can be none."""
    return Verdict(*_judge(record, comparison), [*_health(comparison), *_missing(record, comparison)])


def _judge(record: SweepRecord, comparison: Comparison) -> Judgement:
    best = comparison.best
    if len(record.classifiers) > 1 or best is None:
        return _unscored_sweep(record, comparison)
    if not any(cell.sound for cell in comparison.cells):
        return Judgement(
            "no verdict",
            "Use none of these: no run drew usable digits.",
            [f"Least bad by Fréchet distance: {_described(record, best)}."],
        )
    if not comparison.contrasts:
        return Judgement(
            "no verdict",
            "No verdict: there is one cell, and nothing to compare it with.",
            [f"It is {_described(record, best)}."],
        )
    if len(comparison.untested) == len(comparison.contrasts):
        return _one_seed(record, comparison, best)
    return _tested(record, comparison, best)


def _unscored_sweep(record: SweepRecord, comparison: Comparison) -> Judgement:
    if not any(cell.finished for cell in comparison.cells):
        return Judgement("no verdict", "No verdict: no run has finished.", [])
    if len(record.classifiers) > 1:
        return Judgement(
            "no verdict",
            "No verdict: the scores come from different classifiers.",
            [
                f"{counted(len(record.classifiers), 'classifier')} scored these runs, or one classifier on different "
                "numbers of images. Such scores cannot be compared, so none is shown."
            ],
        )
    return Judgement(
        "no verdict",
        "No verdict: the quality of the images was not measured.",
        [
            "Without a score of the images, with its real_baseline and untrained_baseline, nothing here says which setting is "
            "better: a low loss is no good image. The losses and the pictures are below."
        ],
    )


def _one_seed(record: SweepRecord, comparison: Comparison, best: Cell) -> Judgement:
    following = comparison.contrasts[0].cell
    seeds = " ".join(map(str, range(max(SEEDS_TO_BEGIN_WITH, len(record.seeds) + 1))))
    return Judgement(
        "no verdict",
        f"No verdict: one seed cannot tell a better setting from a luckier one. It looks like {best.name}.",
        [
            f"At this seed {_described(record, best)}, is ahead of {following.name} "
            f"({number(following.scores[FD].mean)}). The order of cells that lie near each other may well "
            f"be "
            f"chance.",
            f"For a verdict give the grid more seeds, such as --seeds {seeds}.",
        ],
    )


def _tested(record: SweepRecord, comparison: Comparison, best: Cell) -> Judgement:
    tied, contrasts = comparison.tied, comparison.contrasts
    seeds = counted(best.scores[FD].n, "seed")
    reasons = [f"Best by Fréchet distance: {_described(record, best)}.", _nearest(contrasts)]
    if tied:
        names = [contrast.cell.name for contrast in tied]
        headline = (
            f"{best.name} leads, but with {seeds} it is not distinguishable from {some(names, 3)}: "
            f"use {'either' if len(tied) == 1 else 'any of these'}."
        )
        reasons.append(_needed(tied, len(contrasts) - len(comparison.untested)))
        if apart := [contrast.cell.name for contrast in contrasts if contrast.told_apart]:
            reasons.append(f"The seeds do tell it from {some(apart)}.")
    else:
        every = "every cell that could be tested" if comparison.untested else "every other cell"
        headline = f"Use {best.name}: the seeds tell it from {every}."
    if comparison.untested:
        names = [contrast.cell.name for contrast in comparison.untested]
        reasons.append(f"Fewer than two seeds in common with it, so not tested: {some(names)}.")
    if len(contrasts) > 1:
        reasons.append(
            f"To pick the best of {len(contrasts) + 1} cells by the very seeds that it is then tested on is "
            "optimistic: expect it to do a little worse, and its lead to be a little smaller, on new seeds."
        )
    return Judgement("a tie" if tied else "told apart", headline, reasons)


def _described(record: SweepRecord, cell: Cell) -> str:
    classifier = record.classifiers[0]
    fd = cell.scores[FD]
    mean = f", geometric mean of {counted(fd.n, 'seed')}" if fd.n > 1 else ""
    return (
        f"{cell.name} ({setting(cell.optimizer, cell.learning_rate, cell.z_dim)}) with {with_interval(fd)}"
        f"{mean}, where real images have {number(classifier.real_baseline[FD])} and an untrained G "
        f"{number(classifier.untrained_baseline[FD])}"
    )


def _nearest(contrasts: Sequence[Contrast]) -> str:
    first = contrasts[0]
    following = f"The next, {first.cell.name}, has {number(first.cell.scores[FD].mean)}"
    if not first.tested:
        return f"{following}; it shares fewer than two seeds with the best and cannot be tested against it."
    tests = sum(contrast.tested for contrast in contrasts)
    holms = f", {p_clause(first.p_corrected)}" + (
        f" after Holm's correction for {tests} comparisons" if tests > 1 else ""
    )
    told = "the seeds tell the two apart" if first.told_apart else "the seeds cannot tell the two apart"
    return (
        f"{following}: {number(first.ratio.mean)} times as much, paired by seed "
        f"(95 % interval {interval(first.ratio)}{holms}); {told}."
    )


def _needed(tied: Sequence[Contrast], comparisons: int) -> str:
    """How many seeds would tell the tied ones from the best."""
    parts = []
    for contrast in tied[:4]:
        # To find by luck what the power asks for does not make the seeds that were there too many.
        needed = contrast.seeds_needed and max(contrast.seeds_needed, contrast.ratio.n + 1)
        parts.append(
            f"{contrast.cell.name} about {needed}"
            if needed
            else f"{contrast.cell.name} more than {MOST_SEEDS:,}: take the two for equal"
        )
    share = " shared among the comparisons" if comparisons > 1 else ""
    return (
        f"Seeds that would be needed to tell it apart, if the differences seen are the true ones "
        f"(paired t-test, 80 % power at 5 %{share}): {'; '.join(parts)}."
    )


def _health(comparison: Comparison) -> list[str]:
    """The cells whose runs came to nothing, by what became of them."""
    broken: dict[str, list[str]] = {}
    for cell in comparison.cells:
        finished = len(cell.finished)
        for health, count in cell.health.items():
            if health not in ("ok", ""):
                share = "" if count == finished else f" ({count} of {finished} runs)"
                broken.setdefault(health, []).append(cell.name + share)
    lines = [f"{health.capitalize()}: {some(names, 8)}." for health, names in broken.items()]
    best = comparison.best
    if best and best.health and not set(best.health) <= {"ok", ""}:
        lines.insert(0, f"The best cell by Fréchet distance, {best.name}, has runs that are not sound.")
    return lines


def _missing(record: SweepRecord, comparison: Comparison) -> list[str]:
    """The runs that are not counted, and why."""
    left_out: dict[str, list[str]] = {}
    for name, status in [(run.name, run.status) for run in record.runs] + [
        (run.name, run.status) for run in record.absent
    ]:
        if status != "FINISHED":
            left_out.setdefault(_state(status), []).append(name)
    lines = [
        f"{state}, not counted: {some(names, 8)} ({counted(len(names), 'run')})."
        for state, names in left_out.items()
    ]
    failed = Counter(run.cell for run in record.runs if run.status == "FAILED")
    lines += [
        f"The scores of {cell.name} are of the runs that did not fail, which flatters it."
        for cell in comparison.cells
        if failed[cell.name] and cell.finished
    ]
    if FD not in comparison.scores:
        return lines
    unscored = [run.name for run in record.runs if run.status == "FINISHED" and _unscored(run)]
    return [*lines, *([f"Finished without a Fréchet distance: {some(unscored, 8)}."] if unscored else [])]


def _unscored(run: RunRecord) -> bool:
    return run.score(FD) is None


def _state(status: str) -> str:
    return {"FAILED": "Failed", "KILLED": "Interrupted", "RUNNING": "Still running"}.get(
        status, "Not begun yet"
    )
