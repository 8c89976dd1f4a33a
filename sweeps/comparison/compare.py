"""A sweep's record → its settings side by side: estimates over seeds, the best one, what differs from it."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import geometric_mean

import numpy as np

from gan_core import metric_names as names
from sweeps.comparison.records import RunRecord, SweepRecord
from sweeps.comparison.statistics import (
    LEVEL,
    Estimate,
    Matrix,
    difference,
    geometric_interval,
    holm,
    interval,
    seeds_needed,
    test,
)

SCORES = (
    names.FD, names.KD, names.INCEPTION_SCORE, names.PRECISION, names.RECALL, names.DENSITY, names.COVERAGE,
    names.CLASS_KL, names.CONFIDENCE,
)  # fmt: skip
TRAINING = (names.LOSS_D, names.LOSS_G, names.SCORE_REAL, names.SCORE_FAKE)
POSSIBLE = {
    names.INCEPTION_SCORE: (1, 10),
    names.DENSITY: (0, math.inf),
    names.CLASS_KL: (0, math.inf),
    **dict.fromkeys((names.PRECISION, names.RECALL, names.COVERAGE, names.CONFIDENCE), (0, 1)),
}
USABLE = ("ok", "d-dominant", "")  # healths with which the images may be good; "": not checked


@dataclass(frozen=True)
class Setting:
    """One combination of values of the axes, and what its finished runs show."""

    name: str
    values: Mapping[str, str]  # axis → value
    runs: Sequence[RunRecord]  # that have begun, one per seed, in the order of the seeds
    planned: int
    training: Mapping[str, Estimate]  # TRAINING after the last epoch
    scores: Mapping[str, Estimate]  # those that can be shown; of fd the geometric mean
    health: Mapping[str, int]  # of the finished runs; "": not checked
    seconds: float  # of training, mean per run
    images_per_second: float

    @property
    def finished(self) -> list[RunRecord]:
        """The runs that count."""
        return [run for run in self.runs if run.finished]

    @property
    def usable(self) -> bool:
        """Whether some finished run may have made good images."""
        return any(health in USABLE for health in self.health)

    @property
    def unsound(self) -> bool:
        """Whether something is known to be wrong with a finished run."""
        return any(health not in ("ok", "") for health in self.health)

    def fd_by_epoch(self) -> dict[int, float]:
        """The geometric mean of the Fréchet distance over finished runs, at each epoch that has one."""
        points: dict[int, list[float]] = {}
        for run in self.finished:
            for epoch, value in run.history.get(names.FD, {}).items():
                if math.isfinite(value) and value > 0:
                    points.setdefault(epoch, []).append(value)
        return {epoch: geometric_mean(points[epoch]) for epoch in sorted(points)}

    @property
    def fd(self) -> float:
        """The geometric mean of the Fréchet distance over finished runs; infinite if there is none."""
        return self.scores[names.FD].mean if names.FD in self.scores else math.inf


@dataclass(frozen=True)
class Contrast:
    """A setting's Fréchet distance against another's, over the seeds that both have."""

    setting: Setting
    ratio: Estimate  # n: pairs
    p: float
    p_corrected: float  # Holm's; nan with fewer than two pairs
    seeds_needed: int | None  # to tell the two apart; None: more than is worth it, or not known

    @property
    def tested(self) -> bool:
        """Whether there were two pairs or more."""
        return self.ratio.n > 1

    @property
    def told_apart(self) -> bool:
        """Whether the seeds tell the two apart."""
        return self.p_corrected < LEVEL  # nan is not


@dataclass(frozen=True)
class ValueAtBest:
    """A value of an axis with the setting that has the least Fréchet distance among those with the value."""

    value: str
    setting: Setting
    tried: int  # settings to choose from
    contrast: Contrast | None  # with the first of the values; None for the first itself


@dataclass(frozen=True)
class Comparison:
    """The settings of a sweep by their Fréchet distance: the best first, those without one last."""

    record: SweepRecord
    axes: Mapping[str, Sequence[str]]  # axis → its values in order
    settings: Sequence[Setting]
    contrasts: Sequence[Contrast]  # of every other setting with the best, in the same order
    scores: Sequence[str]  # that can be shown: of one classifier, with both baselines
    at_best: Mapping[str, Sequence[ValueAtBest]]  # by axis; empty where there is one axis only

    @property
    def best(self) -> Setting | None:
        """The setting of least distance; None if none was measured."""
        return self.settings[0] if self.settings and self.settings[0].fd < math.inf else None

    @property
    def several(self) -> bool:
        """Whether a setting has more than one finished run, so that there are means and intervals."""
        return any(len(setting.finished) > 1 for setting in self.settings)

    @property
    def tied(self) -> list[Contrast]:
        """Those that the seeds cannot tell from the best, though there were two or more."""
        return [each for each in self.contrasts if each.tested and not each.told_apart]

    @property
    def apart(self) -> list[Contrast]:
        """Those that the seeds tell from the best."""
        return [each for each in self.contrasts if each.told_apart]

    @property
    def untested(self) -> list[Contrast]:
        """Those with fewer than two seeds in common with the best."""
        return [each for each in self.contrasts if not each.tested]

    @cached_property
    def seed(self) -> int | None:
        """The seed whose pictures are shown: the least of those that most settings have finished."""
        done = Counter(run.seed for setting in self.settings for run in setting.finished)
        return min(self.record.seeds, key=lambda seed: (-done[seed], seed), default=None)

    def order(self, settings: Iterable[Setting]) -> list[Setting]:
        """These settings in the order of the axes' values."""
        return sorted(settings, key=lambda each: _position(each.values, self.axes))

    def shown(self, most: int) -> list[Setting]:
        """The best `most` settings that have begun, in the order of the axes' values."""
        return self.order(self.settings[:most])


def compare(record: SweepRecord) -> Comparison:
    """Every setting of the sweep, and each one's Fréchet distance against the best's."""
    axes = {axis: _values(record, axis) for axis in record.axes}
    shown = _shown_scores(record)
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in record.runs:
        # By the values as well: no two settings share a dictionary, whatever they are called.
        groups.setdefault((run.setting, *(run.fields.get(axis, "") for axis in axes)), []).append(run)
    settings = [_setting(record, runs, shown) for runs in groups.values()]
    settings.sort(key=lambda each: (each.fd, _position(each.values, axes)))
    measured = [each for each in settings if each.fd < math.inf]
    contrasts = _contrasts(measured[0], measured[1:]) if measured else []
    varied = [axis for axis, values in axes.items() if len(values) > 1]
    at_best = {axis: _at_best(axis, measured) for axis in varied} if len(varied) > 1 and measured else {}
    return Comparison(record, axes, settings, contrasts, shown, at_best)


def score_matrix(settings: Sequence[Setting], metric: str = names.FD) -> Matrix:
    """The scores of the finished runs, seeds × settings; nan where there is none."""
    seeds = sorted({run.seed for setting in settings for run in setting.runs})
    scores = np.full((len(seeds), len(settings)), math.nan)
    for column, setting in enumerate(settings):
        for run in setting.runs:
            scores[seeds.index(run.seed), column] = math.nan if (value := run.score(metric)) is None else value
    return scores


def _values(record: SweepRecord, axis: str) -> list[str]:
    """The axis's values that runs have, numbers by size, words in the order in which they were asked for."""
    asked = record.params.get(axis, "").split()
    there = dict.fromkeys(run.fields.get(axis, "") for run in record.runs)
    try:
        return sorted(there, key=float)
    except ValueError:
        return sorted(there, key=lambda value: asked.index(value) if value in asked else len(asked))


def _position(values: Mapping[str, str], axes: Mapping[str, Sequence[str]]) -> list[int]:
    return [axes[axis].index(value) for axis, value in values.items()]


def _shown_scores(record: SweepRecord) -> list[str]:
    """The scores that a reader can judge: measured by one classifier, with both baselines known."""
    if len(record.classifiers) != 1:
        return []
    both = record.classifiers[0].real_baseline.keys() & record.classifiers[0].untrained_baseline.keys()
    return [name for name in SCORES if name in both and any(run.score(name) is not None for run in record.runs)]


def _setting(record: SweepRecord, runs: Sequence[RunRecord], shown: Sequence[str]) -> Setting:
    # A seed may have two runs while a longer one is to replace a shorter one: the finished one counts.
    by_seed: dict[int, RunRecord] = {}
    for run in sorted(runs, key=lambda each: (each.finished, each.epochs)):
        by_seed[run.seed] = run
    kept = [by_seed[seed] for seed in sorted(by_seed)]
    finished = [run for run in kept if run.finished]
    name = runs[0].setting
    return Setting(
        name=name,
        values={axis: runs[0].fields.get(axis, "") for axis in record.axes},
        runs=kept,
        planned=len(kept) + sum(run.setting == name for run in record.absent),
        training={metric: interval([run.last(metric) for run in finished]) for metric in TRAINING},
        scores={
            score: _estimate(score, values)
            for score in shown
            if (values := [value for run in finished if (value := run.score(score)) is not None])
        },
        health=dict(Counter(run.health for run in finished).most_common()),
        seconds=interval([run.seconds for run in finished]).mean,
        images_per_second=interval([run.images_per_second for run in finished]).mean,
    )


def _estimate(score: str, values: Sequence[float]) -> Estimate:
    if score == names.FD:
        return geometric_interval(values)
    return interval(values).within(*POSSIBLE.get(score, (-math.inf, math.inf)))


def _contrasts(first: Setting, others: Sequence[Setting]) -> list[Contrast]:
    """Each other setting against the first: paired t-tests of log fd, corrected for their number."""
    tests = [test(np.log(score_matrix([other, first])), difference) for other in others]
    level = LEVEL / max(1, sum(each.estimate.n > 1 for each in tests))
    corrected = holm([each.p for each in tests])
    return [
        Contrast(other, found.estimate.through(math.exp), found.p, p, seeds_needed(found.effect, level))
        for other, found, p in zip(others, tests, corrected, strict=True)
    ]


def _at_best(axis: str, measured: Sequence[Setting]) -> list[ValueAtBest]:
    """The axis's values, each at its best, the best first. `measured`: ranked."""
    by_value: dict[str, list[Setting]] = {}
    for setting in measured:
        by_value.setdefault(setting.values[axis], []).append(setting)
    first, *others = [settings[0] for settings in by_value.values()]
    contrasts = [None, *_contrasts(first, others)]
    return [
        ValueAtBest(value, settings[0], len(settings), contrast)
        for (value, settings), contrast in zip(by_value.items(), contrasts, strict=True)
    ]
