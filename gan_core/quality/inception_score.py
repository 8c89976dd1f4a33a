"""The inception score's form, on the judge's classes."""

import torch
from torch import Tensor


def inception_score(log_probabilities: Tensor) -> float:
    """Exp of the mean KL divergence of an image's classes from those of all; from 1 to how many there are.

    log_probabilities: N×classes, natural logarithms. High where each image is clearly of one class and the
    classes are even; it sees nothing of the real images, and one perfect picture of each class is enough for
    the most. Salimans et al. (2016), https://arxiv.org/abs/1606.03498; over all N at once, not in ten parts.
    """
    log_p = log_probabilities.double()
    marginal = log_p.logsumexp(dim=0) - log_p.new_tensor(len(log_p)).log()  # log of the mean probability
    p = log_p.exp()
    # A class of probability 0 adds nothing, where 0 · −∞ would make it NaN.
    divergence = torch.where(p == 0, 0.0, p * (log_p - marginal)).sum(dim=1)
    return float(divergence.mean().exp())
