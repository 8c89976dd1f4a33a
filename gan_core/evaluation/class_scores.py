"""Scores of the classes that the classifier finds in images."""

import torch
from torch import Tensor


def class_shares(log_probabilities: Tensor) -> Tensor:
    """N×classes → the share of images whose likeliest class it is, for each class: float64, sum 1."""
    classes = log_probabilities.shape[1]
    counts = log_probabilities.argmax(dim=1).bincount(minlength=classes)
    return counts.to(torch.float64) / len(log_probabilities)


def class_divergence(shares: Tensor, data_shares: Tensor) -> float:
    """KL divergence of the generated shares q from the data's p, Σ q log(q / p), in nats; 0 if they are equal.

    Finite if generated classes are missing; infinite if a class is generated that the data has not.
    """
    return float(torch.where(shares == 0, 0.0, shares * (shares / data_shares).log()).sum())


def confidence(log_probabilities: Tensor) -> float:
    """N×classes → the mean probability of the likeliest class, from 1 / classes to 1."""
    return float(log_probabilities.amax(dim=1).double().exp().mean())


def inception_score(log_probabilities: Tensor) -> float:
    """Exp of the mean KL divergence of an image's class probabilities from their mean over all images.

    log_probabilities: N×classes, natural logarithms. From 1 to the number of classes. High if each image is
    clearly of one class and the classes are even. Real images have no part in it: one perfect picture per
    class has the highest score. Salimans et al. (2016), https://arxiv.org/abs/1606.03498, there over ten parts
    of the images, here over all at once.
    """
    log_p = log_probabilities.double()
    marginal = log_p.logsumexp(dim=0) - log_p.new_tensor(len(log_p)).log()  # log of the mean probability
    p = log_p.exp()
    # A class of probability 0 adds nothing; 0 · −∞ would be NaN.
    divergence = torch.where(p == 0, 0.0, p * (log_p - marginal)).sum(dim=1)
    return float(divergence.mean().exp())
