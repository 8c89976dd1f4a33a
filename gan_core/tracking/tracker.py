"""Events → one MLflow run, written on a thread of its own so that training does not wait for the store."""

import dataclasses
import json
import math
import re
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple
from uuid import uuid4

from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
from PIL import Image
from tenacity import Retrying, retry_if_exception, wait_random_exponential

from gan_core.config import RunConfig
from gan_core.data import ImageSet
from gan_core.errors import TrackingError
from gan_core.events import Baselines, Diagnosis, EpochEnd, Evaluated, Event, Reached, Samples, Trained
from gan_core.metric_names import GENERATOR_FILE, QUALITY_FILE, sheet_name
from gan_core.run_folder import RunFolder
from gan_core.tracking.queries import MlflowClient, end_run
from gan_core.tracking.store import brief

WRITE_INTERVAL = 5.0  # seconds between two writes to the store: each costs as much as 10 training steps
SLIDES = "images"  # MLflow's folder of the image slider
SLIDE = (".png", "+compressed.webp")  # a step of it is an image, and a small copy
SMALL_SLIDE = (256, 256)  # pixels at most
HASTE = 5.0  # seconds: the most patience where somebody waits for the run to end
LASTING_ERRORS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")


class MlflowTracker:
    """Logs a run's events to the MLflow run `run_id`, which exists already, through a client of its own.

    What is logged is in the store within some seconds; `close` returns when all of it is. The training never
    waits: while the store takes nothing, all is kept here and tried again. What a run that went before has
    logged already is left out: an event is known by its epoch.
    """

    patience = 60.0  # seconds that `close` goes on trying a store that takes nothing

    def __init__(self, tracking_uri: str, run_id: str, config: RunConfig, data: ImageSet, title: str) -> None:
        """Begin to write: status RUNNING, every setting a param, the image set an input."""
        self._client = MlflowClient(tracking_uri)
        self._uri = tracking_uri
        self._run_id = run_id
        self._scratch = tempfile.TemporaryDirectory(prefix="gan-run-")
        self._files = RunFolder(Path(self._scratch.name), config, title)
        self._queue: SimpleQueue[tuple[Event, int]] = SimpleQueue()
        self._there = _Logged(set(), set(), {})
        self._waiting_since: float | None = None
        self._closing = threading.Event()
        self._give_up_at = math.inf
        self._error: TrackingError | None = None
        self._thread = threading.Thread(
            target=self._write_until_closed, args=(config, data), name="mlflow-writer", daemon=True
        )
        self._thread.start()

    def log(self, event: Event, at: int) -> None:
        """Hand the event of time `at` (milliseconds since 1970) to the writer.

        Raises TrackingError if the store has refused something for what it is.
        """
        if self._error:
            raise self._error
        if not isinstance(event, Reached):
            self._queue.put((event, at))

    def behind(self) -> float:
        """For how many seconds the store has not taken what it was given."""
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self, status: str, reason: str = "", trace: str = "") -> None:
        """Write what is left, then end the run as `status`: FINISHED, FAILED or KILLED.

        `reason` becomes the tag failure_reason, `trace` the artifact traceback.txt. Raises TrackingError if
        the store does not take it in time; the run is then as it was.
        """
        self._give_up_at = time.monotonic() + (
            min(HASTE, self.patience) if status == "KILLED" else self.patience
        )
        self._closing.set()
        self._thread.join()
        try:
            if self._error:
                raise self._error
            self._files.close(status, reason, trace)
            for name in (
                "losses.npz", "losses.png", "metrics.csv", "config.json", QUALITY_FILE, "traceback.txt",
            ):  # fmt: skip
                if (self._files.folder / name).exists():
                    self._upload(name)
            self._persist(lambda: end_run(self._client, self._run_id, status, reason))
        except TrackingError:
            raise
        except Exception as error:
            raise self._not_logged(error) from error
        finally:
            self._scratch.cleanup()

    def _write_until_closed(self, config: RunConfig, data: ImageSet) -> None:
        try:
            self._begin(config, data)
            while not self._closing.wait(WRITE_INTERVAL):
                self._write_waiting()
            self._write_waiting()
        except Exception as error:  # handed on to the training thread by log() and close()
            self._error = self._not_logged(error)

    def _begin(self, config: RunConfig, data: ImageSet) -> None:
        params = [Param(name, str(value)) for name, value in dataclasses.asdict(config).items()]
        source = json.dumps({"source": data.source})
        profile = json.dumps({"images": len(data.images), "shape": list(data.images.shape[1:])})
        dataset = Dataset(data.name, data.digest, "local", source, profile=profile)
        self._persist(self._look_what_is_there)
        self._persist(lambda: self._client.update_run(self._run_id, status="RUNNING"))
        self._persist(lambda: self._client.log_batch(self._run_id, params=params))
        self._persist(lambda: self._client.log_inputs(self._run_id, [DatasetInput(dataset)]))

    def _look_what_is_there(self) -> None:
        run = self._client.get_run(self._run_id)
        if run.info.status == "SCHEDULED":
            return  # nobody has begun it
        points = {
            (name, point.step)
            for name in run.data.metrics
            for point in self._client.get_metric_history(self._run_id, name)
        }
        sheets = {file.path for file in self._client.list_artifacts(self._run_id, "samples")}
        slides: dict[int, list[str]] = {}
        for file in self._client.list_artifacts(self._run_id, SLIDES):
            slides.setdefault(_slide_step(file.path), []).append(file.path)
        self._there = _Logged(points, sheets, slides)
        if "failure_reason" in run.data.tags:
            self._client.delete_tag(self._run_id, "failure_reason")

    def _write_waiting(self) -> None:
        """Write all that has come since the last write: its metrics as one batch, then its files."""
        waiting: list[tuple[Event, int]] = []
        try:
            while True:
                waiting.append(self._queue.get_nowait())
        except Empty:
            pass
        metrics = [
            Metric(name, value, at, event.epoch)
            for event, at in waiting
            if isinstance(event, EpochEnd | Evaluated)
            for name, value in event.metrics().items()
            if (name, event.epoch) not in self._there.points
        ]
        if metrics:
            self._persist(lambda: self._client.log_batch(self._run_id, metrics=metrics))
        for event, at in waiting:
            self._files.log(event)
            match event:
                case Samples(epoch):
                    self._log_sheet(epoch, at)
                case Trained():
                    self._upload(GENERATOR_FILE)
                case Baselines():
                    self._tag(
                        {
                            "quality.classifier": event.classifier,
                            "quality.classifier_accuracy": str(event.classifier_accuracy),
                            "quality.n": str(event.n),
                            "quality.real_baseline": json.dumps(event.real_baseline),
                            "quality.untrained_baseline": json.dumps(event.untrained_baseline),
                        }
                    )
                case Diagnosis(health, reason):
                    self._tag({"health": health, "health_reason": reason})

    def _tag(self, values: dict[str, str]) -> None:
        tags = [RunTag(key, value) for key, value in values.items()]
        self._persist(lambda: self._client.log_batch(self._run_id, tags=tags))

    def _log_sheet(self, epoch: int, at: int) -> None:
        """As a file under its own name, and as a step of the UI's image slider."""
        if sheet_name(epoch) not in self._there.sheets:
            self._upload(sheet_name(epoch))
        there = self._there.slides.get(epoch, [])
        if len(there) == len(SLIDE):
            return
        # MLflow's log_image, tried again after the first of its two files, would give the step another image.
        stem = f"{SLIDES}/samples+step+{epoch}+timestamp+{at}+{uuid4()}"
        if there:
            stem = there[0].removesuffix(SLIDE[0]).removesuffix(SLIDE[1])
        with Image.open(self._files.folder / sheet_name(epoch)) as sheet:
            sheet.load()
        for ending in SLIDE:
            path = self._files.folder / f"{stem}{ending}"
            path.parent.mkdir(exist_ok=True)
            sheet.save(path)
            self._upload(f"{stem}{ending}")
            path.unlink()
            sheet.thumbnail(SMALL_SLIDE)
        self._tag({MLFLOW_LOGGED_IMAGES: "True"})

    def _upload(self, name: str) -> None:
        folder = str(Path(name).parent) if "/" in name else None
        path = str(self._files.folder / name)
        self._persist(lambda: self._client.log_artifact(self._run_id, path, folder))

    def _persist(self, write: Callable[[], object]) -> None:
        """Try until the store takes it: SQLite may be locked by other writers, a server may restart.

        To write the same twice is harmless: a metric's point is known by its key, step, time and value.
        """
        for attempt in Retrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_random_exponential(multiplier=0.2, max=10),
            stop=lambda _: time.monotonic() > self._give_up_at,
            sleep=self._sleep,
            reraise=True,
        ):
            with attempt:
                self._waiting_since = self._waiting_since or time.monotonic()
                write()
                self._waiting_since = None

    def _not_logged(self, error: BaseException) -> TrackingError:
        return TrackingError(
            f"logging to the store failed: {type(error).__name__}: {brief(error, self._uri)}"
        )

    def _sleep(self, seconds: float) -> None:
        if self._closing.is_set():
            time.sleep(min(seconds, 1.0))
        else:
            self._closing.wait(seconds)


class _Logged(NamedTuple):
    """What a run has in the store when it is taken up again."""

    points: Collection[tuple[str, int]]  # metric and step
    sheets: Collection[str]  # paths
    slides: Mapping[int, list[str]]  # paths of the image slider's files, by step


def _slide_step(path: str) -> int:
    """MLflow names an image of the slider <key>+step+<step>+timestamp+…; % stood for + in older versions."""
    found = re.search(r"[+%]step[+%](\d+)[+%]", path)
    return int(found[1]) if found else -1


def _may_pass(error: BaseException) -> bool:
    """Whether a failed write may succeed later: all but what the store refuses for what it is."""
    if isinstance(error, MlflowException):
        return error.error_code not in LASTING_ERRORS
    from sqlalchemy.exc import OperationalError  # MLflow passes it on where it comes while a store is opened

    return isinstance(error, OSError | OperationalError)
