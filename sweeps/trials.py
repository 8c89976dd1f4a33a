"""A sweep's runs as Ray Tune's trials: handed out in order, listened to, and stopped."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from gan_core.data import ImageKey
from gan_core.errors import UserError
from gan_core.events import Progress
from gan_core.live import LiveView
from gan_core.locks import was_released
from gan_core.run import Outcome
from gan_core.storage import ObjectPath, StoragePath, write_whole
from sweeps.plan import Plan
from sweeps.resume import Step
from sweeps.worker import Common, Trial, run_trial

ENDED_BY_RAY = "Caught unexpected exception: "  # so Tune ends where Ray itself kills workers for want of memory
WORKER_DIED = "its worker process died: it was killed, ran out of memory, or could not be started"
STOP_PATIENCE = 5.0  # seconds for interrupted runs to reach an epoch's end and keep a checkpoint
DISTANCE = 5.0  # seconds more where they have to hear of it through an object store


@contextmanager
def stopping(plan: Plan, steps: Sequence[Step]) -> Iterator[None]:
    """Left by Ctrl-C, the runs are asked to keep a checkpoint and stop, and given some seconds for it."""
    file = stop_file(plan)
    file.unlink(missing_ok=True)
    try:
        yield
    except KeyboardInterrupt:
        write_whole(file, b"")
        until = time.monotonic() + STOP_PATIENCE + (DISTANCE if isinstance(file, ObjectPath) else 0)
        locks = [plan.checkpoint_dir / step.run_id / "lock" for step in steps if step.run_id]
        while time.monotonic() < until and not all(map(was_released, locks)):
            time.sleep(0.1)
        raise
    finally:
        file.unlink(missing_ok=True)


def stop_file(plan: Plan) -> StoragePath:
    """Where a file appears when the sweep is interrupted."""
    return plan.checkpoint_dir / plan.lock.replace(".lock", ".stop")


def train_all(
    plan: Plan,
    trials: "AsAsked",
    pixels: Mapping[ImageKey, NDArray[np.uint8]],
    common: Common,
    listener: "Listener",
) -> None:
    """Train the runs that `trials` hands out on Ray's workers, with what `Common` says. pixels: as of `run_trial`.

    Raises UserError if Ray ends it.
    """
    trainable = tune.with_parameters(run_trial, pixels=pixels, common=common)
    if plan.device == "cuda":
        # Ray shows a worker no GPU that it has not asked for. The runs of a machine share what there is.
        share = ray.cluster_resources().get("GPU", 0) / (plan.workers or len(plan.runs))
        trainable = tune.with_resources(trainable, {"cpu": 1, "gpu": min(share, 1)})
    with tempfile.TemporaryDirectory(prefix="gan-tune-") as scratch:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=trials,
                num_samples=trials.most,
                reuse_actors=True,
                max_concurrent_trials=plan.workers,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                callbacks=[listener],
                failure_config=tune.FailureConfig(max_failures=plan.retries),
            ),
        )
        try:
            tuner.fit()
        except RuntimeError as error:
            _, found, reason = str(error).partition(ENDED_BY_RAY)
            if not found:
                raise
            said = reason.splitlines()[0].rstrip(".")
            raise UserError(f"Ray has ended the sweep: {said}. The same command goes on with it") from error


class AsAsked(Searcher):
    """Suggests the trials that it is given, one after another, and perhaps none before another one has ended.

    Tune's own grid search copies the whole grid for each trial that it makes of it: the time for n runs grows
    with n². Tune saves a searcher so as to restore an experiment, which is not how a sweep goes on: there is
    nothing to save.
    """

    def __init__(self, trials: Iterator[Trial | None], most: int) -> None:
        """trials: one after another; None: not now. most: how many there are at most."""
        super().__init__()
        self._trials, self.most = trials, most

    def __getstate__(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The config of the next trial; FINISHED if there is no more."""
        try:
            trial = next(self._trials)
        except StopIteration:
            return str(Searcher.FINISHED)
        return trial._asdict() if trial else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: who asks hears of it from the Listener."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class Listener(tune.Callback):
    """Hears, in the driver, what the workers report: for the live view, and how runs ended."""

    def __init__(self, view: LiveView) -> None:
        """view: shows every epoch and every end."""
        self.view = view
        self.ended: Callable[[Trial, Outcome], None] | None = None  # told of every end as well
        self.reasons: dict[str, str] = {}  # why runs ended as they did, by their ids
        self._unfit: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as of AsAsked."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **_: Any
    ) -> None:
        """A worker has reported an epoch, or the end of its run."""
        name = trial.config["name"]
        if "progress" in result:
            self.view.update(Progress(**result["progress"]))
        elif "said" in result:
            self.view.say(name, result["said"])
        elif "unfit" in result:
            self._unfit[name] = result["unfit"]
        elif "status" in result:
            self._end(trial, Outcome(result["status"], result["reason"], result["health"]))

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """A worker died, and Tune gives the run to another one."""
        name = trial.config["name"]
        self.view.say(name, f"{self._unfit.pop(name, WORKER_DIED)}; trying again")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """A worker died, once too often: what breaks in a run is reported as its outcome, not as an error."""
        name = trial.config["name"]
        times = f", {trial.num_failures} times" if trial.num_failures > 1 else ""
        self._end(trial, Outcome("FAILED", self._unfit.get(name) or WORKER_DIED + times))

    def _end(self, trial: TuneTrial, outcome: Outcome) -> None:
        run = Trial(**trial.config)
        if outcome.status == "PAUSED":
            self.view.pause(run.name)
        else:
            self.reasons[run.run_id] = outcome.reason
            self.view.end(run.name, *outcome)
        if self.ended:
            self.ended(run, outcome)
