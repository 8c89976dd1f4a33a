"""Fréchet distance: how far apart two sets of features are, each approximated by a Gaussian."""

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Mean (d) and covariance (d×d, over N − 1) of a set of features, float64."""

    mean: Tensor
    covariance: Tensor


def fit_gaussian(features: Tensor) -> Gaussian:
    """The Gaussian of N×d features; N is 2 or more."""
    features = features.to(torch.float64)
    mean = features.mean(dim=0)
    centred = features - mean
    return Gaussian(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|μ_a − μ_b|² + tr(C_a + C_b − 2 (C_a C_b)^½), in squared units of the features; 0 for equal Gaussians.

    Heusel et al. (2017), https://arxiv.org/abs/1706.08500, on the features of Inception. The estimate from N
    samples is too high, the more so the smaller N is: only distances at the same N can be compared.
    """
    # tr (C_a C_b)^½ = tr (C_a^½ C_b C_a^½)^½, and that matrix is symmetric: its eigenvalues are real even if a
    # covariance is singular, as for a G that makes one picture.
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    middle = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * middle
    return float((a.mean - b.mean).square().sum() + spread)
