"""What the evaluations of a data set compare with: its classifier, its test images, and two baselines."""

import dataclasses
import hashlib
import json
import sys
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gan_core.config import make_config
from gan_core.data import ImageSet, short_name
from gan_core.evaluation import scores
from gan_core.evaluation.classifier import Classifier, one_thread
from gan_core.evaluation.train_classifier import classifier_for
from gan_core.events import Baselines
from gan_core.networks import Generator, build_models
from gan_core.rng import stream
from gan_core.storage import default_data_dir, expanded, made_once, write_whole

# Raised when a score's definition or the cached file's layout changes, so that no older file is used.
SCORES_VERSION = 4


@dataclasses.dataclass(frozen=True)
class Reference:
    """What an evaluation compares with, computed once per data set and classifier.

    baselines.n: how many images an evaluation makes, as many as there are test images. No G need be better
    than the real baseline. Both baselines are by name, as in SCORES.
    """

    classifier: Classifier
    real: scores.RealSide
    baselines: Baselines


def quality_cache(data_dir: Path | None = None) -> Path:
    """The folder of cached classifiers and references: `quality`, in the data folder."""
    return (data_dir or default_data_dir()) / "quality"


def load_reference(data: ImageSet, cache_dir: Path) -> Reference:
    """The reference of an image set, from the cache or computed now: seconds, plus its classifier's training.

    Of several processes that ask at once, one computes and the others wait. A reference that cannot be cached is
    computed each time, with a line on stderr. Raises UserError if a classifier cannot be cached, or not trained.
    """
    classifier = classifier_for(data, cache_dir)
    of = [classifier.record[name] for name in ("weights_sha256", "train_digest", "test_digest")]
    key = hashlib.sha256(json.dumps([*of, SCORES_VERSION, scores.NEIGHBOURS]).encode()).hexdigest()[:16]
    path = expanded(cache_dir) / f"reference-{short_name(data.name)}-{key}.safetensors"

    def make() -> Reference:
        reference = compute_reference(data, classifier)
        _save(path, reference)
        return reference

    try:
        return made_once(lambda: _load(path, classifier), make, path.with_suffix(".lock"))
    except OSError as error:
        print(f"cannot cache what {data.name} is scored against in {cache_dir}: {error}", file=sys.stderr)
        return compute_reference(data, classifier)


@one_thread()
def compute_reference(data: ImageSet, classifier: Classifier) -> Reference:
    """The reference of an image set by a classifier, computed now; on one machine always the same bits."""
    test = data.splits["test"].images
    real = scores.measure_real(classifier, test)
    real_scores = scores.score_images(real_baseline_images(data, len(test)), classifier, real).scores
    _, channels, size, _ = test.shape
    untrained, _ = build_models(make_config(dataset=data.name, image_size=size, channels=channels, seed=0))
    untrained_scores = scores.score_images(scores.evaluation_images(untrained, len(test)), classifier, real).scores
    record = classifier.record
    sha256, right = record["weights_sha256"], record["test_accuracy"]
    return Reference(classifier, real, Baselines(data.name, sha256, right, len(test), real_scores, untrained_scores))


def real_baseline_images(data: ImageSet, count: int, draw: int = 0) -> Tensor:
    """`count` images of the `train` split (uint8, count×C×H×W), none twice; draw 0 makes the real baseline."""
    images = data.splits["train"].images
    # The stream's name says "floor", a former word for the real baseline: another would give another draw.
    return images[torch.randperm(len(images), generator=stream("quality-floor", draw))[:count]]


def evaluate(G: Generator, reference: Reference, quick: bool = False) -> scores.Evaluation:
    """The scores of as many images of G as the reference has test images (for MNIST 10,000).

    The noise depends on G's z_dim alone, so the same weights give the same scores. `quick`: only QUICK_SCORES,
    with the same values.
    """
    images = scores.evaluation_images(G, reference.baselines.n)
    return scores.score_images(images, reference.classifier, reference.real, quick)


def _save(path: Path, reference: Reference) -> None:
    real = reference.real
    tensors = {"features": real.features, "radii": real.radii, "shares": real.shares}
    tensors |= real.gaussian._asdict() | real.moments._asdict()
    about = {"baselines": json.dumps(dataclasses.asdict(reference.baselines))}
    write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=about))


def _load(path: Path, classifier: Classifier) -> Reference | None:
    """The reference in the file `path`; None if it is not whole."""
    with suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
        baselines = Baselines(**json.loads(file.metadata()["baselines"]))
        gaussian = scores.Gaussian(*map(file.get_tensor, scores.Gaussian._fields))
        moments = scores.KernelMoments(*map(file.get_tensor, scores.KernelMoments._fields))
        features, radii, shares = map(file.get_tensor, ("features", "radii", "shares"))
        return Reference(classifier, scores.RealSide(features, radii, shares, gaussian, moments), baselines)
    return None
