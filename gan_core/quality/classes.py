"""Which classes the judge finds in images, how sure it is, and how far their shares are from the data's."""

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
    """The mean probability that the judge gives to its choice, from 1 / classes to 1. N×classes in."""
    return float(log_probabilities.amax(dim=1).double().exp().mean())
