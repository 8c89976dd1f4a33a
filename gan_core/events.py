"""What happens in a run, as plain records."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gan_core import metric_names as names

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.networks import Generator


@dataclass(frozen=True)
class Samples:
    """Images that G makes of the run's fixed z, after `epoch` epochs (0: untrained). N×C×H×W, uint8."""

    epoch: int
    images: "Tensor"


@dataclass(frozen=True)
class TrainState:
    """All that a training needs to resume after `epoch` epochs; its random streams follow from the config."""

    epoch: int
    weights: dict[str, "Tensor"]  # of G and D, by name; copies, on the CPU
    optimizers: dict[str, "Tensor"]  # their running tensors, by name; copies, on the CPU


@dataclass(frozen=True)
class Reached:
    """Where the training stands after an epoch whose losses were finite; follows the epoch's EpochEnd.

    Generator and state are as the epoch left them only until the next event is asked for.
    """

    epoch: int
    generator: "Generator"  # live, on the run's device: to be looked at, not changed
    state: Callable[[], TrainState]  # copies all that is needed to resume from here


@dataclass(frozen=True)
class EpochEnd:
    """One epoch: arrays of float32 with an element per iteration.

    Losses are in the unit of the run's objective, nats by default. Scores are means over a batch before D's update,
    of D's probability of 'real' by default; losses.py says of what with other objectives.
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
            names.LOSS_D: float(self.discriminator_losses.mean(dtype=np.float64)),
            names.LOSS_G: float(self.generator_losses.mean(dtype=np.float64)),
            names.LOSS_STD_D: float(self.discriminator_losses.std(dtype=np.float64)),
            names.LOSS_STD_G: float(self.generator_losses.std(dtype=np.float64)),
            names.SCORE_REAL: float(self.real_scores.mean(dtype=np.float64)),
            names.SCORE_FAKE: float(self.fake_scores.mean(dtype=np.float64)),
            names.EPOCH_SECONDS: self.seconds,
            names.IMAGES_PER_SECOND: self.images / self.seconds,
        }


@dataclass(frozen=True)
class Trained:
    """The last event: the generator as the last epoch left it."""

    generator: "Generator"


@dataclass(frozen=True)
class Baselines:
    """What the scores of a run are compared with; the first event of a run that is evaluated."""

    dataset: str
    classifier: str  # SHA-256 of its weights
    classifier_accuracy: float  # share of the test images that it classifies right
    n: int  # images that an evaluation makes
    real_baseline: dict[str, float]  # scores of training images
    untrained_baseline: dict[str, float]  # scores of an untrained G


@dataclass(frozen=True)
class Evaluated:
    """How good G's images are after `epoch` epochs."""

    epoch: int
    scores: dict[str, float]  # by metric name
    class_shares: NDArray[np.float64]  # of the images, for each class; sum 1
    seconds: float  # that the evaluation took

    def metrics(self) -> dict[str, float]:
        """The scores and the time under the names that trackers and reports use."""
        return {**self.scores, names.EVALUATION_SECONDS: self.seconds}


@dataclass(frozen=True)
class Diagnosis:
    """A run's health, the evidence for it in one line, and the epoch (1-based) since which it holds."""

    health: Literal["ok", "collapsed", "diverged", "mode-collapsed", "d-dominant", "not-learning"]
    reason: str
    epoch: int


@dataclass(frozen=True)
class Machine:
    """The kind of machine that trains the run from this epoch on; after the first epoch that it has trained."""

    epoch: int
    kind: str  # as machine.kind_of_machine has it
    floor_ratio: float | None  # of the mean time of a step to that of its matrix products alone; None: not known

    def metrics(self) -> dict[str, float]:
        """The ratio under the name that trackers and reports use."""
        return {} if self.floor_ratio is None else {names.FLOOR_RATIO: self.floor_ratio}


Event = Samples | EpochEnd | Reached | Trained | Baselines | Evaluated | Diagnosis | Machine


@dataclass(frozen=True)
class Progress:
    """How far a run is, and the metrics of its last epoch: what a person who watches it sees."""

    run: str
    epoch: int
    epochs: int
    discriminator_loss: float
    generator_loss: float
    images_per_second: float
    resumed: int = 0  # the epoch after which this training resumed
    behind: float = 0.0  # seconds that something has been waiting to be logged
