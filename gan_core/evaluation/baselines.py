"""What the evaluations of a data set compare with: its classifier, its test images, and two baselines."""

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
from gan_core.data import default_data_dir, fingerprint, load_split
from gan_core.evaluation.classifier import TrainedClassifier
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
from gan_core.evaluation.train_classifier import classifier_for, known_classifier
from gan_core.networks import Generator, build_models
from gan_core.rng import stream
from gan_core.storage import expanded, write_whole

# Raised when a score's definition or the cached file's layout changes, so that no older file is used.
SCORES_VERSION = 3


@dataclass(frozen=True)
class Reference:
    """What an evaluation compares with, computed once per data set and classifier.

    real_baseline: the scores of real training images, as many as there are test images; no G need be better.
    untrained_baseline: the scores of an untrained G. Both are by name, as in SCORES.
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
    """The folder of cached classifiers and references: `quality`, in the data folder."""
    return (data_dir or default_data_dir()) / "quality"


def load_reference(dataset: str, cache_dir: Path, data_dir: Path | None = None) -> Reference:
    """The reference of a data set, from the cache or computed now: seconds, plus its classifier's training.

    The files of the data set are checked each time, as by `load_images`. Of several processes that ask at
    once, one computes and the others wait. A reference that cannot be cached is computed each time, with a
    line on stderr. Raises UserError if a classifier cannot be cached or the images cannot be had.
    """
    of = json.dumps([fingerprint(dataset, data_dir), SCORES_VERSION, NEIGHBOURS])
    key = hashlib.sha256(of.encode()).hexdigest()[:16]
    path = expanded(cache_dir) / f"reference-{dataset}-{key}.safetensors"
    if cached := _load(path, dataset, cache_dir):
        return cached
    classifier = classifier_for(dataset, cache_dir, data_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            # Another process may have computed it while this one waited for the lock.
            if cached := _load(path, dataset, cache_dir):
                return cached
            reference = compute_reference(dataset, classifier, data_dir)
            _save(path, reference)
            return reference
    except OSError as error:
        print(f"cannot cache what {dataset} is scored against in {cache_dir}: {error}", file=sys.stderr)
        return compute_reference(dataset, classifier, data_dir)


def compute_reference(dataset: str, classifier: TrainedClassifier, data_dir: Path | None = None) -> Reference:
    """The reference of a data set by a classifier, computed now."""
    test = load_split(dataset, "test", data_dir)
    count, network = len(test.images), classifier.network
    real = measure_real(network, test.images)
    real_baseline = score_images(real_baseline_images(dataset, count, data_dir), network, real)
    untrained, _ = build_models(make_config(dataset=dataset, seed=0))
    untrained_baseline = score_images(evaluation_images(untrained, count), network, real)
    return Reference(dataset, classifier, real, real_baseline.scores, untrained_baseline.scores)


def real_baseline_images(dataset: str, count: int, data_dir: Path | None = None, draw: int = 0) -> Tensor:
    """`count` training images (uint8, count×1×28×28), none twice; draw 0 makes the real baseline."""
    images = load_split(dataset, "train", data_dir).images
    # The stream's name says "floor", a former word for the real baseline: another would give another draw.
    return images[torch.randperm(len(images), generator=stream("quality-floor", draw))[:count]]


def _save(path: Path, reference: Reference) -> None:
    real, record = reference.real, reference.classifier.record
    tensors = {
        "features": real.features,
        "radii": real.radii,
        "shares": real.shares,
        **real.gaussian._asdict(),
        "first": real.moments.first,
        "second": real.moments.second,
        "third": real.moments.third,
        "own": torch.tensor(real.moments.own, dtype=torch.float64),
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
    """The reference in the file `path`; None if it is not whole, or its classifier is not here."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError):
        return None
    classifier = known_classifier(dataset, about["train_digest"], about["test_digest"], cache_dir)
    if classifier is None or classifier.record.weights_sha256 != about["classifier"]:
        return None
    moments = KernelMoments(len(kept["features"]), kept["first"], kept["second"], kept["third"], kept["own"].item())
    gaussian = Gaussian(kept["mean"], kept["covariance"])
    real = RealSide(kept["features"], kept["radii"], gaussian, moments, kept["shares"])
    baselines = (json.loads(about[name]) for name in ("real_baseline", "untrained_baseline"))
    return Reference(dataset, classifier, real, *baselines)


def evaluate(G: Generator, reference: Reference, quick: bool = False) -> Evaluation:
    """The scores of as many images of G as the reference has test images (for MNIST 10,000).

    The noise depends on G's z_dim alone, so the same weights give the same scores. `quick`: only QUICK_SCORES,
    with the same values.
    """
    images = evaluation_images(G, reference.count)
    return score_images(images, reference.classifier.network, reference.real, quick)
