"""The scores of classes, the Fréchet and the kernel distance: by hand, and against torchmetrics and scipy."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from gan_core.evaluation.scores import (
    Gaussian,
    class_divergence,
    class_shares,
    confidence,
    fit_gaussian,
    frechet_distance,
    inception_score,
    kernel_distance,
    kernel_moments,
)

EVEN = torch.full((10,), 0.1).double()
WITHOUT_NINE = torch.tensor([1 / 9] * 9 + [0]).double()


class AsGiven(torch.nn.Module):
    """Gives torchmetrics features in place of images."""

    num_features = 6

    def forward(self, features: Tensor) -> Tensor:
        return features


def normal(count: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).double() + shift


def by_torchmetrics(metric, a: Tensor, b: Tensor):
    metric.update(a, real=True)
    metric.update(b, real=False)
    return metric.compute()


def test_shares_count_the_likeliest_class():
    shares = class_shares(torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.35, 0.25]]).log())
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 1 / 3, 0]).double())


@pytest.mark.parametrize(
    ("shares", "data_shares", "divergence"),
    [
        (EVEN, EVEN, 0),
        (WITHOUT_NINE, EVEN, math.log(10 / 9)),
        (torch.eye(10)[8].double(), EVEN, math.log(10)),
        (EVEN, WITHOUT_NINE, math.inf),  # a class that the data has not
    ],
)
def test_divergence_of_classes(shares: Tensor, data_shares: Tensor, divergence: float):
    assert class_divergence(shares, data_shares) == pytest.approx(divergence)


def test_confidence():
    assert confidence(torch.tensor([[0.6, 0.4], [0.1, 0.9]]).log()) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("probabilities", "score"),
    [
        (torch.eye(10).repeat(7, 1), 10),  # certain and even: the number of classes
        (torch.eye(10)[[3] * 8], 1),
        (torch.full((8, 10), 0.1), 1),
        # Certain of two classes: exp of the entropy of a quarter and three quarters.
        (torch.eye(10)[[0, 1, 1, 1]], math.exp(0.25 * math.log(4) + 0.75 * math.log(4 / 3))),
        (torch.full((4, 10), torch.nan), math.nan),
    ],
)
def test_inception_score(probabilities: Tensor, score: float):
    assert inception_score(probabilities.log()) == pytest.approx(score, nan_ok=True)


def test_inception_score_agrees_with_torchmetrics_on_logits():
    logits = 4 * torch.randn(300, 10, generator=torch.Generator().manual_seed(0))
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(logits)
    assert inception_score(logits.log_softmax(dim=1)) == pytest.approx(theirs.compute()[0].item(), rel=1e-5)


def random_gaussian(seed: int, rank: int = 6) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(6, rank, generator=generator, dtype=torch.float64)
    return Gaussian(torch.randn(6, generator=generator, dtype=torch.float64), factor @ factor.T)


def test_frechet_distance_of_independent_dimensions():
    # Each dimension adds (μ − μ')² + (σ − σ')².
    a = Gaussian(torch.tensor([1.0, -2.0]).double(), torch.tensor([4.0, 9.0]).double().diag())
    b = Gaussian(torch.tensor([3.0, 1.0]).double(), torch.tensor([25.0, 1.0]).double().diag())
    assert frechet_distance(a, b) == pytest.approx(2**2 + 3**2 + (2 - 5) ** 2 + (3 - 1) ** 2)


@pytest.mark.parametrize("seed", range(5))
def test_frechet_distance_agrees_with_a_general_matrix_square_root(seed: int):
    a, b = random_gaussian(seed), random_gaussian(100 + seed)
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    expected = (a.mean - b.mean).square().sum().item() + np.trace((a.covariance + b.covariance).numpy() - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_agrees_with_torchmetrics_on_samples():
    a, b = normal(700, 0).float(), (normal(500, 1) * torch.arange(1, 7) + 0.3).float()
    theirs = by_torchmetrics(FrechetInceptionDistance(feature=AsGiven()), a, b)
    ours = frechet_distance(fit_gaussian(a), fit_gaussian(b))
    assert ours == pytest.approx(theirs.item(), rel=1e-5)  # theirs is rounded to float32


@pytest.mark.parametrize("rank", [0, 1, 3, 6])
def test_frechet_distance_with_a_singular_covariance(rank: int):
    # In the plane that a degenerate Gaussian spans; a rank of 0 is a generator of one picture.
    a, b = random_gaussian(1), random_gaussian(2, rank)
    middle = np.sqrt(np.clip(np.linalg.eigvals((a.covariance @ b.covariance).numpy()).real, 0, None)).sum()
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * middle
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(b, b) == pytest.approx(0, abs=1e-6)


def test_fitted_gaussian_is_numpys():
    features = normal(50, 0).float()
    mean, covariance = fit_gaussian(features)
    np.testing.assert_allclose(mean, features.double().numpy().mean(axis=0))
    np.testing.assert_allclose(covariance, np.cov(features.double().numpy().T))


def by_pairs(a: Tensor, b: Tensor) -> float:
    """The kernel distance by its definition, a pair at a time."""

    def kernel(x: Tensor, y: Tensor) -> float:
        return (x.dot(y).item() / len(x) + 1) ** 3

    def within(c: Tensor) -> float:
        return sum(kernel(x, y) for x, y in itertools.permutations(c, 2)) / (len(c) * (len(c) - 1))

    between = sum(kernel(x, y) for x, y in itertools.product(a, b)) / (len(a) * len(b))
    return within(a) + within(b) - 2 * between


@pytest.mark.parametrize(("shift", "counts"), [(0.0, (20, 20)), (1.5, (25, 12))])
def test_kernel_distance_is_the_mean_over_all_pairs(shift: float, counts: tuple[int, int]):
    a, b = normal(counts[0], 0), normal(counts[1], 1, shift)
    assert kernel_distance(kernel_moments(a), kernel_moments(b)) == pytest.approx(by_pairs(a, b), rel=1e-9)


def test_kernel_distance_agrees_with_torchmetrics_where_its_subset_is_the_whole():
    a, b = normal(1100, 0), normal(1100, 1, shift=0.4)  # more than two blocks
    theirs, _ = by_torchmetrics(KernelInceptionDistance(feature=AsGiven(), subsets=1, subset_size=1100), a, b)
    assert kernel_distance(kernel_moments(a), kernel_moments(b)) == pytest.approx(theirs.item(), rel=1e-5)


def test_kernel_distance_is_unbiased():
    # Samples of one distribution: the mean over draws is 0 within its own error, as no biased estimate's is.
    moments = [kernel_moments(normal(40, seed)) for seed in range(600)]
    several = torch.tensor([kernel_distance(a, b) for a, b in zip(moments[::2], moments[1::2], strict=True)])
    error = several.std().item() / len(several) ** 0.5
    own_pairs = 2 * (sum(each.own.item() for each in moments[:50]) / 50 - 40) / 40**2
    assert abs(several.mean().item()) < 3 * error
    assert own_pairs > 6 * error  # what counting a sample with itself would have added
