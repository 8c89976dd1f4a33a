"""One run from its checkpoint to its end: trained, evaluated, its record kept, however it ends."""

import math
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from gan_core.checkpoint import Checkpoint, CheckpointFolder, RecordedEvent, TimedEvent
from gan_core.config import RunConfig, RunOptions
from gan_core.data import ImageSet
from gan_core.errors import NonFiniteLossError, TrackingError, UserError
from gan_core.evaluation.baselines import Reference, evaluate
from gan_core.evaluation.health import diagnose, pixel_spread
from gan_core.events import (
    Diagnosis,
    EpochEnd,
    Evaluated,
    Event,
    Progress,
    Reached,
    Samples,
    Trained,
)
from gan_core.metric_names import IMAGES_PER_SECOND, LOSS_D, LOSS_G
from gan_core.networks import Generator
from gan_core.training import fixed_noise, generate, train

TRACEBACK_LINES = 40
SNAPSHOT_INTERVAL = 1.0  # seconds: an epoch of a small image set is shorter than a checkpoint's writing


@dataclass(frozen=True)
class Job:
    """What a run needs to begin."""

    name: str
    config: RunConfig
    data: ImageSet
    reference: Reference
    options: RunOptions
    checkpoints: CheckpointFolder | None = None


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
    resumable = _ResumableRun(job)
    try:
        for event, at in resumable.events(observer):
            tracker.log(event, at)
            if isinstance(event, EpochEnd) and event.epoch > resumable.resumed:
                observer.update(_progress(job, event, resumable.resumed, tracker.behind()))
            elif isinstance(event, Diagnosis):
                health = event.health
            elif isinstance(event, Reached) and observer.should_stop():
                resumable.save()
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
        # Whatever cannot be written here, the next command sees that the process is gone.
        with suppress(OSError):
            resumable.save()
        with suppress(TrackingError, OSError):
            tracker.close("KILLED", "interrupted")
        raise
    outcome = _close(tracker, Outcome("FINISHED", health=health))
    if job.checkpoints and outcome.status == "FINISHED":
        job.checkpoints.prune(1)  # from which a longer run resumes
    return outcome


class _ResumableRun:
    """The events of a run, those before its last checkpoint replayed; and its next checkpoints."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._so_far: list[TimedEvent] = []
        self._snapshot: Checkpoint | None = None
        self._snapshot_at = time.monotonic()
        self._saved = 0  # the epoch of the newest checkpoint
        self.resumed = 0  # the epoch after which the training resumed

    def events(self, observer: Observer) -> Iterator[tuple[Event, int]]:
        """Every event of the run with its time; what is replayed has the time that it had."""
        job, last = self._job, None
        if job.checkpoints and (last := job.checkpoints.load(observer.say)):
            self._so_far = last.events
            self.resumed = self._saved = last.state.epoch
            observer.say(f"goes on after epoch {self.resumed}")
            yield from list(self._so_far)
        for event in evaluated_training(job, last):
            at = time.time_ns() // 1_000_000
            if isinstance(event, RecordedEvent):
                self._so_far.append(TimedEvent(event, at))
            elif isinstance(event, Reached):
                self._reached(event)
            yield event, at

    def save(self) -> None:
        """Write the last snapshot unless it is written already. Raises OSError."""
        if self._job.checkpoints and self._snapshot and self._snapshot.state.epoch > self._saved:
            self._job.checkpoints.save(self._snapshot)
            self._saved = self._snapshot.state.epoch

    def _reached(self, event: Reached) -> None:
        last = event.epoch == self._job.config.epochs
        if not last and time.monotonic() - self._snapshot_at < SNAPSHOT_INTERVAL:
            return
        self._snapshot = Checkpoint(event.state(), list(self._so_far))
        self._snapshot_at = time.monotonic()
        if last or event.epoch - self._saved >= self._job.options.checkpoint_every:
            self.save()


def evaluated_training(job: Job, resume: Checkpoint | None = None) -> Iterator[Event]:
    """The events of `train`, a Baselines before them, and among them how good G is.

    Evaluated follows the Reached of each epoch that is due, with QUICK_SCORES, and of the last one, with all
    scores and the run's Diagnosis after it. A run that is ended early has all events of an end as well. Where
    training cannot go on (NonFiniteLossError), the Diagnosis comes before the exception. With `resume`, the
    first event is the Reached of its epoch.
    """
    config, options, reference = job.config, job.options, job.reference
    ends = resume.epoch_ends if resume else []
    if not resume:
        yield reference.baselines
    try:
        for event in train(config, job.data.images, resume.state if resume else None):
            yield event
            if isinstance(event, EpochEnd):
                ends.append(event)
            if not isinstance(event, Reached):
                continue
            G, epoch = event.generator, event.epoch
            last = epoch == config.epochs
            sheet = generate(G, fixed_noise(config.z_dim)) if last or options.stop_dead else None
            spread = pixel_spread(sheet) if sheet is not None else math.nan
            dead = options.stop_dead and _diagnosis(ends[-1:], spread).health == "collapsed"
            if last or dead:
                evaluated = _evaluated(epoch, G, reference)
                yield evaluated
                yield _diagnosis(ends, spread, evaluated, reference.baselines.untrained_baseline)
            elif options.evaluate_every and epoch % options.evaluate_every == 0:
                yield _evaluated(epoch, G, reference, quick=True)
            if dead and not last and sheet is not None:
                yield Samples(epoch, sheet)
                yield Trained(G.cpu())
                return
    except NonFiniteLossError:
        yield _diagnosis(ends, math.nan)
        raise


def _evaluated(epoch: int, G: Generator, reference: Reference, quick: bool = False) -> Evaluated:
    started = time.perf_counter()
    found = evaluate(G, reference, quick)
    return Evaluated(epoch, found.scores, found.class_shares, time.perf_counter() - started)


def _diagnosis(
    ends: Sequence[EpochEnd],
    spread: float,
    evaluated: Evaluated | None = None,
    untrained_baseline: dict[str, float] | None = None,
) -> Diagnosis:
    last_losses = ends[-1].discriminator_losses, ends[-1].generator_losses
    return diagnose([end.metrics() for end in ends], last_losses, spread, evaluated, untrained_baseline)


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
        metrics[LOSS_D],
        metrics[LOSS_G],
        metrics[IMAGES_PER_SECOND],
        resumed,
        behind,
    )
