"""Every score of a set of images, against the test images of the data."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gan_core.evaluation.class_scores import class_divergence, class_shares, confidence, inception_score
from gan_core.evaluation.classifier import Classifier, extract_features
from gan_core.evaluation.frechet_distance import Gaussian, fit_gaussian, frechet_distance
from gan_core.evaluation.kernel_distance import KernelMoments, kernel_distance, kernel_moments
from gan_core.evaluation.prdc import prdc, squared_radii
from gan_core.metric_names import (
    CLASS_KL,
    CONFIDENCE,
    COVERAGE,
    DENSITY,
    FD,
    INCEPTION_SCORE,
    KD,
    PRECISION,
    RECALL,
    SCORES,
)
from gan_core.networks import Generator, to_pixels
from gan_core.rng import stream

GENERATED_BLOCK = 1000  # images that G makes at once

# Those that need no comparison of single images: a third of the work (docs/quality.md).
QUICK_SCORES = (FD, INCEPTION_SCORE, CLASS_KL, CONFIDENCE)


@dataclass(frozen=True)
class RealSide:
    """What every evaluation compares with: properties of the N test images."""

    features: Tensor  # N×64, float32
    radii: Tensor  # N, float32: squared distances to the 5th neighbour
    gaussian: Gaussian
    moments: KernelMoments
    shares: Tensor  # 10, float64: by the classifier, not the labels, so that its mistakes cancel


@dataclass(frozen=True)
class Evaluation:
    """The scores by name (SCORES or QUICK_SCORES), and the share of each of ten classes, float64, sum 1."""

    scores: dict[str, float]
    class_shares: NDArray[np.float64]


def measure_real(classifier: Classifier, images: Tensor) -> RealSide:
    """images: the real ones, uint8, N×1×28×28, N more than 5."""
    features, log_probabilities = extract_features(classifier, images)
    return RealSide(
        features,
        squared_radii(features),
        fit_gaussian(features),
        kernel_moments(features),
        class_shares(log_probabilities),
    )


@torch.inference_mode()
def score_images(images: Tensor, classifier: Classifier, real: RealSide, quick: bool = False) -> Evaluation:
    """The scores of images (uint8, M×1×28×28, M more than 5); only QUICK_SCORES if `quick`.

    Scores can only be compared at the same M, the same N and with the same classifier.
    """
    features, log_probabilities = extract_features(classifier, images)
    shares = class_shares(log_probabilities)
    scores = {
        FD: frechet_distance(real.gaussian, fit_gaussian(features)),
        INCEPTION_SCORE: inception_score(log_probabilities),
        CLASS_KL: class_divergence(shares, real.shares),
        CONFIDENCE: confidence(log_probabilities),
    }
    if not quick:
        near = prdc(real.features, features, real.radii, squared_radii(features))
        scores |= {PRECISION: near.precision, RECALL: near.recall}
        scores |= {DENSITY: near.density, COVERAGE: near.coverage}
        scores[KD] = kernel_distance(real.moments, kernel_moments(features))
    return Evaluation({name: scores[name] for name in SCORES if name in scores}, shares.numpy())


@torch.inference_mode()
def evaluation_images(G: Generator, count: int) -> Tensor:
    """G's images of the evaluation noise, uint8, count×1×28×28.

    The noise is the same for every run with this z_dim. No training uses its random stream.
    """
    noise = torch.randn(count, G.z_dim, generator=stream("evaluation", G.z_dim))
    device = next(G.parameters()).device
    return torch.cat([to_pixels(G(z.to(device))).cpu() for z in noise.split(GENERATED_BLOCK)])
