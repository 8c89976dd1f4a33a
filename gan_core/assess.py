"""A run's events, and among them how good its G is: evaluations now and then, at the end its health."""

import math
import time
from collections.abc import Iterator

from torch import Tensor

from gan_core.assessment import Assessment
from gan_core.config import RunConfig
from gan_core.errors import NonFiniteLossError
from gan_core.events import EpochEnd, Evaluated, Event, Samples, Trained, Yardstick
from gan_core.quality.evaluate import evaluate
from gan_core.quality.health import Diagnosis, diagnose, pixel_spread
from gan_core.quality.reference import Reference
from gan_core.trainer import fixed_noise, generate, train


def train_assessed(
    config: RunConfig, images: Tensor, reference: Reference, assessment: Assessment
) -> Iterator[Event]:
    """`train`'s events, a Yardstick before them, and among them what is found out.

    Evaluated follows the EpochEnd of each epoch that is due, with QUICK_SCORES, and of the last one, with all
    scores and the run's Diagnosis after it. A run that is ended early has all events of an end as well. Where
    training cannot go on (NonFiniteLossError), the Diagnosis comes before the exception.
    """
    judge = reference.judge.record
    yield Yardstick(
        reference.dataset, judge.weights_sha256, judge.test_accuracy,
        reference.count, reference.floor, reference.ceiling,
    )  # fmt: skip
    z_fixed = fixed_noise(config.z_dim)
    history: list[dict[str, float]] = []
    try:
        for event in train(config, images):
            yield event
            if not isinstance(event, EpochEnd):
                continue
            end = event
            history.append(end.metrics())
            if not _is_finite(history[-1]):
                continue  # the trainer will raise
            last = end.epoch == config.epochs
            dead = assessment.stop_dead and _diagnosis(history[-1:], end, z_fixed).health == "collapsed"
            if last or dead:
                evaluated = _evaluated(end, reference)
                yield evaluated
                yield _diagnosis(history, end, z_fixed, evaluated, reference.ceiling)
            elif assessment.every and end.epoch % assessment.every == 0:
                yield _evaluated(end, reference, quick=True)
            if dead and not last:
                yield Samples(end.epoch, generate(end.generator, z_fixed))
                yield Trained(end.generator.cpu())
                return
    except NonFiniteLossError:
        yield _diagnosis(history, end, z_fixed)
        raise


def _is_finite(metrics: dict[str, float]) -> bool:
    return math.isfinite(metrics["loss/discriminator"]) and math.isfinite(metrics["loss/generator"])


def _evaluated(end: EpochEnd, reference: Reference, quick: bool = False) -> Evaluated:
    started = time.perf_counter()
    evaluation = evaluate(end.generator, reference, quick)
    return Evaluated(end.epoch, evaluation, time.perf_counter() - started)


def _diagnosis(
    history: list[dict[str, float]],
    end: EpochEnd,
    z_fixed: Tensor,
    evaluated: Evaluated | None = None,
    ceiling: dict[str, float] | None = None,
) -> Diagnosis:
    spread = pixel_spread(generate(end.generator, z_fixed))
    losses = end.discriminator_losses, end.generator_losses
    return diagnose(history, losses, spread, evaluated.evaluation if evaluated else None, ceiling)
