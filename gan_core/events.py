"""What a run tells the world while it trains."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gan_core.models import Generator


@dataclass(frozen=True)
class Samples:
    """Images that G makes of the run's fixed z, after `epoch` epochs (0: untrained). N×1×28×28, uint8."""

    epoch: int
    images: Tensor


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


Event = Samples | EpochEnd | Trained
