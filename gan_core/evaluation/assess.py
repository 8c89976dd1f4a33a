"""A run's events, and among them how good its G is: evaluations now and then, at the end its health."""

import math
import time
from collections.abc import Iterator, Sequence

from torch import Tensor

from gan_core.config import EvaluationSchedule, RunConfig
from gan_core.errors import NonFiniteLossError
from gan_core.evaluation.baselines import Reference, evaluate
from gan_core.evaluation.health import Diagnosis, diagnose, pixel_spread
from gan_core.events import Baselines, EpochEnd, Evaluated, Event, Reached, Samples, Trained, TrainState
from gan_core.networks import Generator
from gan_core.training import fixed_noise, generate, train


def train_assessed(
    config: RunConfig,
    images: Tensor,
    reference: Reference,
    assessment: EvaluationSchedule,
    resume: tuple[TrainState, Sequence[EpochEnd]] | None = None,
) -> Iterator[Event]:
    """`train`'s events, a Baselines before them, and among them what is found out.

    Evaluated follows the Reached of each epoch that is due, with QUICK_SCORES, and of the last one, with all
    scores and the run's Diagnosis after it. A run that is ended early has all events of an end as well. Where
    training cannot go on (NonFiniteLossError), the Diagnosis comes before the exception. `resume`: a state
    that a Reached gave, which is the first event then, and the EpochEnds up to it.
    """
    z_fixed = fixed_noise(config.z_dim)
    state, ends = resume or (None, [])
    history = [end.metrics() for end in ends]
    if state is None:
        yield _yardstick(reference)
    else:
        end = ends[-1]
    try:
        for event in train(config, images, state):
            yield event
            if isinstance(event, EpochEnd):
                end = event
                history.append(end.metrics())
            if not isinstance(event, Reached):
                continue
            G = event.generator
            last = end.epoch == config.epochs
            if last or assessment.stop_dead:
                spread = pixel_spread(generate(G, z_fixed))
            dead = assessment.stop_dead and _diagnosis(history[-1:], end, spread).health == "collapsed"
            if last or dead:
                evaluated = _evaluated(end.epoch, G, reference)
                yield evaluated
                yield _diagnosis(history, end, spread, evaluated, reference.untrained_baseline)
            elif assessment.every and end.epoch % assessment.every == 0:
                yield _evaluated(end.epoch, G, reference, quick=True)
            if dead and not last:
                yield Samples(end.epoch, generate(G, z_fixed))
                yield Trained(G.cpu())
                return
    except NonFiniteLossError:
        yield _diagnosis(history, end, math.nan)
        raise


def _yardstick(reference: Reference) -> Baselines:
    record = reference.classifier.record
    return Baselines(
        reference.dataset,
        record.weights_sha256,
        record.test_accuracy,
        reference.count,
        reference.real_baseline,
        reference.untrained_baseline,
    )


def _evaluated(epoch: int, G: Generator, reference: Reference, quick: bool = False) -> Evaluated:
    started = time.perf_counter()
    evaluation = evaluate(G, reference, quick)
    return Evaluated(epoch, evaluation, time.perf_counter() - started)


def _diagnosis(
    history: list[dict[str, float]],
    end: EpochEnd,
    spread: float,
    evaluated: Evaluated | None = None,
    untrained_baseline: dict[str, float] | None = None,
) -> Diagnosis:
    losses = end.discriminator_losses, end.generator_losses
    return diagnose(history, losses, spread, evaluated.evaluation if evaluated else None, untrained_baseline)
