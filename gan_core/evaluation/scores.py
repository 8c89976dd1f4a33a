"""Every score of a set of images, against the test images of the data."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gan_core.evaluation.class_scores import class_divergence, class_shares, confidence, inception_score
from gan_core.evaluation.classifier import Classifier, look_at
from gan_core.evaluation.frechet_distance import Gaussian, fit_gaussian, frechet_distance
from gan_core.evaluation.kernel_distance import KernelMoments, kernel_distance, kernel_moments
from gan_core.evaluation.prdc import prdc, squared_radii
from gan_core.networks import Generator, to_pixels
from gan_core.rng import stream

GENERATED_BLOCK = 1000  # images that G makes at once

SCORES = (
    "quality/fd",
    "quality/kd",
    "quality/is",
    "quality/precision",
    "quality/recall",
    "quality/density",
    "quality/coverage",
    "quality/class_kl",
    "quality/confidence",
)
# What follows from the classifier's look alone: a third of the work (docs/quality.md).
QUICK_SCORES = ("quality/fd", "quality/is", "quality/class_kl", "quality/confidence")


@dataclass(frozen=True)
class RealSide:
    """What every evaluation needs of the N real test images."""

    features: Tensor  # N×64, float32
    radii: Tensor  # N, float32: squared distances to the 5th neighbour
    gaussian: Gaussian
    moments: KernelMoments
    shares: Tensor  # 10, float64: the classifier's, as for the generated ones, so its own mistakes cancel


@dataclass(frozen=True)
class Evaluation:
    """The scores by name (SCORES or QUICK_SCORES), and the share of each of ten classes, float64, sum 1."""

    scores: dict[str, float]
    class_shares: NDArray[np.float64]


def measure_real(classifier: Classifier, images: Tensor) -> RealSide:
    """The real side of images (uint8, N×1×28×28), N more than 5."""
    features, log_probabilities = look_at(classifier, images)
    return RealSide(
        features,
        squared_radii(features),
        fit_gaussian(features),
        kernel_moments(features),
        class_shares(log_probabilities),
    )


@torch.inference_mode()
def score_images(images: Tensor, classifier: Classifier, real: RealSide, quick: bool = False) -> Evaluation:
    """The scores of images (uint8, M×1×28×28, M more than 5), only QUICK_SCORES if `quick`.

    Compare figures of one M, one N and one classifier only.
    """
    features, log_probabilities = look_at(classifier, images)
    shares = class_shares(log_probabilities)
    scores = {
        "quality/fd": frechet_distance(real.gaussian, fit_gaussian(features)),
        "quality/is": inception_score(log_probabilities),
        "quality/class_kl": class_divergence(shares, real.shares),
        "quality/confidence": confidence(log_probabilities),
    }
    if not quick:
        neighbours = prdc(real.features, features, real.radii, squared_radii(features))
        scores |= {f"quality/{name}": value for name, value in neighbours._asdict().items()}
        scores["quality/kd"] = kernel_distance(real.moments, kernel_moments(features))
    return Evaluation({name: scores[name] for name in SCORES if name in scores}, shares.numpy())


@torch.inference_mode()
def evaluation_images(G: Generator, count: int) -> Tensor:
    """G's images of the evaluation noise, uint8, count×1×28×28.

    The noise is the same for all runs of a z_dim, from a stream that no training uses.
    """
    noise = torch.randn(count, G.z_dim, generator=stream("evaluation", G.z_dim))
    device = next(G.parameters()).device
    return torch.cat([to_pixels(G(z.to(device))).cpu() for z in noise.split(GENERATED_BLOCK)])
