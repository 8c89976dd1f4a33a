"""The yardstick of a data set: its judge, its real side, and what the best and the worst images score."""

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
from gan_core.image_files import default_data_dir
from gan_core.models import build_models
from gan_core.paths import expanded
from gan_core.quality.frechet import Gaussian
from gan_core.quality.judge import TrainedJudge, judge_for, known_judge, write_whole
from gan_core.quality.kernel import KernelMoments
from gan_core.quality.prdc import NEIGHBOURS
from gan_core.quality.scores import (
    RealSide,
    evaluation_images,
    measure_real,
    score_images,
)
from gan_core.streams import stream

# Counts up when a score's definition or the file's layout changes, so that what older code kept is not used.
SCORES_VERSION = 2


@dataclass(frozen=True)
class Reference:
    """What an evaluation compares with, computed once for a data set and a judge.

    floor: the scores of real training images, as many as test images: no generator can be asked for better.
    ceiling: those of an untrained G. Both by name, as in SCORES.
    """

    dataset: str
    judge: TrainedJudge
    real: RealSide
    floor: dict[str, float]
    ceiling: dict[str, float]

    @property
    def count(self) -> int:
        """How many images an evaluation makes: as many as there are test images."""
        return len(self.real.features)


def quality_cache(data_dir: Path | None = None) -> Path:
    """Where judges and references are kept: a folder `quality` among the data."""
    return (data_dir or default_data_dir()) / "quality"


def load_reference(dataset: str, cache_dir: Path, data_dir: Path | None = None) -> Reference:
    """The reference of a data set, from the cache, or computed (seconds, plus its judge's training) and kept.

    The files of the data set are checked each time, as by `load_images`. Several processes may ask at once:
    one computes, the others wait. A cache that cannot be written is said on stderr and done without, unless a
    judge has to be kept there. Raises UserError then, and where the images cannot be had.
    """
    of = json.dumps([fingerprint(dataset, data_dir), SCORES_VERSION, NEIGHBOURS])
    key = hashlib.sha256(of.encode()).hexdigest()[:16]
    path = expanded(cache_dir) / f"reference-{dataset}-{key}.safetensors"
    if kept := _load(path, dataset, cache_dir):
        return kept
    judge = judge_for(dataset, cache_dir, data_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            # Another process may have computed it while this one waited for the lock.
            if kept := _load(path, dataset, cache_dir):
                return kept
            reference = compute_reference(dataset, judge, data_dir)
            _save(path, reference)
            return reference
    except OSError as error:
        print(f"cannot keep the scores' reference of {dataset} in {cache_dir}: {error}", file=sys.stderr)
        return compute_reference(dataset, judge, data_dir)


def compute_reference(dataset: str, judge: TrainedJudge, data_dir: Path | None = None) -> Reference:
    """The reference of a data set by a judge, computed afresh."""
    test = load_split(dataset, "test", data_dir)
    real = measure_real(judge.network, test.images)
    floor = score_images(floor_images(dataset, len(test.images), data_dir), judge.network, real)
    untrained, _ = build_models(make_config(dataset=dataset, seed=0))
    ceiling = score_images(evaluation_images(untrained, len(test.images)), judge.network, real)
    return Reference(dataset, judge, real, floor.scores, ceiling.scores)


def floor_images(dataset: str, count: int, data_dir: Path | None = None, draw: int = 0) -> Tensor:
    """`count` training images (uint8, count×1×28×28) drawn without repeats; the floor's own are draw 0."""
    images = load_split(dataset, "train", data_dir).images
    return images[torch.randperm(len(images), generator=stream("quality-floor", draw))[:count]]


def _save(path: Path, reference: Reference) -> None:
    real, record = reference.real, reference.judge.record
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
        "judge": record.weights_sha256,
        "floor": json.dumps(reference.floor),
        "ceiling": json.dumps(reference.ceiling),
    }
    write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=about))


def _load(path: Path, dataset: str, cache_dir: Path) -> Reference | None:
    """The reference kept at `path`; None if not there whole, or made by a judge that is not here."""
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
    judge = known_judge(dataset, about["train_digest"], about["test_digest"], cache_dir)
    if judge is None or judge.record.weights_sha256 != about["judge"]:
        return None
    moments = KernelMoments(len(features), first, second, third, own.item())
    real = RealSide(features, radii, Gaussian(mean, covariance), moments, shares)
    return Reference(dataset, judge, real, json.loads(about["floor"]), json.loads(about["ceiling"]))
