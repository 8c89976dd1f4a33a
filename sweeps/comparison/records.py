"""A sweep and its runs, as the store has them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gan_core.tracking.queries import UNFINISHED

FD = "quality/fd"


@dataclass(frozen=True)
class RunRecord:
    """One child run, as the store has it."""

    name: str
    run_id: str
    status: str
    cell: str
    optimizer: str
    learning_rate: float
    z_dim: int
    seed: int
    # metric → an element an epoch at which it was logged; empty where the run logged none
    history: Mapping[str, list[float]]
    health: str = ""  # empty where nothing was found out
    health_reason: str = ""
    failure: str = ""
    epochs: Mapping[str, list[int]] = field(default_factory=dict)  # metric → the epochs of its history
    metrics: Mapping[str, float] = field(default_factory=dict)  # metric → its last value
    artifact_uri: str = ""
    commits: Sequence[str] = ()  # of the code that trained it, in order

    def last(self, metric: str) -> float:
        """The metric after the last epoch logged; nan if there is none."""
        if self.history.get(metric):
            return self.history[metric][-1]
        return self.metrics.get(metric, math.nan)

    def score(self, metric: str) -> float | None:
        """A quality score of the trained generator; None if the run did not finish or has no such score."""
        value = self.last(metric)
        usable = math.isfinite(value) and (metric != FD or value > 0)  # its logarithm is taken
        return value if self.status == "FINISHED" and usable else None

    @property
    def seconds(self) -> float:
        """Training time."""
        return sum(self.history.get("time/epoch_seconds", []))

    @property
    def images_per_second(self) -> float:
        """Real images trained on in a second, over the whole run; nan if none was."""
        seconds = self.history.get("time/epoch_seconds", [])
        # Each epoch has as many images as the last one.
        images = self.last("time/images_per_second") * seconds[-1] if seconds else math.nan
        return images * len(seconds) / self.seconds if self.seconds else math.nan


class AbsentRun(NamedTuple):
    """A child run that never began: no settings, no figures."""

    name: str
    cell: str
    status: str
    failure: str


class Classifier(NamedTuple):
    """What the scores were measured with, and their real_baseline and untrained_baseline (by the scores' names)."""

    sha256: str
    accuracy: float
    images: int  # generated for an evaluation
    real_baseline: Mapping[str, float]
    untrained_baseline: Mapping[str, float]


@dataclass(frozen=True)
class SweepRecord:
    """A sweep, as the store has it."""

    name: str
    run_id: str
    experiment: str
    status: str
    started: float  # seconds since 1970
    ended: float | None
    params: Mapping[str, str]
    commit: str  # with which it began
    runs: Sequence[RunRecord]  # that have begun, in the order of the grid
    absent: Sequence[AbsentRun]
    classifiers: Sequence[
        Classifier
    ]  # that scored runs of it; more than one: figures that cannot be compared
    namesakes: int = 0  # other sweeps of this name

    @property
    def seeds(self) -> list[int]:
        """Every seed of a run that has begun, in order."""
        return sorted({run.seed for run in self.runs})

    @property
    def running(self) -> bool:
        """Whether it is not over yet."""
        return self.status in UNFINISHED
