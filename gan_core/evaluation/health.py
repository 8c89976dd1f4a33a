"""The health of a run: one word, the evidence, and the epoch since which it holds.

The thresholds lie between the values of real runs on MNIST, which docs/quality.md lists. SGD at 0.3 and Adam
at 0.03 break within the first epoch. SGD at 0.03 and 0.1 learns. Adam at 2e-4 makes one blurred picture for
ten epochs and more. Adam at 3e-3 has a D that wins. SGD at 1e-3 and Adam at 1e-5 still make noise after three
epochs.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gan_core.evaluation.scores import Evaluation
from gan_core.events import Diagnosis, Evaluated
from gan_core.metric_names import (
    COVERAGE,
    FD,
    LOSS_D,
    LOSS_G,
    LOSS_STD_D,
    LOSS_STD_G,
    PRECISION,
    RECALL,
    SCORE_FAKE,
    SCORE_REAL,
)

# Half of the loss's clamp at 100. Broken runs have a mean of 98 or more in an epoch, others 10 or less.
PINNED_LOSS = 50.0
# Within an epoch, the losses of broken runs deviate by as little as 0, those of others by 0.006 or more.
FROZEN_STD = 1e-5
# In units of a pixel's range. Real digits have 0.18, an untrained G 0.10, the worst blur that still changes
# 0.037. Adam at 0.03, whose G makes one picture, has 0.0003.
ONE_PICTURE = 0.005
# D's mean probabilities of 'real'. Adam at 3e-3 has 0.95 and 0.05, SGD at 0.03 about 0.7 and 0.3.
CERTAIN_REAL, CERTAIN_FAKE = 0.9, 0.1
# A share of an untrained G's distance. Noise after three epochs has 0.88 and 0.96, SGD at 0.03 0.81 after one.
NO_NEARER = 0.85
# Precision. Noise has 0.1 to 0.4; even a single blurred digit has 0.6, because it lies near some real image.
UNLIKE_DIGITS = 0.5
# A class's share of the images; about 0.1 in the data. SGD at 0.03 has 0.01 or more from its second epoch on.
MISSING_SHARE = 0.005
# Both are low where G makes few pictures. After two epochs SGD at 0.1 has 0.000 and 0.038, SGD at 0.03 0.001
# and 0.033.
LOW_RECALL, LOW_COVERAGE = 0.01, 0.025

LOSSES = {"discriminator": LOSS_D, "generator": LOSS_G}


def pixel_spread(images: Tensor) -> float:
    """How much images of different z differ: a pixel's standard deviation over the images, mean over pixels.

    images: uint8, N×1×28×28, N 2 or more, as in a run's sample sheet. The result is in units of a pixel's
    range, 0..1.
    """
    return float(images.double().div(255).std(dim=0).mean())


def diagnose(
    history: Sequence[Mapping[str, float]],
    last_losses: tuple[NDArray[np.floating], NDArray[np.floating]],
    spread: float,
    evaluation: Evaluation | Evaluated | None = None,
    untrained_baseline: Mapping[str, float] | None = None,
) -> Diagnosis:
    """The run's health: the first of these that holds.

    - diverged: a loss is infinite or not a number;
    - collapsed: a loss stays near its clamp, or no loss changes any more, or G makes one picture;
    - not-learning: the images are as far from real ones as an untrained G's, and unlike them;
    - mode-collapsed: classes are missing, or the images cover next to none of the real ones;
    - d-dominant: D is nearly certain of every image;
    - ok.

    history: `EpochEnd.metrics()` of each epoch, at least one (else ValueError). last_losses: of D and of G in
    the last epoch, one element per iteration. spread: `pixel_spread` of the last sample sheet. Without an
    evaluation a run cannot be mode-collapsed; without it and the untrained baseline it cannot be not-learning.
    """
    if not history:
        raise ValueError("a run of no epoch has no health")
    return (
        _diverged(history)
        or _collapsed(history, last_losses, spread)
        or _not_learning(history, evaluation, untrained_baseline)
        or _mode_collapsed(history, evaluation)
        or _d_dominant(history)
        or Diagnosis("ok", _figures(history), 1)
    )


def _diverged(history: Sequence[Mapping[str, float]]) -> Diagnosis | None:
    for epoch, metrics in enumerate(history, start=1):
        for name, metric in LOSSES.items():
            loss = metrics[metric]
            if not math.isfinite(loss):
                return Diagnosis("diverged", f"the loss of the {name} is {loss} in epoch {epoch}", epoch)
    return None


def _collapsed(
    history: Sequence[Mapping[str, float]],
    last_losses: tuple[NDArray[np.floating], NDArray[np.floating]],
    spread: float,
) -> Diagnosis | None:
    last = len(history)
    for (name, metric), losses in zip(LOSSES.items(), last_losses, strict=True):
        # A run can break at the end of its last epoch, whose mean does not show it.
        tail = float(np.median(losses[-max(1, len(losses) // 10) :]))
        pinned = [metrics[metric] > PINNED_LOSS for metrics in history]
        if pinned[-1] or tail > PINNED_LOSS:
            epoch = _since(pinned) or last
            reason = f"the loss of the {name} is pinned at {tail:.4g} since epoch {epoch}"
            if epoch == last:
                first = int((losses > PINNED_LOSS).argmax()) + 1
                reason += f", first in iteration {first} of {len(losses)}"
            return Diagnosis("collapsed", f"{reason}: no gradient is left", epoch)
    frozen = [max(metrics[LOSS_STD_D], metrics[LOSS_STD_G]) < FROZEN_STD for metrics in history]
    # An epoch of one iteration has no standard deviation.
    if len(last_losses[0]) > 1 and (epoch := _since(frozen)):
        D_loss, G_loss = history[-1][LOSS_D], history[-1][LOSS_G]
        return Diagnosis(
            "collapsed",
            f"no step changes a loss since epoch {epoch}: {D_loss:.4g} of D, {G_loss:.4g} of G throughout",
            epoch,
        )
    if spread < ONE_PICTURE:
        return Diagnosis(
            "collapsed",
            f"G makes one picture whatever z is: a pixel's standard deviation is {spread:.2g} of its range "
            f"after epoch {last}",
            last,
        )
    return None


def _not_learning(
    history: Sequence[Mapping[str, float]],
    evaluation: Evaluation | Evaluated | None,
    untrained_baseline: Mapping[str, float] | None,
) -> Diagnosis | None:
    if evaluation is None or untrained_baseline is None:
        return None
    distance, precision = evaluation.scores[FD], evaluation.scores[PRECISION]
    if distance < NO_NEARER * untrained_baseline[FD] or precision >= UNLIKE_DIGITS:
        return None
    return Diagnosis(
        "not-learning",
        f"Fréchet distance {distance:.3g} after epoch {len(history)}, {untrained_baseline[FD]:.3g} untrained; "
        f"{precision:.0%} of the images lie near a real one",
        len(history),
    )


def _mode_collapsed(
    history: Sequence[Mapping[str, float]], evaluation: Evaluation | Evaluated | None
) -> Diagnosis | None:
    if evaluation is None:
        return None
    missing = [str(label) for label in np.flatnonzero(evaluation.class_shares < MISSING_SHARE)]
    recall, coverage = evaluation.scores[RECALL], evaluation.scores[COVERAGE]
    if not missing and not (recall < LOW_RECALL and coverage < LOW_COVERAGE):
        return None
    common = int(evaluation.class_shares.argmax())
    evidence = [
        f"{'class' if len(missing) == 1 else 'classes'} {', '.join(missing)} missing" if missing else "",
        f"{evaluation.class_shares[common]:.0%} of the images are of class {common}",
        f"recall {recall:.3f}, coverage {coverage:.3f} after epoch {len(history)}",
        f"also, {dominance.reason}" if (dominance := _d_dominant(history)) else "",
    ]
    return Diagnosis("mode-collapsed", "; ".join(filter(None, evidence)), len(history))


def _d_dominant(history: Sequence[Mapping[str, float]]) -> Diagnosis | None:
    epoch = _since([metrics[SCORE_REAL] > CERTAIN_REAL and metrics[SCORE_FAKE] < CERTAIN_FAKE for metrics in history])
    if not epoch:
        return None
    reason = f"D is nearly certain of every image since epoch {epoch}: {_figures(history)}"
    return Diagnosis("d-dominant", reason, epoch)


def _figures(history: Sequence[Mapping[str, float]]) -> str:
    last = history[-1]
    return (
        f"D gives real images {last[SCORE_REAL]:.2f} and generated ones {last[SCORE_FAKE]:.2f}, losses "
        f"{last[LOSS_D]:.3g} and {last[LOSS_G]:.3g} in epoch {len(history)}"
    )


def _since(holds: Sequence[bool]) -> int:
    """The first epoch (1-based) of those at the end in which it holds; 0 if it does not in the last."""
    epochs = 0
    for held in reversed(holds):
        if not held:
            break
        epochs += 1
    return len(holds) - epochs + 1 if epochs else 0
