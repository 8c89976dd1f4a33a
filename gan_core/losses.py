"""What D and G minimise, by the name of the objective; another objective is one more entry.

A loss is a function of D's probabilities (N×1, float32) and returns a scalar, the mean over the batch.
PyTorch is imported where it is needed: it takes seconds, and the names are checked before any training.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Objective(NamedTuple):
    """The loss of D and the loss of G."""

    discriminator_loss: Callable[["Tensor", "Tensor"], "Tensor"]  # of D(x) and D(G(z))
    generator_loss: Callable[["Tensor"], "Tensor"]  # of D(G(z))


def discriminator_loss(p_real: "Tensor", p_fake: "Tensor") -> "Tensor":
    """−log D(x) − log(1 − D(G(z))): the cross-entropies of real images and generated ones, summed, in nats.

    Logarithms are clamped at −100 (`torch.nn.BCELoss`), so a D that is certain and wrong costs 100, not
    infinity; there the sigmoid has no gradient left: so a collapsed run shows.
    """
    return _cross_entropy(p_real, 1.0) + _cross_entropy(p_fake, 0.0)


def generator_loss(p_fake: "Tensor") -> "Tensor":
    """−log D(G(z)), in nats: what G pays where D does not take its images for real ones; clamped as D's."""
    return _cross_entropy(p_fake, 1.0)


def _cross_entropy(p: "Tensor", label: float) -> "Tensor":
    from torch.nn.functional import binary_cross_entropy

    # PyTorch raises on nan; here nan in is nan out, so that the training can say which loss broke, and when.
    return p.mean() if p.isnan().any() else binary_cross_entropy(p, p.new_full(p.shape, label))


# Goodfellow et al., "Generative Adversarial Nets", 2014, section 3: https://arxiv.org/abs/1406.2661
OBJECTIVES = {"non-saturating": Objective(discriminator_loss, generator_loss)}
