"""One run from its first event to its end, with its record kept, however it ends."""

import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from gan_core.checkpoint import Checkpoint, CheckpointFolder, Entry, Told
from gan_core.config import EvaluationSchedule, RunConfig
from gan_core.data import ImageSet
from gan_core.errors import TrackingError, UserError
from gan_core.evaluation.assess import train_assessed
from gan_core.evaluation.baselines import Reference
from gan_core.evaluation.health import Diagnosis
from gan_core.events import EpochEnd, Event, Reached, TrainState
from gan_core.live import Progress

TRACEBACK_LINES = 40
SNAPSHOT_INTERVAL = 1.0  # seconds: an epoch of a small image set is shorter than a checkpoint's writing


@dataclass(frozen=True)
class Job:
    """What a run needs to begin."""

    name: str
    config: RunConfig
    data: ImageSet
    reference: Reference
    assessment: EvaluationSchedule
    checkpoints: CheckpointFolder | None = None
    checkpoint_every: int = 10  # epochs


class Tracker(Protocol):
    """Keeps the record of one run."""

    def log(self, event: Event, at: int) -> None:
        """Keep what the event brings; it was at `at`, in milliseconds since 1970."""

    def behind(self) -> float:
        """For how many seconds something has been waiting to be kept."""

    def close(self, status: str, reason: str = "", trace: str = "") -> None:
        """Complete the record: the run ended as `status`."""


class Observer(Protocol):
    """Who watches a run while it trains."""

    def update(self, progress: Progress) -> None:
        """An epoch has ended."""

    def say(self, text: str) -> None:
        """Something that a person should know."""

    def should_stop(self) -> bool:
        """Whether the run is to end, interrupted; asked after each epoch."""


class Outcome(NamedTuple):
    """How a run ended, why if it failed, and its health where that was found out.

    UNLOGGED: trained to its end, or to its failure, but the store did not take all of its record.
    """

    status: Literal["FINISHED", "FAILED", "KILLED", "UNLOGGED"]
    reason: str = ""
    health: str = ""


def run(job: Job, tracker: Tracker, observer: Observer) -> Outcome:
    """Train from the last checkpoint, evaluate, keep the record, and say how it ended.

    A run that breaks is an outcome, not an exception: its reason and traceback go into the record. An
    interruption (KeyboardInterrupt) closes the record as KILLED, its checkpoint kept, and is raised again; so
    is a UserError, with the record closed as FAILED.
    """
    health = ""
    keeper = _Keeper(job)
    try:
        for event, at in keeper.events(observer):
            tracker.log(event, at)
            if isinstance(event, EpochEnd) and event.epoch > keeper.resumed:
                observer.update(_progress(job, event, keeper.resumed, tracker.behind()))
            elif isinstance(event, Diagnosis):
                health = event.health
            elif isinstance(event, Reached) and observer.should_stop():
                keeper.save()
                return _close(tracker, Outcome("KILLED", "interrupted", health))
    except TrackingError as error:
        with suppress(TrackingError, OSError):
            tracker.close("FAILED")
        return Outcome("FAILED", str(error), health)
    except UserError as error:
        _close(tracker, Outcome("FAILED", str(error), health))
        raise
    except Exception as error:
        trace = "".join(traceback.format_exc().splitlines(keepends=True)[-TRACEBACK_LINES:])
        return _close(tracker, Outcome("FAILED", f"{type(error).__name__}: {error}", health), trace)
    except BaseException:
        # The next start of any command sees that the process is gone, whatever cannot be written here.
        with suppress(OSError):
            keeper.save()
        with suppress(TrackingError, OSError):
            tracker.close("KILLED", "interrupted")
        raise
    outcome = _close(tracker, Outcome("FINISHED", health=health))
    if job.checkpoints and outcome.status == "FINISHED":
        job.checkpoints.prune(1)  # from which a longer run goes on
    return outcome


class _Keeper:
    """The events of a run, from its last checkpoint on, and its next checkpoints."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._told: list[Entry] = []
        self._snapshot: tuple[TrainState, int] | None = None  # and how many entries of _told are before it
        self._snapshot_at = time.monotonic()
        self._epoch = 0  # the last that has ended
        self._saved = 0  # epoch
        self.resumed = 0  # after which epoch the training goes on

    def events(self, observer: Observer) -> Iterator[tuple[Event, int]]:
        """Every event of the run with its time, those before the checkpoint as they were told then."""
        job, resume = self._job, None
        if job.checkpoints and (checkpoint := job.checkpoints.load(observer.say)):
            self._told = checkpoint.told
            self.resumed = self._saved = self._epoch = checkpoint.state.epoch
            resume = checkpoint.state, checkpoint.ends
            observer.say(f"goes on after epoch {self.resumed}")
            yield from list(self._told)
        for event in train_assessed(job.config, job.data.images, job.reference, job.assessment, resume):
            at = time.time_ns() // 1_000_000
            if isinstance(event, Told):
                self._told.append(Entry(event, at))
            if isinstance(event, EpochEnd):
                self._epoch = event.epoch
            elif isinstance(event, Reached):
                self._reached(event)
            yield event, at

    def save(self) -> None:
        """Write the last snapshot if the disk has none as new. Raises OSError."""
        if self._job.checkpoints and self._snapshot and self._snapshot[0].epoch > self._saved:
            state, told = self._snapshot
            self._job.checkpoints.save(Checkpoint(state, self._told[:told]))
            self._saved = state.epoch

    def _reached(self, event: Reached) -> None:
        last = self._epoch == self._job.config.epochs
        if not last and time.monotonic() - self._snapshot_at < SNAPSHOT_INTERVAL:
            return
        self._snapshot, self._snapshot_at = (event.state(), len(self._told)), time.monotonic()
        if last or self._epoch - self._saved >= self._job.checkpoint_every:
            self.save()


def _close(tracker: Tracker, outcome: Outcome, trace: str = "") -> Outcome:
    try:
        tracker.close(outcome.status, outcome.reason, trace)
    except (TrackingError, OSError) as error:
        return Outcome("UNLOGGED", "; ".join(filter(None, [outcome.reason, str(error)])), outcome.health)
    return outcome


def _progress(job: Job, event: EpochEnd, resumed: int, behind: float) -> Progress:
    metrics = event.metrics()
    return Progress(
        job.name,
        event.epoch,
        job.config.epochs,
        metrics["loss/discriminator"],
        metrics["loss/generator"],
        metrics["time/images_per_second"],
        resumed,
        behind,
    )
