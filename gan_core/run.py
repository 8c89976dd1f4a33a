"""One run from its checkpoint to its end: trained, evaluated, its record kept, however it ends."""

import math
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol

from gan_core.checkpoint import Checkpoint, CheckpointFolder, RecordedEvent, TimedEvent
from gan_core.config import RunConfig, RunOptions
from gan_core.data import ImageSet
from gan_core.errors import NonFiniteLossError, TrackingError, UserError
from gan_core.evaluation.baselines import Reference, evaluate
from gan_core.evaluation.health import Standard, diagnose, pixel_spread
from gan_core.events import Diagnosis, EpochEnd, Evaluated, Event, Machine, Progress, Reached, Samples, Trained
from gan_core.machine import kind_of_machine, least_step_seconds
from gan_core.metric_names import IMAGES_PER_SECOND, LOSS_D, LOSS_G
from gan_core.networks import Generator, generate
from gan_core.training import fixed_noise, train

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
    until: int | None = None  # the epoch after which it pauses, with its checkpoint kept; None: it goes to its end
    rungs: Collection[int] = ()  # epochs after which it is evaluated, beside those of its options

    @property
    def goal(self) -> int:
        """The last epoch that is trained now."""
        return min(self.until or self.config.epochs, self.config.epochs)


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

    def say(self, run: str, text: str) -> None:
        """Something that a person should know of the run."""

    def should_stop(self) -> bool:
        """Whether the run is to end, interrupted; asked after each epoch."""


class Outcome(NamedTuple):
    """How a run ended, why if it failed, and its health where that was found out.

    PAUSED: trained as far as it was asked for, and it can go on. UNLOGGED: trained to its end, or to its failure,
    but the store did not take all of its record.
    """

    status: Literal["FINISHED", "PAUSED", "FAILED", "KILLED", "UNLOGGED"]
    reason: str = ""
    health: str = ""


def run(job: Job, tracker: Tracker, observer: Observer) -> Outcome:
    """Train from the last checkpoint, evaluate, keep the record, and say how it ended.

    A run that breaks is an outcome, not an exception: its reason and traceback go into the record. An
    interruption (KeyboardInterrupt) closes the record as KILLED, its checkpoint kept, and is raised again; so
    is a UserError, with the record closed as FAILED.
    """
    health = ""
    snapshots = _Snapshots(job)
    try:
        last = job.checkpoints.load(partial(observer.say, job.name)) if job.checkpoints else None
        resumed = last.state.epoch if last else 0
        if last:
            _resume(last, snapshots, tracker, partial(observer.say, job.name), quietly=job.until is not None)
        for event in evaluated_training(job, last):
            at = time.time_ns() // 1_000_000
            snapshots.add(event, at)
            tracker.log(event, at)
            if isinstance(event, EpochEnd):
                metrics = event.metrics()
                figures = metrics[LOSS_D], metrics[LOSS_G], metrics[IMAGES_PER_SECOND]
                observer.update(Progress(job.name, event.epoch, job.goal, *figures, resumed, tracker.behind()))
            elif isinstance(event, Diagnosis):
                health = event.health
            elif isinstance(event, Reached) and observer.should_stop():
                snapshots.save()
                return _close(tracker, Outcome("KILLED", "interrupted", health))
    except TrackingError as error:
        _close(tracker, Outcome("FAILED"))
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
            snapshots.save()
        _close(tracker, Outcome("KILLED", "interrupted"))
        raise
    # A run that is dead has ended early, and has a diagnosis.
    paused = job.goal < job.config.epochs and not health
    outcome = _close(tracker, Outcome("PAUSED") if paused else Outcome("FINISHED", health=health))
    if job.checkpoints and outcome.status == "FINISHED":
        job.checkpoints.prune(1)  # from which a longer run resumes
    return outcome


def _resume(
    last: Checkpoint, snapshots: "_Snapshots", tracker: Tracker, say: Callable[[str], object], quietly: bool
) -> None:
    """Log what the checkpoint has; quietly: a race pauses and resumes its runs all the time."""
    if not quietly and last.state.epoch:
        say(f"goes on after epoch {last.state.epoch}")
    if last.machine not in (None, here := kind_of_machine()):
        say(f"now trains on another kind of machine ({here}; before: {last.machine})")
    snapshots.resume(last)
    for entry in last.events:
        tracker.log(*entry)


class _Snapshots:
    """A run's state now and then, and its events so far; what is due of them becomes checkpoints."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._so_far: list[TimedEvent] = []
        self._newest: Checkpoint | None = None
        self._taken = time.monotonic()
        self._saved = 0  # the epoch of the newest checkpoint

    def resume(self, last: Checkpoint) -> None:
        self._so_far = list(last.events)
        self._saved = last.state.epoch

    def add(self, event: Event, at: int) -> None:
        """Keep an event; at Reached, take a snapshot and save it, where either is due. Raises OSError."""
        if isinstance(event, RecordedEvent):
            self._so_far.append(TimedEvent(event, at))
        if not isinstance(event, Reached):
            return
        last = event.epoch >= self._job.goal
        if last or time.monotonic() - self._taken >= SNAPSHOT_INTERVAL:
            self._newest = Checkpoint(event.state(), list(self._so_far))
            self._taken = time.monotonic()
            if last or event.epoch - self._saved >= self._job.options.checkpoint_every:
                self.save()

    def save(self) -> None:
        """Write the newest snapshot unless it is written already. Raises OSError."""
        if self._job.checkpoints and self._newest and self._newest.state.epoch > self._saved:
            self._job.checkpoints.save(self._newest)
            self._saved = self._newest.state.epoch


def evaluated_training(job: Job, resume: Checkpoint | None = None) -> Iterator[Event]:
    """The events of `train`, a Baselines before them, and among them how good G is.

    Evaluated follows the Reached of each epoch that is due, with QUICK_SCORES, and of the last one, with all
    scores and the run's Diagnosis after it. Machine follows the first EpochEnd on another kind of machine than
    `resume` had. A run that is ended early has all events of an end as well; one that is to pause ends after the
    evaluation of that epoch. Where training cannot go on (NonFiniteLossError), the Diagnosis comes before the
    exception. With `resume`, the first event is the Reached of its epoch.
    """
    config, options, reference = job.config, job.options, job.reference
    ends = resume.epoch_ends if resume else []
    standard = Standard(reference.baselines.untrained_baseline, reference.real.shares.numpy(), config.objective)
    machine = kind_of_machine()
    moved = not resume or resume.machine != machine
    if not resume:
        yield reference.baselines
    try:
        for event in train(config, job.data.images, resume.state if resume else None):
            yield event
            if isinstance(event, EpochEnd):
                ends.append(event)
                if moved:
                    step = event.seconds / len(event.generator_losses)
                    # Measured now, as busy as the machine was in that epoch: earlier, other workers still start.
                    least = least_step_seconds(config)
                    yield Machine(event.epoch, machine, step / least if least else None)
                    moved = False
            if not isinstance(event, Reached):
                continue
            G, epoch = event.generator, event.epoch
            last = epoch == config.epochs
            if last or options.stop_dead:
                sheet = generate(G, fixed_noise(config.z_dim))
                spread = pixel_spread(sheet)
                if last or diagnose(ends[-1:], spread, None, standard).health == "collapsed":
                    evaluated = _evaluated(epoch, G, reference)
                    yield evaluated
                    yield diagnose(ends, spread, evaluated, standard)
                    if last:
                        continue
                    yield Samples(epoch, sheet)
                    yield Trained(G.cpu())
                    return
            if epoch in job.rungs or (options.evaluate_every and epoch % options.evaluate_every == 0):
                yield _evaluated(epoch, G, reference, quick=True)
            if epoch >= job.goal:
                return
    except NonFiniteLossError:
        yield diagnose(ends, math.nan, None, standard)
        raise


def _evaluated(epoch: int, G: Generator, reference: Reference, quick: bool = False) -> Evaluated:
    started = time.perf_counter()
    found = evaluate(G, reference, quick)
    return Evaluated(epoch, found.scores, found.class_shares, time.perf_counter() - started)


def _close(tracker: Tracker, outcome: Outcome, trace: str = "") -> Outcome:
    try:
        tracker.close(outcome.status, outcome.reason, trace)
    except (TrackingError, OSError) as error:
        return Outcome("UNLOGGED", "; ".join(filter(None, [outcome.reason, str(error)])), outcome.health)
    return outcome
