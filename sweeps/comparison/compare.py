"""A sweep's record → its settings side by side: estimates over seeds, the best one, what differs from it."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from gan_core import metric_names as names
from gan_core.metric_names import SCORE_RANGES, SCORES
from sweeps.comparison.records import RunRecord, SweepRecord
from sweeps.inference import LEVEL, Estimate, geometric_interval, holm, interval, seeds_needed, t_test
from sweeps.race import Race, Rules, Trained, decide, likely_left, scores_of

TRAINING = (names.LOSS_D, names.LOSS_G, names.SCORE_REAL, names.SCORE_FAKE)


@dataclass(frozen=True)
class Setting:
    """One combination of values of the axes, and what its finished runs show."""

    name: str
    values: Mapping[str, str]  # axis → value
    runs: Sequence[RunRecord]  # that have begun, one per seed, in the order of the seeds
    planned: int
    training: dict[str, Estimate]  # TRAINING after the last epoch
    scores: dict[str, Estimate]  # those that can be shown; of fd the geometric mean
    health: Mapping[str, int]  # of the finished runs; "": not checked
    seconds: float  # of training, mean per run
    images_per_second: float

    @property
    def finished(self) -> list[RunRecord]:
        """The runs that count."""
        return [run for run in self.runs if run.finished]

    def by_seed(self, score: str) -> pd.Series:
        """A score of the finished runs, float64, indexed by seed; nan where it was not measured."""
        return pd.Series({run.seed: run.score(score) for run in self.finished}, dtype=float)

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
    def outcome(self) -> Literal["untested", "apart", "tied"]:
        """Untested with fewer than two pairs; apart if the seeds tell the two apart, tied if they cannot."""
        if self.ratio.n < 2:
            return "untested"
        return "apart" if self.p_corrected < LEVEL else "tied"


@dataclass(frozen=True)
class Comparison:
    """The settings of a sweep by their Fréchet distance: the best first, those without one last."""

    record: SweepRecord
    axes: Mapping[str, Sequence[str]]  # axis → its values in order
    settings: Sequence[Setting]
    contrasts: Sequence[Contrast]  # of every other setting with the best, in the same order
    scores: Sequence[str]  # that can be shown: of one classifier, with both baselines

    @property
    def varied(self) -> list[str]:
        """The axes with more than one value."""
        return [axis for axis, values in self.axes.items() if len(values) > 1]

    @property
    def measured(self) -> list[Setting]:
        """The settings that have a Fréchet distance, the best first."""
        return [setting for setting in self.settings if setting.fd < math.inf]

    @property
    def best(self) -> Setting | None:
        """The setting of least distance; None if none was measured."""
        return next(iter(self.measured), None)

    @cached_property
    def at_best(self) -> dict[str, list[tuple[Setting, int, Contrast | None]]]:
        """Each axis that varies with the values' best settings, the best first; empty where only one axis does.

        With each setting: how many have its value, and its contrast with the first (None for the first itself).
        """
        several = len(self.varied) > 1 and self.measured
        return {axis: _at_best(axis, self.measured) for axis in self.varied} if several else {}

    @cached_property
    def race(self) -> Race | None:
        """The race as far as the record goes; None for a fixed grid."""
        rules = self.record.rules
        return decide(self.record.settings, scores_of_runs(self.record, rules), rules) if rules else None

    @property
    def likely_left(self) -> float:
        """How much a race is likely to need yet, in whole runs."""
        return likely_left(self.race, scores_of_runs(self.record, self.race.rules)) if self.race else 0.0

    @property
    def several(self) -> bool:
        """Whether a setting has more than one finished run, so that there are means and intervals."""
        return any(len(setting.finished) > 1 for setting in self.settings)

    def those(self, outcome: str) -> list[Contrast]:
        """The contrasts with this outcome, the best first."""
        return [each for each in self.contrasts if each.outcome == outcome]

    @property
    def seed(self) -> int | None:
        """The seed whose pictures are shown: the least of those that most settings have finished."""
        done = Counter(run.seed for setting in self.settings for run in setting.finished)
        return min(self.record.seeds, key=lambda seed: (-done[seed], seed), default=None)

    def order(self, settings: Iterable[Setting]) -> list[Setting]:
        """These settings in the order of the axes' values."""
        return sorted(settings, key=lambda each: _position(each.values, self.axes))


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
    contrasts = _contrasts([each for each in settings if each.fd < math.inf])
    return Comparison(record, axes, settings, contrasts, shown)


def scores_of_runs(record: SweepRecord, rules: Rules) -> dict[tuple[str, int], dict[int, float]]:
    """What a race knows of the sweep's runs, by setting and seed."""
    scores: dict[tuple[str, int], dict[int, float]] = {}
    for run in record.runs:
        trained = Trained(run.history.get(names.FD, {}), run.length, run.status, run.health, bool(run.dropped))
        scores.setdefault((run.setting, run.seed), {}).update(scores_of(trained, rules))
    return scores


def over_epochs(runs: Iterable[RunRecord], metric: str) -> pd.DataFrame:
    """The metric's `mean`, `least` and `most` over these runs, indexed by the epoch; of fd the geometric mean."""
    values = pd.DataFrame([run.history.get(metric, {}) for run in runs], dtype=float).T.sort_index()
    values = values.where(np.isfinite(values) & (values > (0 if metric == names.FD else -math.inf))).dropna(how="all")
    mean = np.exp(np.log(values).mean(axis=1)) if metric == names.FD else values.mean(axis=1)
    return pd.DataFrame({"mean": mean, "least": values.min(axis=1), "most": values.max(axis=1)})


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
    by_seed = {run.seed: run for run in sorted(runs, key=lambda each: (each.finished, each.epochs))}
    kept = [by_seed[seed] for seed in sorted(by_seed)]
    finished = [run for run in kept if run.finished]
    name = runs[0].setting
    found = {score: [value for run in finished if (value := run.score(score)) is not None] for score in shown}
    return Setting(
        name=name,
        values={axis: runs[0].fields.get(axis, "") for axis in record.axes},
        runs=kept,
        planned=len(kept) + sum(run.setting == name for run in record.absent),
        training={metric: interval([run.last(metric) for run in finished]) for metric in TRAINING},
        scores={score: _estimate(score, values) for score, values in found.items() if values},
        health=dict(Counter(run.health for run in finished).most_common()),
        seconds=interval([run.seconds for run in finished]).mean,
        images_per_second=interval([run.images_per_second for run in finished]).mean,
    )


def _estimate(score: str, values: Sequence[float]) -> Estimate:
    estimate = geometric_interval(values) if score == names.FD else interval(values)
    return estimate.within(*SCORE_RANGES[score])


def _contrasts(settings: Sequence[Setting]) -> list[Contrast]:
    """Each other setting against the first: paired t-tests of log fd, corrected for their number."""
    others = settings[1:]
    tests = [t_test(np.log(other.by_seed(names.FD) / settings[0].by_seed(names.FD))) for other in others]
    level = LEVEL / max(1, sum(each.estimate.n > 1 for each in tests))
    corrected = holm([each.p for each in tests])
    return [
        Contrast(other, found.estimate.through(math.exp), found.p, p, seeds_needed(found.effect, level))
        for other, found, p in zip(others, tests, corrected, strict=True)
    ]


def _at_best(axis: str, measured: Sequence[Setting]) -> list[tuple[Setting, int, Contrast | None]]:
    by_value: dict[str, list[Setting]] = {}
    for setting in measured:  # the best first
        by_value.setdefault(setting.values[axis], []).append(setting)
    best = [settings[0] for settings in by_value.values()]
    return list(zip(best, map(len, by_value.values()), [None, *_contrasts(best)], strict=True))
