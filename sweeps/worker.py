"""One RunConfig on a Ray worker."""

import dataclasses
import time
import warnings
from collections.abc import Mapping
from contextlib import closing, suppress
from queue import Queue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from ray import tune
from ray.util import get_node_ip_address

from gan_core.checkpoint import LOCK_PATIENCE, CheckpointFolder
from gan_core.config import RunConfig, RunOptions
from gan_core.data import ImageSet
from gan_core.errors import UserError
from gan_core.evaluation.baselines import Reference
from gan_core.events import Progress
from gan_core.run import Job, Outcome, run
from gan_core.storage import ObjectPath, StoragePath, storage_path
from gan_core.tracking.tracker import MlflowTracker
from sweeps.cluster import Needs, grant, lacks

REPORT_INTERVAL = 0.5  # seconds: a report takes the driver some milliseconds, of each run
ASK_INTERVAL = 2.0  # seconds between two looks for the stop file in an object store
# Seconds for the process that trained the run before to be gone. It may have died with its machine, whose
# locks a server of shared folders keeps for 90 seconds, most often.
NODE_PATIENCE = 180.0
UNFIT_PAUSE = 5.0  # seconds: a node that cannot train would else be the first to ask for the next run


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker needs to know of its run; everything but the images and what they are scored by."""

    name: str
    config: dict[str, Any]
    run_id: str
    checkpoints: str  # folder or URI of the run's checkpoints
    stop_file: str  # where a file appears when the sweep is interrupted


class ImageSetLabel(NamedTuple):
    """An image set but for its images."""

    digest: str
    source: str


@dataclasses.dataclass(frozen=True)
class Common:
    """What all runs of a sweep share beside the images.

    What may hold a password is here and not in a Task: Tune writes that into a file.
    """

    images: Mapping[str, ImageSetLabel]  # by data set
    references: Mapping[str, Reference]  # ready, by data set
    options: RunOptions
    tracking_uri: str = dataclasses.field(repr=False)
    needs: Needs | None = None  # on a cluster: what its nodes must have


def run_trial(trial: dict[str, Any], pixels: Mapping[str, NDArray[np.uint8]], common: Common) -> None:
    """Train the run of `trial["task"]` (a Task's fields) and report its progress and its end to Ray Tune.

    `pixels`: by data set its images, uint8, N×1×28×28, in Ray's object store, which every worker of a
    machine reads in place. Raises UnfitError on a node that cannot train: Tune then gives the run to another worker.
    """
    if common.needs:
        _require(common.needs)
    try:
        outcome = _train(Task(**trial["task"]), pixels, common)
    except UserError as error:
        outcome = Outcome("FAILED", str(error))
    except Exception as error:  # outside of the run: no room for its scratch files, say
        outcome = Outcome("FAILED", f"{type(error).__name__}: {error}")
    tune.report(outcome._asdict())


class UnfitError(Exception):
    """The node cannot train this run."""


def _require(needs: Needs) -> None:
    grant(needs.environment)
    if needs.token in _fit:
        return
    if found := lacks(needs):
        node = get_node_ip_address()
        tune.report({"unfit": f"node {node} cannot train: {', '.join(found)}"})
        time.sleep(UNFIT_PAUSE)
        raise UnfitError(found)
    _fit.add(needs.token)


_fit: set[str] = set()  # the tokens of the sweeps for which this process' node has all that it needs


def _image_set(name: str, pixels: NDArray[np.uint8], label: ImageSetLabel) -> ImageSet:
    with warnings.catch_warnings():
        # The shared memory cannot be written to, and is not: batches are copies.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return ImageSet(name, torch.from_numpy(pixels), label.digest, label.source)


def _train(task: Task, pixels: Mapping[str, NDArray[np.uint8]], common: Common) -> Outcome:
    torch.set_num_threads(1)  # as many runs as cores: a second thread would take another run's
    config = RunConfig(**task.config)
    name = config.dataset
    data = _image_set(name, pixels[name], common.images[name])
    checkpoints = CheckpointFolder(storage_path(task.checkpoints), config)
    job = Job(task.name, config, data, common.references[name], common.options, checkpoints)
    patience = NODE_PATIENCE if common.needs else LOCK_PATIENCE
    # The lock is let go first: of a sweep that is interrupted nobody hears the reports.
    with (
        closing(_Reporter(config.epochs, storage_path(task.stop_file))) as reporter,
        checkpoints.locked(patience),
    ):
        tracker = MlflowTracker(common.tracking_uri, task.run_id, config, data, task.name)
        return run(job, tracker, reporter)


class _Reporter:
    """Tells the driver what a run tells its observer, from a thread.

    Ray makes the reporter wait until the driver has asked for the next report. A driver that is interrupted
    never asks: the run would wait for ever, where it is to keep a checkpoint.
    """

    def __init__(self, epochs: int, stop_file: StoragePath) -> None:
        self._epochs = epochs
        self._stop_file = stop_file
        self._last_report = 0.0
        self._asked = 0.0
        self._stopped = False
        self._reports: Queue[dict[str, Any] | None] = Queue()
        self._thread = Thread(target=self._report, daemon=True)
        self._thread.start()

    def update(self, progress: Progress) -> None:
        last = progress.epoch == self._epochs
        if last or (self._reports.empty() and time.monotonic() - self._last_report >= REPORT_INTERVAL):
            self._last_report = time.monotonic()
            self._reports.put({"progress": dataclasses.asdict(progress)})

    def say(self, run: str, text: str) -> None:
        self._reports.put({"said": text})

    def close(self) -> None:
        """Wait until the driver has heard it all."""
        self._reports.put(None)
        self._thread.join()

    def should_stop(self) -> bool:
        if isinstance(self._stop_file, ObjectPath):
            if time.monotonic() - self._asked >= ASK_INTERVAL:
                self._asked = time.monotonic()
                with suppress(OSError):  # a store that is away has nothing to say
                    self._stopped = self._stop_file.exists()
            return self._stopped
        return self._stop_file.exists()

    def _report(self) -> None:
        while (report := self._reports.get()) is not None:
            tune.report(report)
