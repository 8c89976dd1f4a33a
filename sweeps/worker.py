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
from gan_core.data import ImageKey, ImageSet
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


class Trial(NamedTuple):
    """What a worker needs to know of its run beside what all runs share. Tune writes it into a file."""

    name: str
    config: dict[str, Any]  # the fields of a RunConfig
    run_id: str
    until: int | None = None  # the epoch after which it pauses


@dataclasses.dataclass(frozen=True)
class Common:
    """What all runs of a sweep share beside the pixels. What may hold a password is here: Tune does not write it."""

    images: Mapping[ImageKey, ImageSet]  # without their pixels
    references: Mapping[ImageKey, Reference]
    options: RunOptions
    checkpoint_dir: str  # folder or URI; has a folder for each run
    stop_file: str  # where a file appears when the sweep is interrupted
    tracking_uri: str = dataclasses.field(repr=False)
    needs: Needs | None = None  # on a cluster: what its nodes must have
    rungs: tuple[int, ...] = ()  # of a race: epochs after which every run is evaluated


def run_trial(trial: dict[str, Any], pixels: Mapping[ImageKey, NDArray[np.uint8]], common: Common) -> None:
    """Train the run of a Trial's fields, and report its progress and its end to Ray Tune.

    `pixels`: by image set its images, uint8, N×C×H×W, in Ray's object store, which every worker of a
    machine reads in place. Raises UnfitError on a node that cannot train: Tune then gives the run to another worker.
    """
    if common.needs:
        _require(common.needs)
    try:
        outcome = _train(Trial(**trial), pixels, common)
    except UserError as error:
        outcome = Outcome("FAILED", str(error))
    except Exception as error:  # outside of the run: no room for its scratch files, say
        outcome = Outcome("FAILED", f"{type(error).__name__}: {error}")
    tune.report(outcome._asdict())


class UnfitError(Exception):
    """The node cannot train this run."""


_fit: set[str] = set()  # the tokens of the sweeps for which this process' node has all that it needs


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


def _train(trial: Trial, pixels: Mapping[ImageKey, NDArray[np.uint8]], common: Common) -> Outcome:
    torch.set_num_threads(1)  # as many runs as cores: a second thread would take another run's
    config = RunConfig(**trial.config)
    with warnings.catch_warnings():
        # The shared memory cannot be written to, and is not: batches are copies.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        images = torch.from_numpy(pixels[config.image_key])
    data = dataclasses.replace(common.images[config.image_key], images=images)
    checkpoints = CheckpointFolder(storage_path(common.checkpoint_dir) / trial.run_id, config, data.folder_digest)
    reference = common.references[config.image_key]
    job = Job(trial.name, config, data, reference, common.options, checkpoints, trial.until, common.rungs)
    patience = NODE_PATIENCE if common.needs else LOCK_PATIENCE
    # The lock is let go first: of a sweep that is interrupted nobody hears the reports.
    with (
        closing(_Reporter(job.goal, storage_path(common.stop_file))) as reporter,
        checkpoints.locked(patience),
    ):
        tracker = MlflowTracker(common.tracking_uri, trial.run_id, config, data, trial.name)
        return run(job, tracker, reporter)


class _Reporter:
    """Passes on to the driver what a run says to its observer, from a thread.

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
        """Whether the stop file is there; an object store is asked now and then."""
        interval = ASK_INTERVAL if isinstance(self._stop_file, ObjectPath) else 0.0
        if time.monotonic() - self._asked >= interval:
            self._asked = time.monotonic()
            with suppress(OSError):  # a store that is away has nothing to say
                self._stopped = self._stop_file.exists()
        return self._stopped

    def _report(self) -> None:
        while (report := self._reports.get()) is not None:
            tune.report(report)
