"""The baselines of a data set: its classifier, its real side, and what the best and the worst images score."""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gan_core.config import make_config
from gan_core.data import fingerprint, load_split
from gan_core.evaluation.classifier import TrainedClassifier, classifier_for, known_classifier, write_whole
from gan_core.evaluation.frechet_distance import Gaussian
from gan_core.evaluation.kernel_distance import KernelMoments
from gan_core.evaluation.prdc import NEIGHBOURS
from gan_core.evaluation.scores import (
    Evaluation,
    RealSide,
    evaluation_images,
    measure_real,
    score_images,
)
from gan_core.image_files import default_data_dir
from gan_core.networks import Generator, build_models
from gan_core.rng import stream
from gan_core.storage import expanded

# Counts up when a score's definition or the file's layout changes, so that what older code kept is not used.
SCORES_VERSION = 3


@dataclass(frozen=True)
class Reference:
    """What an evaluation compares with, computed once for a data set and a classifier.

    real_baseline: the scores of real training images, as many as test images: no generator can be asked for better.
    untrained_baseline: those of an untrained G. Both by name, as in SCORES.
    """

    dataset: str
    classifier: TrainedClassifier
    real: RealSide
    real_baseline: dict[str, float]
    untrained_baseline: dict[str, float]

    @property
    def count(self) -> int:
        """How many images an evaluation makes: as many as there are test images."""
        return len(self.real.features)


def quality_cache(data_dir: Path | None = None) -> Path:
    """Where classifiers and references are kept: a folder `quality` among the data."""
    return (data_dir or default_data_dir()) / "quality"


def load_reference(dataset: str, cache_dir: Path, data_dir: Path | None = None) -> Reference:
    """The reference of a data set, from the cache, or computed (seconds, plus its classifier's training) and kept.

    The files of the data set are checked each time, as by `load_images`. Several processes may ask at once:
    one computes, the others wait. A cache that cannot be written is said on stderr and done without, unless a
    classifier has to be kept there. Raises UserError then, and where the images cannot be had.
    """
    of = json.dumps([fingerprint(dataset, data_dir), SCORES_VERSION, NEIGHBOURS])
    key = hashlib.sha256(of.encode()).hexdigest()[:16]
    path = expanded(cache_dir) / f"reference-{dataset}-{key}.safetensors"
    if kept := _load(path, dataset, cache_dir):
        return kept
    classifier = classifier_for(dataset, cache_dir, data_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            # Another process may have computed it while this one waited for the lock.
            if kept := _load(path, dataset, cache_dir):
                return kept
            reference = compute_reference(dataset, classifier, data_dir)
            _save(path, reference)
            return reference
    except OSError as error:
        print(f"cannot keep the scores' reference of {dataset} in {cache_dir}: {error}", file=sys.stderr)
        return compute_reference(dataset, classifier, data_dir)


def compute_reference(dataset: str, classifier: TrainedClassifier, data_dir: Path | None = None) -> Reference:
    """The reference of a data set by a classifier, computed afresh."""
    test = load_split(dataset, "test", data_dir)
    real = measure_real(classifier.network, test.images)
    real_baseline = score_images(
        real_baseline_images(dataset, len(test.images), data_dir), classifier.network, real
    )
    untrained, _ = build_models(make_config(dataset=dataset, seed=0))
    untrained_baseline = score_images(
        evaluation_images(untrained, len(test.images)), classifier.network, real
    )
    return Reference(dataset, classifier, real, real_baseline.scores, untrained_baseline.scores)


def real_baseline_images(dataset: str, count: int, data_dir: Path | None = None, draw: int = 0) -> Tensor:
    """`count` training images (uint8, count×1×28×28) drawn without repeats; the real_baseline's own are draw 0."""
    images = load_split(dataset, "train", data_dir).images
    return images[torch.randperm(len(images), generator=stream("quality-floor", draw))[:count]]


def _save(path: Path, reference: Reference) -> None:
    real, record = reference.real, reference.classifier.record
    tensors = {
        "features": real.features,
        "radii": real.radii,
        "mean": real.gaussian.mean,
        "covariance": real.gaussian.covariance,
        "first": real.moments.first,
        "second": real.moments.second,
        "third": real.moments.third,
        "own": torch.tensor(real.moments.own, dtype=torch.float64),
        "shares": real.shares,
    }
    about = {
        "train_digest": record.train_digest,
        "test_digest": record.test_digest,
        "classifier": record.weights_sha256,
        "real_baseline": json.dumps(reference.real_baseline),
        "untrained_baseline": json.dumps(reference.untrained_baseline),
    }
    write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=about))


def _load(path: Path, dataset: str, cache_dir: Path) -> Reference | None:
    """The reference kept at `path`; None if not there whole, or made by a classifier that is not here."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            features, radii, mean, covariance, first, second, third, own, shares = (
                file.get_tensor(name)
                for name in (
                    "features", "radii", "mean", "covariance", "first", "second", "third", "own", "shares",
                )
            )  # fmt: skip
    except (OSError, SafetensorError):
        return None
    classifier = known_classifier(dataset, about["train_digest"], about["test_digest"], cache_dir)
    if classifier is None or classifier.record.weights_sha256 != about["classifier"]:
        return None
    moments = KernelMoments(len(features), first, second, third, own.item())
    real = RealSide(features, radii, Gaussian(mean, covariance), moments, shares)
    return Reference(
        dataset, classifier, real, json.loads(about["real_baseline"]), json.loads(about["untrained_baseline"])
    )


def evaluate(G: Generator, reference: Reference, quick: bool = False) -> Evaluation:
    """The scores of as many images of G as the reference has test images (for MNIST 10,000).

    They come from evaluation noise which depends on G's z_dim alone and which no training uses, so the
    same weights give the same scores. `quick`: only QUICK_SCORES, whose values are the same.
    """
    images = evaluation_images(G, reference.count)
    return score_images(images, reference.classifier.network, reference.real, quick)
