"""Precision, recall, density and coverage: how much of each set of features lies near the other.

Precision and recall: Kynkäänniemi et al. (2019), https://arxiv.org/abs/1904.06991. Density and coverage:
Naeem et al. (2020), https://arxiv.org/abs/2002.09797. A set's manifold is the union of balls about its
samples, each with the distance to the sample's k-th nearest neighbour in the same set as its radius.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

NEIGHBOURS = 5
BLOCK = 100  # rows of the matrix of distances held at once, as many as a core's cache holds


class PRDC(NamedTuple):
    """Shares of a set: all from 0 to 1 but density, which can be more than 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def squared_radii(features: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """N×d features → the squared distance of each to its k-th nearest other one: N. N is more than k."""
    radii = features.new_empty(len(features))
    for start, distances in _distance_blocks(features, features):
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = torch.inf  # a sample is no neighbour of its own
        nearest = distances.topk(k, largest=False, sorted=False).values
        radii[start : start + len(distances)] = nearest.amax(dim=1)
    return radii


def prdc(real: Tensor, fake: Tensor, real_radii: Tensor, fake_radii: Tensor, k: int = NEIGHBOURS) -> PRDC:
    """Precision, recall, density and coverage of fake (M×d) features against real ones (N×d).

    real_radii (N) and fake_radii (M) are `squared_radii` of each at the same k.

    - precision: the share of fakes inside any real ball. Are the images like real ones?
    - recall: the share of reals inside any fake ball. Are all kinds of real image made?
    - density: the mean number of real balls that a fake lies in, divided by k; about 1 for sets of one
      distribution. Unlike precision, it is not high because of one stray real image with a wide ball.
    - coverage: the share of reals in whose ball a fake lies. Unlike recall, it uses the real balls, which no
      stray fake can widen.
    """
    nearest_ball = fake.new_full((len(fake),), torch.inf)  # per fake: how far outside the nearest real ball
    recalled = covered = contained = 0
    for start, distances in _distance_blocks(real, fake):
        outside_fake = (distances - fake_radii).amin(dim=1)
        recalled += int(torch.count_nonzero(outside_fake < 0))
        distances.sub_(real_radii[start : start + len(distances)].unsqueeze(1))  # negative: inside the ball
        covered += int(torch.count_nonzero(distances.amin(dim=1) < 0))
        contained += int(torch.count_nonzero(distances < 0))
        torch.minimum(nearest_ball, distances.amin(dim=0), out=nearest_ball)
    return PRDC(
        precision=int(torch.count_nonzero(nearest_ball < 0)) / len(fake),
        recall=recalled / len(real),
        density=contained / (k * len(fake)),
        coverage=covered / len(real),
    )


def _distance_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Squared distances of a (N×d) from b (M×d), a block of rows at a time: (first row, rows×M).

    In the features' dtype. All blocks use the same memory, which the caller may overwrite.
    """
    # |x|² + |y|² − 2 x·y loses digits if norms exceed distances; about the mean the norms are smallest.
    centre = b.mean(dim=0)
    a, to_b = a - centre, (b - centre).T.contiguous()
    norms_a, norms_b = a.square().sum(dim=1, keepdim=True), to_b.square().sum(dim=0)
    memory = a.new_empty(BLOCK, len(b))
    for start in range(0, len(a), BLOCK):
        block = a[start : start + BLOCK]
        distances = torch.addmm(norms_b, block, to_b, alpha=-2, out=memory[: len(block)])
        yield start, distances.add_(norms_a[start : start + BLOCK])
