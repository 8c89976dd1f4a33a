"""What a run tells the world while it trains."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gan_core.evaluation.health import Diagnosis
from gan_core.evaluation.scores import Evaluation
from gan_core.networks import Generator


@dataclass(frozen=True)
class Samples:
    """Images that G makes of the run's fixed z, after `epoch` epochs (0: untrained). N×1×28×28, uint8."""

    epoch: int
    images: Tensor


@dataclass(frozen=True)
class TrainState:
    """All that a training needs to go on after `epoch` epochs; its random streams follow from the config.

    Tensors on the CPU, copies: weights of G and D, and the running tensors of their optimizers, by name.
    """

    epoch: int
    weights: dict[str, Tensor]
    optimizers: dict[str, Tensor]


@dataclass(frozen=True)
class Reached:
    """Where the training stands after an epoch whose losses were finite; follows the epoch's EpochEnd.

    Both are as the epoch left them only until the next event is asked for.
    """

    generator: Generator  # live, on the run's device: to be looked at, not changed
    state: Callable[[], TrainState]  # copies all that is needed to go on from here


@dataclass(frozen=True)
class EpochEnd:
    """One epoch's figures, an element an iteration, float32.

    Losses in nats; scores are D's mean probability of 'real' over a batch, before D's update.
    """

    epoch: int  # 1-based
    discriminator_losses: NDArray[np.float32]
    generator_losses: NDArray[np.float32]
    real_scores: NDArray[np.float32]
    fake_scores: NDArray[np.float32]
    images: int  # real images seen
    seconds: float

    def metrics(self) -> dict[str, float]:
        """The epoch's metrics under the names that trackers and reports use."""
        return {
            "loss/discriminator": float(self.discriminator_losses.mean(dtype=np.float64)),
            "loss/generator": float(self.generator_losses.mean(dtype=np.float64)),
            "loss_std/discriminator": float(self.discriminator_losses.std(dtype=np.float64)),
            "loss_std/generator": float(self.generator_losses.std(dtype=np.float64)),
            "score/real": float(self.real_scores.mean(dtype=np.float64)),
            "score/fake": float(self.fake_scores.mean(dtype=np.float64)),
            "time/epoch_seconds": self.seconds,
            "time/images_per_second": self.images / self.seconds,
        }


@dataclass(frozen=True)
class Trained:
    """The last event: the generator as the last epoch left it."""

    generator: Generator


@dataclass(frozen=True)
class Baselines:
    """What the scores of an assessed run hold against; its first event."""

    dataset: str
    classifier: str  # SHA-256 of its weights
    classifier_accuracy: float  # share of the test images that it classifies right
    n: int  # images that an evaluation makes
    real_baseline: dict[str, float]  # scores of training images
    untrained_baseline: dict[str, float]  # scores of an untrained G


@dataclass(frozen=True)
class Evaluated:
    """How good G is after `epoch` epochs, and the seconds that it took to find out."""

    epoch: int
    evaluation: Evaluation
    seconds: float

    def metrics(self) -> dict[str, float]:
        """The scores and the time under the names that trackers and reports use."""
        return {**self.evaluation.scores, "time/evaluation_seconds": self.seconds}


Event = Samples | EpochEnd | Reached | Trained | Baselines | Evaluated | Diagnosis
