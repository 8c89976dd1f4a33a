"""The adversarial objective of Goodfellow et al. (2014), with the non-saturating loss for G.

https://arxiv.org/abs/1406.2661. Both take D's probabilities (N×1, float32) and return a scalar in nats,
the mean over the batch. Logarithms are clamped at −100 (`torch.nn.BCELoss`), so a D that is certain and
wrong costs 100, not infinity; there the sigmoid has no gradient left: so a collapsed run shows.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy


def discriminator_loss(p_real: Tensor, p_fake: Tensor) -> Tensor:
    """−log D(x) − log(1 − D(G(z))): the cross-entropies of real images and generated ones, summed."""
    return _cross_entropy(p_real, 1.0) + _cross_entropy(p_fake, 0.0)


def generator_loss(p_fake: Tensor) -> Tensor:
    """−log D(G(z)): what G pays where D does not take its images for real ones."""
    return _cross_entropy(p_fake, 1.0)


def _cross_entropy(p: Tensor, label: float) -> Tensor:
    # PyTorch raises on nan; here nan in is nan out, so that the trainer can say which loss broke, and when.
    if p.isnan().any():
        return p.mean()
    return binary_cross_entropy(p, torch.full_like(p, label))
