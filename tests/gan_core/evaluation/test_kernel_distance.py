import itertools

import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import KernelInceptionDistance

from gan_core.evaluation.kernel_distance import kernel_distance, kernel_moments


class AsGiven(torch.nn.Module):
    num_features = 5

    def forward(self, features: Tensor) -> Tensor:
        return features


def features(count: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)).double() + shift


def by_pairs(a: Tensor, b: Tensor) -> float:
    """The definition, a pair at a time."""

    def kernel(x: Tensor, y: Tensor) -> float:
        return (x.dot(y).item() / len(x) + 1) ** 3

    def within(c: Tensor) -> float:
        return sum(kernel(x, y) for x, y in itertools.permutations(c, 2)) / (len(c) * (len(c) - 1))

    between = sum(kernel(x, y) for x, y in itertools.product(a, b)) / (len(a) * len(b))
    return within(a) + within(b) - 2 * between


@pytest.mark.parametrize(("shift", "counts"), [(0.0, (20, 20)), (1.5, (25, 12))])
def test_is_the_mean_over_all_pairs(shift: float, counts: tuple[int, int]):
    a, b = features(counts[0], 0), features(counts[1], 1, shift)
    assert kernel_distance(kernel_moments(a), kernel_moments(b)) == pytest.approx(by_pairs(a, b), rel=1e-9)


def test_agrees_with_torchmetrics_where_its_subset_is_the_whole():
    a, b = features(1100, 0), features(1100, 1, shift=0.4)  # more than two blocks
    theirs = KernelInceptionDistance(feature=AsGiven(), subsets=1, subset_size=1100)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    ours = kernel_distance(kernel_moments(a), kernel_moments(b))
    assert ours == pytest.approx(theirs.compute()[0].item(), rel=1e-5)


def test_is_unbiased():
    # Samples of one distribution: the mean over draws is 0 within its own error, as no biased estimate's is.
    several = torch.tensor(
        [
            kernel_distance(kernel_moments(features(40, 2 * seed)), kernel_moments(features(40, 2 * seed + 1)))
            for seed in range(300)
        ]
    )
    error = several.std().item() / len(several) ** 0.5
    own_pairs = 2 * (sum(kernel_moments(features(40, seed)).own for seed in range(50)) / 50 - 40) / 40**2
    assert abs(several.mean().item()) < 3 * error
    assert own_pairs > 6 * error  # what counting a sample with itself would have added
