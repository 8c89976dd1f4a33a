"""Which classes the classifier finds in images, how sure it is, and how far their shares are from the data's."""

import torch
from torch import Tensor


def class_shares(log_probabilities: Tensor) -> Tensor:
    """The share of images whose likeliest class is each: float64, as many as classes, sum 1. N×classes in."""
    classes = log_probabilities.shape[1]
    counts = log_probabilities.argmax(dim=1).bincount(minlength=classes)
    return counts.to(torch.float64) / len(log_probabilities)


def class_divergence(shares: Tensor, data_shares: Tensor) -> float:
    """KL divergence of generated shares from the data's, Σ q log(q / p), in nats: 0 where they are the same.

    Finite where generated classes are missing; infinite where there is one that the data has not.
    """
    return float(torch.where(shares == 0, 0.0, shares * (shares / data_shares).log()).sum())


def confidence(log_probabilities: Tensor) -> float:
    """The mean probability that the classifier gives to its choice, from 1 / classes to 1. N×classes in."""
    return float(log_probabilities.amax(dim=1).double().exp().mean())


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
