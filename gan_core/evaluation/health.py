"""The health of a run: one word, the evidence, and the epoch since which it holds.

The thresholds lie between the values of real runs on MNIST, which docs/quality.md lists. SGD at 0.3 and Adam
at 0.03 break within the first epoch. SGD at 0.03 and 0.1 learns. Adam at 2e-4 makes one blurred picture for
ten epochs and more. Adam at 3e-3 has a D that wins. SGD at 1e-3 still makes noise after three epochs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gan_core import metric_names as names
from gan_core.evaluation.scores import Evaluation
from gan_core.events import Diagnosis, EpochEnd, Evaluated
from gan_core.losses import OBJECTIVES, Objective

# Half of the loss's clamp at 100. Broken runs have a mean of 98 or more in an epoch, others 10 or less.
PINNED_LOSS = 50.0
# Within an epoch, the losses of broken runs deviate by as little as 0, those of others by 0.006 or more.
FROZEN_STD = 1e-5
# In units of a pixel's range. Real digits have 0.18, the worst blur that still changes 0.037, one picture 0.0003.
ONE_PICTURE = 0.005
# A share of an untrained G's distance. Noise after three epochs has 0.88 and 0.96, SGD at 0.03 0.81 after one.
NO_NEARER = 0.85
# Precision. Noise has 0.1 to 0.4; even a single blurred digit has 0.6, because it lies near some real image.
UNLIKE_DIGITS = 0.5
# A class's part of an equal share, or of its own in the data if that is less. SGD at 0.03 has 0.1 or more of an equal
# share, which is 0.1, from its second epoch on.
MISSING_PART = 0.05
# Both are low where G makes few pictures. After two epochs SGD at 0.03 has 0.001 and 0.033.
LOW_RECALL, LOW_COVERAGE = 0.01, 0.025

LOSSES = {"discriminator": names.LOSS_D, "generator": names.LOSS_G}


class Standard(NamedTuple):
    """What a run is compared with."""

    untrained_baseline: Mapping[str, float] | None = None  # scores by name
    class_shares: NDArray[np.float64] | None = None  # of the real images; None: equal ones
    objective: str = "non-saturating"


USUAL = Standard()
History = Sequence[Mapping[str, float]]


def pixel_spread(images: Tensor) -> float:
    """How much images of different z differ: a pixel's standard deviation over the images, mean over pixels.

    images: uint8, N×C×H×W, N 2 or more, as in a run's sample sheet. The result is in units of a pixel's
    range, 0..1.
    """
    return float(images.double().div(255).std(dim=0).mean())


def diagnose(
    ends: Sequence[EpochEnd],
    spread: float,
    evaluation: Evaluation | Evaluated | None = None,
    standard: Standard = USUAL,
) -> Diagnosis:
    """The run's health: the first of these that holds.

    - diverged: a loss is infinite or not a number;
    - collapsed: a loss stays near its clamp, or no loss changes any more, or G makes one picture;
    - not-learning: the images are as far from real ones as an untrained G's, and unlike them;
    - mode-collapsed: classes are missing, or the images cover next to none of the real ones;
    - d-dominant: D is nearly certain of every image, where the objective says what that is;
    - ok.

    ends: of each epoch, at least one (else ValueError). spread: `pixel_spread` of the last sample sheet. Without an
    evaluation a run cannot be mode-collapsed; without it and an untrained baseline it cannot be not-learning.
    """
    if not ends:
        raise ValueError("a run of no epoch has no health")
    history = [end.metrics() for end in ends]
    objective = OBJECTIVES[standard.objective]
    signs = chain(
        _broken(history, ends[-1], spread, objective),
        _poor(history, evaluation, standard) if evaluation else (),
        _d_dominant(history, objective),
        [Diagnosis("ok", _figures(history), 1)],
    )
    return next(signs)


def _broken(history: History, end: EpochEnd, spread: float, objective: Objective) -> Iterator[Diagnosis]:
    """Diverged, or collapsed."""
    for epoch, metrics in enumerate(history, start=1):
        for name, metric in LOSSES.items():
            if not math.isfinite(loss := metrics[metric]):
                yield Diagnosis("diverged", f"the loss of the {name} is {loss} in epoch {epoch}", epoch)
    last, last_losses = len(history), (end.discriminator_losses, end.generator_losses)
    # A loss without a clamp can be large.
    for (name, metric), losses in zip(LOSSES.items(), last_losses, strict=True) if objective.probability else ():
        # A run can break at the end of its last epoch, whose mean does not show it.
        tail = float(np.median(losses[-max(1, len(losses) // 10) :]))
        since = _since([metrics[metric] > PINNED_LOSS for metrics in history])
        if since or tail > PINNED_LOSS:
            epoch = since or last
            reason = f"the loss of the {name} is pinned at {tail:.4g} since epoch {epoch}"
            if epoch == last:
                first = int((losses > PINNED_LOSS).argmax()) + 1
                reason += f", first in iteration {first} of {len(losses)}"
            yield Diagnosis("collapsed", f"{reason}: no gradient is left", epoch)
    frozen = [max(metrics[names.LOSS_STD_D], metrics[names.LOSS_STD_G]) < FROZEN_STD for metrics in history]
    # An epoch of one iteration has no standard deviation.
    if len(last_losses[0]) > 1 and (epoch := _since(frozen)):
        D_loss, G_loss = history[-1][names.LOSS_D], history[-1][names.LOSS_G]
        reason = f"no step changes a loss since epoch {epoch}: {D_loss:.4g} of D, {G_loss:.4g} of G throughout"
        yield Diagnosis("collapsed", reason, epoch)
    if spread < ONE_PICTURE:
        reason = f"G makes one picture whatever z is: a pixel's standard deviation is {spread:.2g} of its range"
        yield Diagnosis("collapsed", f"{reason} after epoch {last}", last)


def _poor(history: History, evaluation: Evaluation | Evaluated, standard: Standard) -> Iterator[Diagnosis]:
    """Not learning, or mode-collapsed: what the evaluation after the last epoch shows."""
    last, scores, shares = len(history), evaluation.scores, evaluation.class_shares
    distance, precision = scores[names.FD], scores[names.PRECISION]
    untrained = standard.untrained_baseline[names.FD] if standard.untrained_baseline else math.inf
    if distance >= NO_NEARER * untrained and precision < UNLIKE_DIGITS:
        reason = f"Fréchet distance {distance:.3g} after epoch {last}, {untrained:.3g} untrained"
        yield Diagnosis("not-learning", f"{reason}; {precision:.0%} of the images lie near a real one", last)
    own = np.inf if standard.class_shares is None else MISSING_PART * standard.class_shares
    missing = [str(label) for label in np.flatnonzero(shares < np.minimum(MISSING_PART / len(shares), own))]
    recall, coverage = scores[names.RECALL], scores[names.COVERAGE]
    if missing or (recall < LOW_RECALL and coverage < LOW_COVERAGE):
        evidence = [
            *([f"{'class' if len(missing) == 1 else 'classes'} {', '.join(missing)} missing"] if missing else []),
            f"{shares.max():.0%} of the images are of class {shares.argmax()}",
            f"recall {recall:.3f}, coverage {coverage:.3f} after epoch {last}",
            *(f"also, {dominance.reason}" for dominance in _d_dominant(history, OBJECTIVES[standard.objective])),
        ]
        yield Diagnosis("mode-collapsed", "; ".join(evidence), last)


def _d_dominant(history: History, objective: Objective) -> Iterator[Diagnosis]:
    if objective.certain is None:
        return
    certain_real, certain_fake = objective.certain
    scores = [(metrics[names.SCORE_REAL], metrics[names.SCORE_FAKE]) for metrics in history]
    if epoch := _since([real > certain_real and fake < certain_fake for real, fake in scores]):
        reason = f"D is nearly certain of every image since epoch {epoch}: {_figures(history)}"
        yield Diagnosis("d-dominant", reason, epoch)


def _figures(history: History) -> str:
    last = history[-1]
    return (
        f"D gives real images {last[names.SCORE_REAL]:.2f} and generated ones {last[names.SCORE_FAKE]:.2f}, losses "
        f"{last[names.LOSS_D]:.3g} and {last[names.LOSS_G]:.3g} in epoch {len(history)}"
    )


def _since(holds: Sequence[bool]) -> int:
    """The first epoch (1-based) of those at the end in which it holds; 0 if it does not in the last."""
    epochs = len(list(takewhile(bool, reversed(holds))))
    return len(holds) - epochs + 1 if epochs else 0
