"""The practical's claims, each decided by the 95 % interval over seeds of a number that the claim is about.

A part of a claim names the values that the number may have if the claim is true. It holds if the whole
interval lies among them, does not hold if it lies outside, and is not decided otherwise.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, NamedTuple

from gan_core import metric_names as names
from gan_core.optimizers import OPTIMIZERS
from sweeps.comparison.compare import Comparison
from sweeps.comparison.records import RunRecord
from sweeps.comparison.statistics import Correlation, Estimate, geometric_interval, interval, spearman

CLAIMED = ("sgd", "adam")
CLEAR_Z, BLURRED_Z, USUAL_Z = 20, 200, 100
SENSIBLE_Z = (50, 100)
LOSS = {"D": names.LOSS_D, "G": names.LOSS_G}
SWING = {"D": names.LOSS_STD_D, "G": names.LOSS_STD_G}
NEAR = 1 / 3  # "near 6" is 4 to 8: the practical's numbers were read off curves
STRONG = 0.5  # a rank correlation that tells something: a quarter of the ranks' variance
EPOCHS_TO_CORRELATE = 5
ABOVE_0 = (0.0, math.inf)

Outcome = Literal["holds", "does not hold", "not decided"]
Unit = Literal["", "times", "rho"]


class Peaks(NamedTuple):
    """The highest loss of an iteration in a run's first epoch."""

    D: float
    G: float


class Clarity(NamedTuple):
    """A score of how clear images are."""

    score: str
    better: Callable[[float], float]  # more of this is better
    unit: Unit  # of a difference of it


CLARITY = {
    "fd": Clarity(names.FD, lambda fd: -math.log(fd), "times"),
    "precision": Clarity(names.PRECISION, lambda share: share, ""),
    "confidence": Clarity(names.CONFIDENCE, lambda share: share, ""),
}


@dataclass(frozen=True)
class Part:
    """One statement of a claim, and what the runs say to it."""

    key: str  # of its sentence
    outcome: Outcome = "not decided"
    found: Estimate | Correlation | None = None  # as it is written
    unit: Unit = ""
    about: Mapping[str, Any] = field(default_factory=dict)  # what the sentence needs
    lacks: str = ""  # the key of why there is no number
    compared: Sequence["Part"] = ()  # each of which has to hold


@dataclass(frozen=True)
class Claim:
    """A claim and its parts."""

    key: str
    parts: Sequence[Part]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """All parts together."""
        return together(self.parts)


def together(parts: Iterable[Part]) -> Outcome:
    """Holds if all parts do, does not hold if one does not, and is not decided otherwise."""
    outcomes = {part.outcome for part in parts}
    if "does not hold" in outcomes:
        return "does not hold"
    return "holds" if outcomes == {"holds"} else "not decided"


def decide(
    key: str, values: Iterable[float], within: tuple[float, float] = ABOVE_0, *,
    unit: Unit = "", lacks: str = "", **about: Any,
) -> Part:  # fmt: skip
    """The part decided by one value per seed (unit times: a logarithm). `lacks`: why there may be none."""
    found = interval([value for value in values if math.isfinite(value)])
    if not found.n:
        return Part(key, lacks=lacks or "no run", about=about)
    outcome: Outcome = "not decided"
    if found.n > 1 and within[0] < found.low and found.high < within[1]:
        outcome = "holds"
    elif found.n > 1 and (found.high < within[0] or within[1] < found.low):
        outcome = "does not hold"
    return Part(key, outcome, found.through(math.exp) if unit == "times" else found, unit, about)


def decide_correlation(key: str, found: Correlation, **about: Any) -> Part:
    """The part decided by a rank correlation, which should be STRONG at least, whatever its sign."""
    if math.isnan(found.rho):
        return Part(key, found=found, lacks="too few or too equal", about=about)
    outcome: Outcome = "not decided"
    if found.low >= STRONG or found.high <= -STRONG:
        outcome = "holds"
    elif found.low > -STRONG and found.high < STRONG:
        outcome = "does not hold"
    return Part(key, outcome, found, "rho", about)


def by_z(runs: Iterable[RunRecord]) -> dict[int, list[RunRecord]]:
    """The runs of each z_dim, in order."""
    found: dict[int, list[RunRecord]] = {}
    for run in sorted(runs, key=_z):
        found.setdefault(_z(run), []).append(run)
    return found


def usual_z(runs: Sequence[RunRecord]) -> int:
    """The z_dim at which optimizers are compared: 100, or the nearest to it that most of them have."""
    optimizers = {z: {run.fields["optimizer"] for run in its} for z, its in by_z(runs).items()}
    return min(optimizers, key=lambda z: (-len(optimizers[z]), abs(z - USUAL_Z)), default=USUAL_Z)


class Claims:
    """The claims on a comparison whose runs differ in optimizer, learning_rate, z_dim and seed alone."""

    def __init__(self, comparison: Comparison) -> None:
        """Choose the runs that the claims are about: of each optimizer those at its usual learning rate."""
        self._comparison = comparison
        self._finished = [run for setting in comparison.settings for run in setting.finished]
        self._scored = names.FD in comparison.scores
        self.rates = {name: self._usual_rate(name) for name in CLAIMED}
        self.runs = {
            name: [
                run
                for run in self._finished
                if run.fields["optimizer"] == name and float(run.fields["learning_rate"]) == self.rates[name]
            ]
            for name in CLAIMED
        }

    def _usual_rate(self, optimizer: str) -> float | None:
        """Its default learning rate if the sweep has it, else its best by fd."""
        rates: dict[float, list[float]] = {}
        for run in (run for setting in self._comparison.settings for run in setting.runs):
            if run.fields["optimizer"] == optimizer:
                fds = rates.setdefault(float(run.fields["learning_rate"]), [])
                fds += [fd for fd in [run.score(names.FD)] if fd is not None]
        if OPTIMIZERS[optimizer].learning_rate in rates:
            return OPTIMIZERS[optimizer].learning_rate
        return min(
            rates, default=None,
            key=lambda rate: geometric_interval(rates[rate]).mean if rates[rate] else math.inf,
        )  # fmt: skip

    def runs_at_usual_z(self, optimizer: str) -> list[RunRecord]:
        """An optimizer's runs at the z_dim at which the two are compared."""
        return by_z(self.runs[optimizer]).get(usual_z([*self.runs["sgd"], *self.runs["adam"]]), [])

    def all(self, peaks: Mapping[str, Peaks]) -> list[Claim]:
        """Every claim. peaks: by run id, of the runs at the usual z_dim."""
        return [
            self._sgd_wins(), self._loss_curves(peaks), self._clearest(), self._flat_loss(),
            self._sensible_z(), self._loss_tells(),
        ]  # fmt: skip

    def _lacks(self, *optimizers: str, fd: bool = False) -> str:
        """Why there is nothing to decide by; empty if all is there."""
        absent = [name for name in optimizers if not self.runs[name]]
        return "no " + " ".join(absent) if absent else "no fd" if fd and not self._scored else ""

    def _sgd_wins(self) -> Claim:
        ratios: dict[int, list[float]] = {}  # by seed: one per z_dim, which are not independent
        sgd, adam = by_z(self.runs["sgd"]), by_z(self.runs["adam"])
        for z in sgd.keys() & adam.keys() if self._scored else ():
            for seed, ratio in _log_ratios(_scores(adam[z], names.FD), _scores(sgd[z], names.FD)).items():
                ratios.setdefault(seed, []).append(ratio)
        lacks = self._lacks("sgd", "adam", fd=True) or "no pair"
        part = decide("adam / sgd", map(fmean, ratios.values()), unit="times", lacks=lacks)
        return Claim("sgd wins", [part], {"rates": self.rates})

    def _loss_curves(self, peaks: Mapping[str, Peaks]) -> Claim:
        """SGD's curves and Adam's at one z_dim."""
        runs = {name: {run.seed: run for run in self.runs_at_usual_z(name)} for name in CLAIMED}
        both = sorted(runs["sgd"].keys() & runs["adam"].keys())

        def near(key: str, optimizer: str, network: str, values: Iterable[float], about: float) -> Part:
            low, high = about * (1 - NEAR), about * (1 + NEAR)
            return decide(
                key, values, (low, high), lacks=self._lacks(optimizer) or "no iterations",
                optimizer=optimizer, network=network, near=about, low=low, high=high,
            )  # fmt: skip

        def peak(optimizer: str, network: str, about: float) -> Part:
            its = [peaks[run.run_id] for run in runs[optimizer].values() if run.run_id in peaks]
            return near("peak", optimizer, network, (getattr(each, network) for each in its), about)

        def ends(network: str) -> list[float]:
            return [_tenth(run, LOSS[network]) for run in runs["sgd"].values()]

        def swings(network: str) -> Part:
            spreads = [[_tenth(runs[name][seed], SWING[network]) for name in CLAIMED] for seed in both]
            ratios = [math.log(adam / sgd) for sgd, adam in spreads if adam > 0 and sgd > 0]
            lacks = self._lacks("sgd", "adam") or "no pair"
            return decide("swings", ratios, unit="times", lacks=lacks, network=network)

        rises = [
            _tenth(run, LOSS["G"]) - course[0] for run in runs["adam"].values() if (course := run.course(LOSS["G"]))
        ]
        return Claim(
            "loss curves",
            [
                peak("sgd", "G", 6), peak("sgd", "D", 4.5),
                decide("ends below", ends("G"), (-math.inf, 3), lacks=self._lacks("sgd")),
                near("ends near", "sgd", "D", ends("D"), 1.5),
                peak("adam", "G", 1.8),
                decide("rises", rises, lacks=self._lacks("adam")),
                swings("G"), swings("D"),
            ],
            {"z": usual_z([*self.runs["sgd"], *self.runs["adam"]])},
        )  # fmt: skip

    def _clearest(self) -> Claim:
        """z_dim 20 better and 200 worse than every other z_dim, by the scores of CLARITY."""
        runs = by_z(self.runs["sgd"])
        parts = []
        for which, z, sign in (("clearest", CLEAR_Z, 1), ("blurriest", BLURRED_Z, -1)):
            for name, clarity in CLARITY.items():
                lacks = self._lacks("sgd") or ("no z" if z not in runs else "one z" if len(runs) < 2 else "")
                lacks = lacks or ("" if clarity.score in self._comparison.scores else "no score")
                compared = [_lead(runs, z, other, clarity, sign) for other in runs if other != z]
                parts.append(_every("extreme", compared, lacks, which=which, z=z, score=name))
        return Claim("clearest", parts, {"clear": CLEAR_Z, "blurred": BLURRED_Z})

    def _flat_loss(self) -> Claim:
        """G's loss at z_dim 20."""
        runs = by_z(self.runs["sgd"]).get(CLEAR_Z, [])
        courses = [(_tenth(run, LOSS["G"]), _tenth(run, LOSS["G"], first=True)) for run in runs]
        lacks = self._lacks("sgd") or "no z"
        changes = [math.log(late / early) for late, early in courses if late > 0 and early > 0]
        return Claim(
            "flat loss",
            [
                decide("ends at", [late for late, _ in courses], (3, 4), lacks=lacks, z=CLEAR_Z),
                decide("improves not", changes, (math.log(0.9), math.inf), unit="times", lacks=lacks, z=CLEAR_Z),
            ],
            {"z": CLEAR_Z},
        )

    def _sensible_z(self) -> Claim:
        """The z_dims within SENSIBLE_Z against those outside, by fd."""
        runs = by_z(self.runs["sgd"])
        inside = [z for z in runs if SENSIBLE_Z[0] <= z <= SENSIBLE_Z[1]]
        around = inside and min(runs) < SENSIBLE_Z[0] and max(runs) > SENSIBLE_Z[1]
        lacks = self._lacks("sgd", fd=True) or ("" if around else "no z around")
        logs: dict[int, list[float]] = {}
        for z in inside:
            for seed, fd in _scores(runs[z], names.FD).items():
                logs.setdefault(seed, []).append(math.log(fd))
        middle = {seed: math.exp(fmean(its)) for seed, its in logs.items() if len(its) == len(inside)}
        compared = [
            decide("z", _log_ratios(_scores(runs[z], names.FD), middle).values(), unit="times", z=z)
            for z in runs
            if z not in inside
        ]
        return Claim("sensible", [_every("least inside", compared, lacks, inside=inside)], {"range": SENSIBLE_Z})

    def _loss_tells(self) -> Claim:
        """Losses against fd, over all finished runs and over the epochs of each."""
        parts = []
        for network in ("G", "D"):
            if not self._scored:
                parts += [Part(key, lacks="no fd", about={"network": network}) for key in ("over runs", "over epochs")]
                continue
            pairs = [(run.last(LOSS[network]), fd) for run in self._finished if (fd := run.score(names.FD))]
            parts.append(
                decide_correlation(
                    "over runs",
                    spearman([loss for loss, _ in pairs], [fd for _, fd in pairs]),
                    network=network,
                )
            )
            parts.append(self._over_epochs(network))
        return Claim("loss tells", parts, {"strong": STRONG, "epochs": EPOCHS_TO_CORRELATE})

    def _over_epochs(self, network: str) -> Part:
        by_seed: dict[int, list[float]] = {}
        for run in self._finished:
            losses, fds = run.history.get(LOSS[network], {}), run.history.get(names.FD, {})
            points = [(losses[epoch], fd) for epoch, fd in fds.items() if epoch in losses]
            if len(points) >= EPOCHS_TO_CORRELATE:
                rho = spearman(*zip(*points, strict=True)).rho
                if not math.isnan(rho):
                    by_seed.setdefault(run.seed, []).append(rho)
        mean = interval([fmean(each) for each in by_seed.values()]).within(-1, 1)
        if mean.n < 2:
            lacks = "" if mean.n else "too few epochs"
            return Part("over epochs", found=mean, unit="rho", lacks=lacks, about={"network": network})
        return decide_correlation("over epochs", Correlation(*mean), network=network)


def _z(run: RunRecord) -> int:
    return int(run.fields["z_dim"])


def _scores(runs: Iterable[RunRecord], score: str) -> dict[int, float]:
    """A score by seed, of runs of one setting."""
    return {run.seed: value for run in runs if (value := run.score(score)) is not None}


def _log_ratios(values: Mapping[int, float], others: Mapping[int, float]) -> dict[int, float]:
    return {seed: math.log(values[seed] / others[seed]) for seed in sorted(values.keys() & others.keys())}


def _tenth(run: RunRecord, metric: str, first: bool = False) -> float:
    """The mean over the last tenth of the epochs, or the first, one epoch at least; nan if there are none."""
    course = run.course(metric)
    count = max(1, len(course) // 10)
    return fmean(course[:count] if first else course[-count:]) if course else math.nan


def _lead(runs: Mapping[int, list[RunRecord]], z: int, other: int, clarity: Clarity, sign: int) -> Part:
    """How much better z is than another z_dim (worse, for sign −1), seed by seed."""
    ours, theirs = _scores(runs.get(z, ()), clarity.score), _scores(runs[other], clarity.score)
    leads = [
        sign * (clarity.better(ours[seed]) - clarity.better(theirs[seed]))
        for seed in sorted(ours.keys() & theirs.keys())
    ]
    return decide("z", leads, unit=clarity.unit, z=other)


def _every(key: str, compared: Sequence[Part], lacks: str, **about: Any) -> Part:
    """One part made of several, of which each has to hold."""
    if lacks:
        return Part(key, lacks=lacks, about=about)
    return Part(key, together(compared), about=about, compared=compared)
