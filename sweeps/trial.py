"""One RunConfig on a Ray worker."""

import dataclasses
import time
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray import tune
from ray.tune.experiment import Trial

from gan_core.config import RunConfig
from gan_core.data import ImageSet
from gan_core.live import LiveView, Progress
from gan_core.run import run
from gan_core.tracking import MlflowTracker

REPORT_INTERVAL = 0.5  # seconds: a report makes the training wait for the driver


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker needs to know of its run; everything but the images."""

    name: str
    config: dict[str, Any]
    run_id: str
    tracking_uri: str


def run_trial(trial: dict[str, Any], pixels: NDArray[np.uint8], about: dict[str, str]) -> None:
    """Train the run of `trial["task"]` (a Task's fields) and report its progress and its end to Ray Tune.

    `pixels`: the images, uint8, N×1×28×28, in Ray's object store, which every worker of a machine reads in
    place; `about`: the image set's name, digest and source.
    """
    torch.set_num_threads(1)  # as many runs as cores: a second thread would take another run's
    task = Task(**trial["task"])
    with warnings.catch_warnings():
        # The shared memory cannot be written to, and is not: batches are copies.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        data = ImageSet(images=torch.from_numpy(pixels), **about)
    config = RunConfig(**task.config)
    last_report = 0.0

    def report(progress: Progress) -> None:
        nonlocal last_report
        if progress.epoch == config.epochs or time.monotonic() - last_report >= REPORT_INTERVAL:
            last_report = time.monotonic()
            tune.report({"progress": dataclasses.asdict(progress)})

    outcome = run(
        task.name,
        config,
        data,
        MlflowTracker(task.tracking_uri, task.run_id, config, data, task.name),
        report,
    )
    tune.report({"status": outcome.status, "reason": outcome.reason})


class Listener(tune.Callback):
    """Hears, in the driver, what the workers report: for the live view, and why runs have failed."""

    def __init__(self, view: LiveView) -> None:
        """`view` is told of every epoch and of every end."""
        self.view = view
        self.reasons: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves its callbacks so as to restore an experiment, which is not how we resume."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """A worker has reported an epoch, or the end of its run."""
        if "progress" in result:
            self.view.update(Progress(**result["progress"]))
        elif "status" in result:
            self._end(trial, result["status"], result["reason"])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """A worker died, or broke outside of the run."""
        error = str(trial.get_pickled_error() or "the worker died").strip()
        self._end(trial, "FAILED", error.splitlines()[-1])

    def _end(self, trial: Trial, status: str, reason: str) -> None:
        name = trial.config["task"]["name"]
        if reason:
            self.reasons[name] = reason
        self.view.end(name, status, reason)
