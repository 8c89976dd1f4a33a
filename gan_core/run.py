"""One run from its first event to its end, with its record kept, however it ends."""

import traceback
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from gan_core.assess import train_assessed
from gan_core.assessment import Assessment
from gan_core.config import RunConfig
from gan_core.data import ImageSet
from gan_core.errors import TrackingError
from gan_core.events import EpochEnd, Event
from gan_core.live import Progress
from gan_core.quality.health import Diagnosis
from gan_core.quality.reference import Reference

TRACEBACK_LINES = 40


class Tracker(Protocol):
    """Keeps the record of one run."""

    def log(self, event: Event) -> None:
        """Keep what the event brings."""

    def close(self, status: str, reason: str = "", trace: str = "") -> None:
        """Complete the record: the run ended as `status`."""


class Outcome(NamedTuple):
    """How a run ended, why if it failed, and its health where that was found out."""

    status: Literal["FINISHED", "FAILED"]
    reason: str = ""
    health: str = ""


def run(  # noqa: PLR0913 (what a run needs)
    name: str,
    config: RunConfig,
    data: ImageSet,
    tracker: Tracker,
    on_epoch: Callable[[Progress], None],
    reference: Reference,
    assessment: Assessment,
) -> Outcome:
    """Train, evaluate, keep the record, and say how it ended.

    A run that breaks is an outcome, not an exception: its reason and traceback go into the record. An
    interruption (KeyboardInterrupt) closes the record as KILLED and is raised again.
    """
    health = ""
    try:
        for event in train_assessed(config, data.images, reference, assessment):
            tracker.log(event)
            if isinstance(event, EpochEnd):
                on_epoch(_progress(name, config, event))
            elif isinstance(event, Diagnosis):
                health = event.health
    except TrackingError as error:
        return Outcome("FAILED", str(error), health)
    except Exception as error:
        trace = "".join(traceback.format_exc().splitlines(keepends=True)[-TRACEBACK_LINES:])
        return _close(tracker, Outcome("FAILED", f"{type(error).__name__}: {error}", health), trace)
    except BaseException:
        tracker.close("KILLED")
        raise
    return _close(tracker, Outcome("FINISHED", health=health))


def _close(tracker: Tracker, outcome: Outcome, trace: str = "") -> Outcome:
    try:
        tracker.close(outcome.status, outcome.reason, trace)
    except TrackingError as error:
        return Outcome("FAILED", str(error), outcome.health)
    return outcome


def _progress(name: str, config: RunConfig, event: EpochEnd) -> Progress:
    metrics = event.metrics()
    return Progress(
        name,
        event.epoch,
        config.epochs,
        metrics["loss/discriminator"],
        metrics["loss/generator"],
        metrics["time/images_per_second"],
    )
