"""The practical that this project grew out of: its two experiments and its claims, on the runs of a sweep.

Each part of a claim says in which range a number lies. It holds if the number's whole 95 % interval over seeds
lies in the range, does not hold if it lies outside, and is not decided otherwise.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from gan_core import metric_names as names
from gan_core.optimizers import OPTIMIZERS
from gan_core.plots import D_COLOUR, G_COLOUR
from sweeps.comparison.charts import COLOURS, LOSSES, Line, Picture, chart
from sweeps.comparison.compare import Comparison, Setting
from sweeps.comparison.page import Artifacts, Section
from sweeps.comparison.records import RunRecord
from sweeps.inference import NOTHING, Estimate, interval, spearman

AXES = {"optimizer", "z_dim", "learning_rate"}
AS_IT_WAS = {"dataset": "mnist", "epochs": "100"}
CLAIMED = ("sgd", "adam")
LABEL = "{optimizer} {learning_rate}, z_dim {z_dim}"
CLEAR_Z, BLURRED_Z, USUAL_Z = 20, 200, 100
SENSIBLE_Z = (50, 100)
ARRAYS = {"D": "discriminator", "G": "generator"}
SWING = {"D": names.LOSS_STD_D, "G": names.LOSS_STD_G}
CLARITY = {"fd": names.FD, "precision": names.PRECISION, "confidence": names.CONFIDENCE}  # how clear images are
NEAR = 1 / 3  # "near 6" is 4 to 8: the practical's numbers were read off curves
STRONG = 0.5  # a rank correlation that tells something: a quarter of the ranks' variance
EPOCHS_TO_CORRELATE = 5

Outcome = Literal["holds", "does not hold", "not decided"]
Range = tuple[float, float]
ABOVE_0: Range = (0.0, math.inf)
BEYOND_STRONG: tuple[Range, Range] = ((-math.inf, -STRONG), (STRONG, math.inf))


class Part(NamedTuple):
    """A claim or one statement of it, and what the runs say to it."""

    key: str  # of its sentence
    outcome: Outcome
    about: Mapping[str, Any]  # what the sentence needs
    lacks: str = ""  # the key of why there is no number
    found: Estimate = NOTHING  # the number, as it is written
    unit: Literal["", "times", "rho"] = ""
    parts: Sequence["Part"] = ()  # each of which has to hold


def section(comparison: Comparison, artifacts: Artifacts) -> Section | None:
    """The section of the report; None for a sweep on which the practical's claims cannot be read."""
    if not is_its_grid(comparison):
        return None
    claims = Claims(comparison)
    sgd = {z: setting.finished for z, setting in claims.settings["sgd"].items()}
    pictures: dict[str, Picture] = {}
    for network, metric in LOSSES.items() if claims.duel else ():
        lines = [
            Line(LABEL.format(**runs[0].fields), runs, metric, colour)
            for runs, colour in zip(claims.duel.values(), COLOURS, strict=False)
        ]
        pictures[f"practical_losses_{network}"] = chart(lines, f"Loss of {network}")
    for z, runs in sgd.items():
        both = [Line("G", runs, names.LOSS_G, G_COLOUR), Line("D", runs, names.LOSS_D, D_COLOUR)]
        pictures[f"practical_z{z}"] = chart(both)
    sheets = artifacts.last_sheets([run for runs in sgd.values() for run in runs if run.seed == comparison.seed])
    duelling = [run for runs in claims.duel.values() for run in runs]
    peaks = {run.run_id: artifacts.read(run, names.LOSSES_ARRAYS, _peaks) or {} for run in duelling}
    fields = {name: sorted({run.fields.get(name, "") for run in comparison.record.runs}) for name in AS_IT_WAS}
    values = {
        "its": claims,
        "claims": claims.all(peaks),
        "sheets": {int(sheet.run.fields["z_dim"]): sheet for sheet in sheets},
        "differs": {name: found for name, found in fields.items() if found != [AS_IT_WAS[name]]},
        "strong": STRONG,
        "epochs": EPOCHS_TO_CORRELATE,
    }
    return Section("studies.practical/practical.html.j2", values, pictures, sheets)


def is_its_grid(comparison: Comparison) -> bool:
    """Whether a sweep is one of the practical's experiments: SGD against Adam, or z_dims with SGD."""
    optimizers, z_dims = ({run.fields.get(name) for run in comparison.record.runs} for name in ("optimizer", "z_dim"))
    compared = optimizers >= set(CLAIMED) or ("sgd" in optimizers and len(z_dims) > 1)
    return compared and set(comparison.axes) <= AXES


def _peaks(file: Path) -> dict[str, float]:
    """The highest loss of an iteration in the first epoch, by the network."""
    with np.load(file) as arrays:
        return {network: float(arrays[name][0].max()) for network, name in ARRAYS.items()}


def outcome_of(found: Estimate, *within: Range) -> Outcome:
    """What the number's interval says; `within`: the values that it may have, one range or several."""
    if any(low < found.low and found.high < high for low, high in within):
        return "holds"
    return "does not hold" if all(found.high < low or high < found.low for low, high in within) else "not decided"


def decide(
    key: str, values: Iterable[float], within: Range = ABOVE_0, *,
    unit: Literal["", "times"] = "", lacks: str = "", **about: Any,
) -> Part:  # fmt: skip
    """The part decided by one value per seed (unit times: a logarithm). `lacks`: why there may be none."""
    found = interval(list(values))
    shown = found.through(math.exp) if unit == "times" else found
    lacks = "" if found.n else lacks or "no run"
    return Part(key, outcome_of(found, within), about | {"within": within}, lacks, shown, unit)


class Claims:
    """The claims on a comparison whose settings differ in optimizer, learning_rate and z_dim alone."""

    def __init__(self, comparison: Comparison) -> None:
        """Choose the settings that the claims are about: of each optimizer those at its usual learning rate."""
        self._comparison = comparison
        self._scored = names.FD in comparison.scores
        self.rates: dict[str, float | None] = {}
        self.settings: dict[str, dict[int, Setting]] = {}  # optimizer → z_dim, in order → setting with finished runs
        for name in CLAIMED:
            self.rates[name], self.settings[name] = self._at_usual_rate(name)
        sgd, adam = (settings.keys() for settings in self.settings.values())
        # The z_dim at which optimizers are compared: the nearest that both have.
        self.usual_z = min(sorted(sgd & adam or sgd | adam), key=lambda z: abs(z - USUAL_Z), default=USUAL_Z)
        self.duel = {name: its[self.usual_z].finished for name, its in self.settings.items() if self.usual_z in its}

    def _at_usual_rate(self, optimizer: str) -> tuple[float | None, dict[int, Setting]]:
        """Its default learning rate if the sweep has it, else that of its best setting by fd; the settings there."""
        found: dict[float | None, dict[int, Setting]] = {}
        for setting in self._comparison.settings:  # the best first
            fields = setting.runs[0].fields
            if fields["optimizer"] == optimizer:
                found.setdefault(float(fields["learning_rate"]), {})[int(fields["z_dim"])] = setting
        default = OPTIMIZERS[optimizer].learning_rate
        rate = default if default in found else next(iter(found), None)
        return rate, {z: setting for z, setting in sorted(found.get(rate, {}).items()) if setting.finished}

    def all(self, peaks: Mapping[str, Mapping[str, float]]) -> list[Part]:
        """Every claim. peaks: the highest loss in the first epoch, by run id at the usual z_dim, and by network."""
        return [
            _every("sgd wins", [self._sgd_wins()]),
            _every("loss curves", self._loss_curves(peaks)),
            _every("clearest", self._clearest()),
            _every("flat loss", self._flat_loss()),
            _every("sensible", [self._sensible_z()]),
            _every("loss tells", [part for network in LOSSES for part in self._loss_tells(network)]),
        ]

    def _lacks(self, *optimizers: str, fd: bool = False) -> str:
        """Why there is nothing to decide by; empty if all is there."""
        absent = [name for name in optimizers if not self.settings[name]]
        return "no " + " ".join(absent) if absent else "no fd" if fd and not self._scored else ""

    def _sgd_wins(self) -> Part:
        sgd, adam = self.settings["sgd"], self.settings["adam"]
        common = sgd.keys() & adam.keys() if self._scored else ()
        # z_dims of one seed are not independent: their mean is one value.
        ratios = pd.DataFrame({z: np.log(adam[z].by_seed(names.FD) / sgd[z].by_seed(names.FD)) for z in common})
        lacks = self._lacks("sgd", "adam", fd=True) or "no pair"
        return decide("adam / sgd", ratios.mean(axis=1), unit="times", lacks=lacks)

    def _loss_curves(self, peaks: Mapping[str, Mapping[str, float]]) -> list[Part]:
        """SGD's curves and Adam's at one z_dim."""
        runs = {name: self.duel.get(name, []) for name in CLAIMED}
        sgd, adam = runs.values()

        def near(key: str, optimizer: str, network: str, values: Iterable[float], about: float) -> Part:
            within = (about * (1 - NEAR), about * (1 + NEAR))
            lacks = self._lacks(optimizer) or "no iterations"
            return decide(key, values, within, lacks=lacks, optimizer=optimizer, network=network, near=about)

        def peak(optimizer: str, network: str, about: float) -> Part:
            values = [peaks.get(run.run_id, {}).get(network, math.nan) for run in runs[optimizer]]
            return near("peak", optimizer, network, values, about)

        def swings(network: str) -> Part:
            ratios = _tenths(adam, SWING[network]) / _tenths(sgd, SWING[network])
            lacks = self._lacks("sgd", "adam") or "no pair"
            return decide("swings", np.log(ratios[ratios > 0]), unit="times", lacks=lacks, network=network)

        first = pd.Series({run.seed: next(iter(run.course(LOSSES["G"])), math.nan) for run in adam}, dtype=float)
        return [
            peak("sgd", "G", 6),
            peak("sgd", "D", 4.5),
            decide("ends below", _tenths(sgd, LOSSES["G"]), (-math.inf, 3), lacks=self._lacks("sgd")),
            near("ends near", "sgd", "D", _tenths(sgd, LOSSES["D"]), 1.5),
            peak("adam", "G", 1.8),
            decide("rises", _tenths(adam, LOSSES["G"]) - first, lacks=self._lacks("adam")),
            swings("G"),
            swings("D"),
        ]

    def _clearest(self) -> list[Part]:
        """z_dim 20 better and 200 worse than every other z_dim, by the scores of CLARITY."""
        settings = self.settings["sgd"]
        parts = []
        for which, z in (("clearest", CLEAR_Z), ("blurriest", BLURRED_Z)):
            for name, score in CLARITY.items():
                lacks = self._lacks("sgd") or ("no z" if z not in settings else "one z" if len(settings) < 2 else "")
                lacks = lacks or ("" if score in self._comparison.scores else "no score")
                compared = []
                for other in [] if lacks else sorted(settings.keys() - {z}):
                    better, worse = (z, other) if which == "clearest" else (other, z)
                    compared.append(_lead(settings[better], settings[worse], score, z=other))
                parts.append(_every("extreme", compared, lacks, which=which, z=z, score=name))
        return parts

    def _flat_loss(self) -> list[Part]:
        """G's loss at z_dim 20."""
        settings = self.settings["sgd"]
        runs = settings[CLEAR_Z].finished if CLEAR_Z in settings else []
        late = _tenths(runs, LOSSES["G"])
        changes = late / _tenths(runs, LOSSES["G"], first=True)
        lacks = self._lacks("sgd") or "no z"
        within = (math.log(0.9), math.inf)
        return [
            decide("ends at", late, (3, 4), lacks=lacks),
            decide("improves not", np.log(changes[changes > 0]), within, unit="times", lacks=lacks),
        ]

    def _sensible_z(self) -> Part:
        """The z_dims within SENSIBLE_Z against those outside, by fd."""
        logs = {z: np.log(setting.by_seed(names.FD)) for z, setting in self.settings["sgd"].items()}
        inside = [z for z in logs if SENSIBLE_Z[0] <= z <= SENSIBLE_Z[1]]
        around = inside and min(logs) < SENSIBLE_Z[0] and max(logs) > SENSIBLE_Z[1]
        lacks = self._lacks("sgd", fd=True) or ("" if around else "no z around")
        middle = pd.DataFrame({z: logs[z] for z in inside}).mean(axis=1, skipna=False)
        outside = [] if lacks else [z for z in logs if z not in inside]
        compared = [decide("z", logs[z] - middle, unit="times", z=z) for z in outside]
        return _every("least inside", compared, lacks, inside=inside)

    def _loss_tells(self, network: str) -> list[Part]:
        """A loss against fd, over all finished runs and over the epochs of each."""
        metric, about, no_fd = LOSSES[network], {"network": network}, self._lacks(fd=True)
        runs = [] if no_fd else [run for setting in self._comparison.settings for run in setting.finished]
        scored = [run for run in runs if run.score(names.FD)]
        over_runs = spearman([run.last(metric) for run in scored], [run.last(names.FD) for run in scored])
        rhos = []
        for run in runs:
            points = pd.DataFrame({each: run.history.get(each, {}) for each in (metric, names.FD)}).dropna()
            if len(points) >= EPOCHS_TO_CORRELATE:
                rhos.append((run.seed, spearman(points[metric], points[names.FD]).mean))
        per_seed = pd.DataFrame(rhos, columns=["seed", "rho"]).groupby("seed")["rho"].mean()
        over_epochs = interval(per_seed).within(-1, 1)
        return [
            _correlated("over runs", over_runs, no_fd or "too few or too equal", about),
            _correlated("over epochs", over_epochs, no_fd or "too few epochs", about),
        ]


def _correlated(key: str, found: Estimate, lacks: str, about: Mapping[str, Any]) -> Part:
    """The part decided by a rank correlation, which should be STRONG, whatever its sign."""
    return Part(key, outcome_of(found, *BEYOND_STRONG), about, lacks if math.isnan(found.mean) else "", found, "rho")


def _tenths(runs: Iterable[RunRecord], metric: str, first: bool = False) -> pd.Series:
    """By seed the mean over the last tenth of the epochs, or the first, one epoch at least; nan if there are none."""
    found = {}
    for run in runs:
        course = run.course(metric)
        count = max(1, len(course) // 10)
        found[run.seed] = np.mean(course[:count] if first else course[-count:]) if course else math.nan
    return pd.Series(found, dtype=float)


def _lead(better: Setting, worse: Setting, score: str, **about: Any) -> Part:
    """How much better one setting is than another, seed by seed."""
    more, less = better.by_seed(score), worse.by_seed(score)
    if score == names.FD:  # less is better
        return decide("z", np.log(less / more), unit="times", **about)
    return decide("z", more - less, **about)


def _every(key: str, parts: Sequence[Part], lacks: str = "", **about: Any) -> Part:
    """Holds if all parts do, does not hold if one does not, and is not decided otherwise."""
    outcomes = {part.outcome for part in parts}
    outcome: Outcome = "does not hold" if "does not hold" in outcomes else "not decided"
    return Part(key, "holds" if outcomes == {"holds"} else outcome, about, lacks, parts=parts)
