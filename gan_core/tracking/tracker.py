"""Events → one MLflow run, written by a thread of its own so that training does not wait for the store."""

import dataclasses
import json
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from uuid import UUID

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image
from tenacity import Retrying, retry_if_exception, wait_random_exponential

from gan_core import compat
from gan_core import metric_names as names
from gan_core.config import RunConfig
from gan_core.data import ImageSet
from gan_core.errors import TrackingError
from gan_core.events import Baselines, Diagnosis, EpochEnd, Evaluated, Event, Machine, Reached, Samples
from gan_core.run_folder import STATUS_FILE, RunFolder
from gan_core.tracking.store import brief, end_run

WRITE_INTERVAL = 5.0  # seconds between two writes to the store: each costs as much as 10 training steps
PATIENCE_KILLED = 5.0  # seconds that `close` tries at most when somebody waits for an interrupted run to end
SMALL_SLIDE = (256, 256)  # pixels at most
LASTING_ERRORS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")


class MlflowTracker:
    """Logs a run's events to the MLflow run `run_id`, which has to exist, through a client of its own.

    An event is in the store some seconds later; when `close` returns, all are. While the store cannot be
    reached, events are kept and the write is repeated. A resumed run logs its events from the first one on:
    what the store already has of them is left out, by metric and epoch.
    """

    patience = 60.0  # seconds that `close` tries to reach the store

    def __init__(self, tracking_uri: str, run_id: str, config: RunConfig, data: ImageSet, title: str) -> None:
        """Start writing: status RUNNING, every field of the config as a param, the image set as an input."""
        self._client = MlflowClient(tracking_uri)
        self._uri = tracking_uri
        self._run_id = run_id
        self._scratch = tempfile.TemporaryDirectory(prefix="gan-run-")
        self._files = RunFolder(Path(self._scratch.name), config, title)
        self._queue: SimpleQueue[tuple[Event, int]] = SimpleQueue()
        self._started = 0  # milliseconds since 1970
        self._machines: list[str] = []  # that have trained the run
        self._points: set[tuple[str, int]] = set()  # metric and step of what the store has of a resumed run
        self._paths: set[str] = set()  # and its sheets and slides
        self._waiting_since: float | None = None
        self._closing = threading.Event()
        self._give_up_at = math.inf
        self._error: TrackingError | None = None
        self._thread = threading.Thread(target=self._write_until_closed, args=(config, data), daemon=True)
        self._thread.start()

    def log(self, event: Event, at: int) -> None:
        """Queue the event of time `at` (milliseconds since 1970) for writing.

        Raises TrackingError if the store has refused a write for good.
        """
        if self._error:
            raise self._error
        if not isinstance(event, Reached):
            self._queue.put((event, at))

    def behind(self) -> float:
        """The seconds since the store last took a write, if one is waiting; else 0."""
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self, status: str, reason: str = "", trace: str = "") -> None:
        """Write what is left, then end the run as `status`: FINISHED, FAILED or KILLED. PAUSED: it waits, SCHEDULED.

        `reason` becomes a tag, `trace` an artifact. Raises TrackingError if the store does not take it in
        time; the run's status then stays as it was.
        """
        patience = min(PATIENCE_KILLED, self.patience) if status == "KILLED" else self.patience
        self._give_up_at = time.monotonic() + patience
        self._closing.set()
        self._thread.join()
        try:
            if self._error:
                raise self._error
            self._files.close(status, reason, trace)
            for path in self._files.folder.iterdir():
                if path.is_file() and path.name != STATUS_FILE:
                    self._upload(path.name)
            self._repeat(lambda: end_run(self._client, self._run_id, status, reason))
        except TrackingError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        finally:
            self._scratch.cleanup()

    def _write_until_closed(self, config: RunConfig, data: ImageSet) -> None:
        try:
            self._begin(config, data)
            while not self._closing.wait(WRITE_INTERVAL):
                self._write_queue()
            self._write_queue()
        except Exception as error:  # log() and close() raise it on the training thread
            self._error = self._failure(error)

    def _begin(self, config: RunConfig, data: ImageSet) -> None:
        params = [Param(name, str(value)) for name, value in dataclasses.asdict(config).items()]
        source = json.dumps({"source": data.source})
        profile = json.dumps({"images": len(data.images), "shape": list(data.images.shape[1:])})
        dataset = Dataset(data.name, data.digest, "local", source, profile=profile)
        self._repeat(self._read_stored)
        self._repeat(lambda: self._client.update_run(self._run_id, status="RUNNING"))
        shown = [RunTag(compat.LOGGED_IMAGES_TAG, "True")]
        self._repeat(lambda: self._client.log_batch(self._run_id, params=params, tags=shown))
        self._repeat(lambda: self._client.log_inputs(self._run_id, [DatasetInput(dataset)]))

    def _read_stored(self) -> None:
        run = self._client.get_run(self._run_id)
        self._started = run.info.start_time
        if run.info.status == "SCHEDULED" and not run.data.params:
            return  # the run has not begun
        self._points = {
            (name, point.step)
            for name in run.data.metrics
            for point in self._client.get_metric_history(self._run_id, name)
        }
        self._paths = {
            file.path
            for folder in (names.SAMPLES, compat.SLIDES)
            for file in self._client.list_artifacts(self._run_id, folder)
        }
        if names.FAILURE_REASON in run.data.tags:
            self._client.delete_tag(self._run_id, names.FAILURE_REASON)

    def _write_queue(self) -> None:
        """Write all queued events: their metrics as one batch, then their files and tags."""
        queued = [self._queue.get() for _ in range(self._queue.qsize())]  # nobody else takes from it
        metrics = [
            Metric(name, value, at, event.epoch)
            for event, at in queued
            if isinstance(event, EpochEnd | Evaluated | Machine)
            for name, value in event.metrics().items()
            if (name, event.epoch) not in self._points
        ]
        if metrics:
            self._repeat(lambda: self._client.log_batch(self._run_id, metrics=metrics))
        for event, _ in queued:
            self._files.log(event)
            match event:
                case Samples(epoch):
                    if names.sheet_name(epoch) not in self._paths:
                        self._upload(names.sheet_name(epoch))
                    self._log_slide(epoch)
                case Baselines():
                    self._tag(
                        {
                            names.CLASSIFIER: event.classifier,
                            names.CLASSIFIER_ACCURACY: str(event.classifier_accuracy),
                            names.EVALUATION_IMAGES: str(event.n),
                            names.REAL_BASELINE: json.dumps(event.real_baseline),
                            names.UNTRAINED_BASELINE: json.dumps(event.untrained_baseline),
                        }
                    )
                case Machine(kind=kind):
                    self._machines.append(kind)
                    self._tag({names.MACHINES: "; ".join(self._machines)})
                case Diagnosis(health, reason):
                    self._tag({names.HEALTH: health, names.HEALTH_REASON: reason})

    def _tag(self, values: dict[str, str]) -> None:
        tags = [RunTag(key, value) for key, value in values.items()]
        self._repeat(lambda: self._client.log_batch(self._run_id, tags=tags))

    def _log_slide(self, epoch: int) -> None:
        """Log the sample sheet as a step of the UI's image slider."""
        # The name is the same each time, so a step that is logged again has one image.
        stem = compat.slide_stem(names.SAMPLES, epoch, self._started, str(UUID(self._run_id)))
        slides = [f"{stem}{ending}" for ending in compat.SLIDE_ENDINGS]
        if self._paths.issuperset(slides):
            return
        sheet = self._files.folder / names.sheet_name(epoch)
        large, small = (self._files.folder / slide for slide in slides)
        large.parent.mkdir(exist_ok=True)
        shutil.copyfile(sheet, large)
        with Image.open(sheet) as image:
            image.thumbnail(SMALL_SLIDE)
            image.save(small, method=0)  # the quickest
        for slide in slides:
            self._upload(slide)
            (self._files.folder / slide).unlink()

    def _upload(self, name: str) -> None:
        folder = str(Path(name).parent) if "/" in name else None
        path = str(self._files.folder / name)
        self._repeat(lambda: self._client.log_artifact(self._run_id, path, folder))

    def _repeat(self, write: Callable[[], object]) -> None:
        """Repeat the write until the store takes it: SQLite can be locked, a server can be restarting.

        A repeated write adds nothing: the store knows a metric's point by its key, step, time and value.
        """
        for attempt in Retrying(
            retry=retry_if_exception(is_passing),
            wait=wait_random_exponential(multiplier=0.2, max=2),  # at most: `close` waits for it
            stop=lambda _: time.monotonic() > self._give_up_at,
            reraise=True,
        ):
            with attempt:
                self._waiting_since = self._waiting_since or time.monotonic()
                write()
                self._waiting_since = None

    def _failure(self, error: BaseException) -> TrackingError:
        return TrackingError(f"logging to the store failed: {type(error).__name__}: {brief(error, self._uri)}")


def is_passing(error: BaseException) -> bool:
    """Whether the same write may succeed later."""
    if isinstance(error, MlflowException):
        return error.error_code not in LASTING_ERRORS
    from sqlalchemy.exc import OperationalError  # while a store is opened MLflow lets it through

    return isinstance(error, OSError | OperationalError)
