import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from gan_core.evaluation.frechet_distance import Gaussian, fit_gaussian, frechet_distance


class AsGiven(torch.nn.Module):
    num_features = 6

    def forward(self, features: Tensor) -> Tensor:
        return features


def random_gaussian(seed: int, rank: int = 6) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(6, rank, generator=generator, dtype=torch.float64)
    return Gaussian(torch.randn(6, generator=generator, dtype=torch.float64), factor @ factor.T)


def test_closed_form_of_independent_dimensions():
    # Each dimension adds (μ − μ')² + (σ − σ')².
    a = Gaussian(torch.tensor([1.0, -2.0]).double(), torch.tensor([4.0, 9.0]).double().diag())
    b = Gaussian(torch.tensor([3.0, 1.0]).double(), torch.tensor([25.0, 1.0]).double().diag())
    assert frechet_distance(a, b) == pytest.approx(2**2 + 3**2 + (2 - 5) ** 2 + (3 - 1) ** 2)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_a_general_matrix_square_root(seed: int):
    a, b = random_gaussian(seed), random_gaussian(100 + seed)
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    expected = (a.mean - b.mean).square().sum().item() + np.trace((a.covariance + b.covariance).numpy() - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_agrees_with_torchmetrics_on_samples():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(700, 6, generator=generator)
    b = torch.randn(500, 6, generator=generator) * torch.arange(1, 7) + 0.3
    theirs = FrechetInceptionDistance(feature=AsGiven())
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    ours = frechet_distance(fit_gaussian(a), fit_gaussian(b))
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-5)  # theirs is rounded to float32


def test_no_distance_to_itself():
    a = random_gaussian(0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_singular_covariance(rank: int):
    # In the plane that a degenerate Gaussian spans; a rank of 0 is a generator of one picture.
    a, b = random_gaussian(1), random_gaussian(2, rank)
    middle = np.sqrt(np.clip(np.linalg.eigvals((a.covariance @ b.covariance).numpy()).real, 0, None)).sum()
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * middle
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(b, b) == pytest.approx(0, abs=1e-6)


def test_fitted_gaussian_is_numpys():
    features = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    mean, covariance = fit_gaussian(features)
    np.testing.assert_allclose(mean, features.double().numpy().mean(axis=0))
    np.testing.assert_allclose(covariance, np.cov(features.double().numpy().T))
