"""Every score of a set of images, against the test images of the data.

Scores of the classes look at the classifier's log-probabilities (N×classes), the others at its features (N×64).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gan_core import metric_names as names
from gan_core.evaluation.classifier import Classifier, extract_features
from gan_core.metric_names import SCORES
from gan_core.networks import Generator, generate
from gan_core.rng import stream

# Those that need no comparison of single images: a third of the work (docs/quality.md).
QUICK_SCORES = (names.FD, names.INCEPTION_SCORE, names.CLASS_KL, names.CONFIDENCE)
NEIGHBOURS = 5  # of PRDC: a ball reaches to the 5th neighbour
GENERATED_BLOCK = 1000  # images that G makes at once
KERNEL_BLOCK = 500  # features whose products with themselves are held at once
DISTANCE_BLOCK = 100  # rows of the matrix of distances held at once, as many as a core's cache holds


class Gaussian(NamedTuple):
    """Mean (d) and covariance (d×d, over N − 1) of a set of features, float64."""

    mean: Tensor
    covariance: Tensor


class KernelMoments(NamedTuple):
    """Sums over N×d features, from which every mean of the kernel follows: float64."""

    size: Tensor  # N
    first: Tensor  # d: Σ x
    second: Tensor  # d×d: Σ x⊗x
    third: Tensor  # d(d+1)/2×d: Σ x⊗x⊗x; symmetric in its first two indices, so only i ≤ j are kept, row by row
    own: Tensor  # Σ k(x, x)


class RealSide(NamedTuple):
    """What every evaluation compares with: properties of the N test images."""

    features: Tensor  # N×64, float32
    radii: Tensor  # N, float32: squared distances to the 5th neighbour
    shares: Tensor  # classes, float64: by the classifier, not the labels, so that its mistakes cancel
    gaussian: Gaussian
    moments: KernelMoments


class Evaluation(NamedTuple):
    """The scores by name (SCORES or QUICK_SCORES), and the share of each class, float64, sum 1."""

    scores: dict[str, float]
    class_shares: NDArray[np.float64]


def measure_real(classifier: Classifier, images: Tensor) -> RealSide:
    """images: the real ones, uint8, N×C×H×W, N more than 5."""
    features, log_probabilities = extract_features(classifier, images)
    # A class that the classifier sees nowhere counts as half an image: else no divergence from it would be finite.
    shares = class_shares(log_probabilities).clamp(min=0.5 / len(images))
    return RealSide(features, squared_radii(features), shares, fit_gaussian(features), kernel_moments(features))


@torch.inference_mode()
def score_images(images: Tensor, classifier: Classifier, real: RealSide, quick: bool = False) -> Evaluation:
    """The scores of images (uint8, M×C×H×W, M more than 5); only QUICK_SCORES if `quick`.

    Scores can only be compared at the same M, the same N and with the same classifier.
    """
    features, log_probabilities = extract_features(classifier, images)
    shares = class_shares(log_probabilities)
    scores = {
        names.FD: frechet_distance(real.gaussian, fit_gaussian(features)),
        names.INCEPTION_SCORE: inception_score(log_probabilities),
        names.CLASS_KL: class_divergence(shares, real.shares),
        names.CONFIDENCE: confidence(log_probabilities),
    }
    if not quick:
        scores |= prdc(real.features, features, real.radii, squared_radii(features))
        scores[names.KD] = kernel_distance(real.moments, kernel_moments(features))
    return Evaluation({name: scores[name] for name in SCORES if name in scores}, shares.numpy())


@torch.inference_mode()
def evaluation_images(G: Generator, count: int) -> Tensor:
    """G's images of the evaluation noise, uint8, count×C×H×W.

    The noise is the same for every run with this z_dim. No training uses its random stream.
    """
    noise = torch.randn(count, G.z_dim, generator=stream("evaluation", G.z_dim))
    return torch.cat([generate(G, z) for z in noise.split(GENERATED_BLOCK)])


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


def kernel_moments(features: Tensor) -> KernelMoments:
    """The sums over N×d features; N is 2 or more."""
    features = features.to(torch.float64)
    width = features.shape[1]
    third = features.new_zeros(width * (width + 1) // 2, width)
    squares = features.new_empty(len(third), KERNEL_BLOCK)
    for block in features.split(KERNEL_BLOCK):
        turned, products = block.T.contiguous(), squares[:, : len(block)]  # d×n, d(d+1)/2×n
        for i, of_i in enumerate(products.split([width - i for i in range(width)])):
            torch.mul(turned[i:], turned[i], out=of_i)
        third.addmm_(products, block)
    own = (features.square().sum(dim=1) / width + 1).pow(3).sum()
    size = features.new_tensor(len(features))
    return KernelMoments(size, features.sum(dim=0), features.T @ features, third, own)


def kernel_distance(a: KernelMoments, b: KernelMoments) -> float:
    """The squared maximum mean discrepancy of two sets with the kernel k(x, y) = (x·y / d + 1)³, unbiased.

    About 0, of either sign, for sets of one distribution. Bińkowski et al. (2018),
    https://arxiv.org/abs/1801.01401, average over random subsets of pairs. Here all N² pairs count, in N·d³
    steps instead of N²·d: (x·y)^m is the product of the m-fold tensor powers of x and of y, so the sum over
    pairs follows from sums over single samples.
    """
    within_a = (_pairs(a, a) - a.own) / (a.size * (a.size - 1))
    within_b = (_pairs(b, b) - b.own) / (b.size * (b.size - 1))
    return float(within_a + within_b - 2 * _pairs(a, b) / (a.size * b.size))


def _pairs(a: KernelMoments, b: KernelMoments) -> Tensor:
    """Σ over x of a and y of b of k(x, y), by (t + 1)³ = 1 + 3t + 3t² + t³ with t = x·y / d."""
    width = len(a.first)
    linear = (a.first * b.first).sum().item() / width
    square = (a.second * b.second).sum().item() / width**2
    i, j = torch.triu_indices(width, width)
    twice = torch.where(i == j, 1.0, 2.0).to(a.third.dtype)  # i < j stands for j, i too
    cube = (twice @ (a.third * b.third).sum(dim=1)).item() / width**3
    return a.size * b.size + 3 * linear + 3 * square + cube


def squared_radii(features: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """N×d features → the squared distance of each to its k-th nearest other one: N. N is more than k."""
    radii = features.new_empty(len(features))
    for start, distances in _distance_blocks(features, features):
        distances.diagonal(start).fill_(torch.inf)  # a sample is no neighbour of its own
        nearest = distances.topk(k, largest=False, sorted=False).values
        radii[start : start + len(distances)] = nearest.amax(dim=1)
    return radii


def prdc(real: Tensor, fake: Tensor, real_radii: Tensor, fake_radii: Tensor, k: int = NEIGHBOURS) -> dict[str, float]:
    """Precision, recall, density and coverage, by metric name, of fake features (M×d) against real ones (N×d).

    A sample's ball reaches to its k-th nearest neighbour in its own set; real_radii (N) and fake_radii (M) are
    the `squared_radii` at that k. Precision and recall: Kynkäänniemi et al. (2019),
    https://arxiv.org/abs/1904.06991. Density and coverage: Naeem et al. (2020), https://arxiv.org/abs/2002.09797.

    - precision: the share of fakes inside any real ball. Are the images like real ones?
    - recall: the share of reals inside any fake ball. Are all kinds of real image made?
    - density: the mean number of real balls that a fake lies in, divided by k; about 1 for sets of one
      distribution. Unlike precision, it is not high because of one stray real image with a wide ball.
    - coverage: the share of reals in whose ball a fake lies. No stray fake can widen these, as in recall.
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
    return {
        names.PRECISION: int(torch.count_nonzero(nearest_ball < 0)) / len(fake),
        names.RECALL: recalled / len(real),
        names.DENSITY: contained / (k * len(fake)),
        names.COVERAGE: covered / len(real),
    }


def _distance_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Squared distances of a (N×d) from b (M×d), a block of rows at a time: (first row, rows×M).

    In the features' dtype. All blocks use the same memory, which the caller may overwrite.
    """
    # |x|² + |y|² − 2 x·y loses digits if norms exceed distances; about the mean the norms are smallest.
    centre = b.mean(dim=0)
    a, to_b = a - centre, (b - centre).T.contiguous()
    norms_a, norms_b = a.square().sum(dim=1, keepdim=True), to_b.square().sum(dim=0)
    memory = a.new_empty(DISTANCE_BLOCK, len(b))
    for start in range(0, len(a), DISTANCE_BLOCK):
        block = a[start : start + DISTANCE_BLOCK]
        distances = torch.addmm(norms_b, block, to_b, alpha=-2, out=memory[: len(block)])
        yield start, distances.add_(norms_a[start : start + DISTANCE_BLOCK])
