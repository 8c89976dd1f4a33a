"""The yardstick of a data set: its judge, its real side, and what the best and the worst images score."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gan_core.config import make_config
from gan_core.data import load_split
from gan_core.errors import UserError
from gan_core.models import build_models
from gan_core.quality.judge import TrainedJudge, judge_for, write_whole
from gan_core.quality.prdc import NEIGHBOURS
from gan_core.quality.scores import (
    RealSide,
    evaluation_images,
    measure_real,
    real_side,
    score_images,
)
from gan_core.streams import stream

# Counts up when a score's definition changes, so that floors and ceilings kept by older code are not used.
SCORES_VERSION = 1


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


def load_reference(dataset: str, cache_dir: Path, data_dir: Path | None = None) -> Reference:
    """The reference of a data set, from the cache, or computed (seconds, plus its judge's training) and kept.

    Several processes may ask at once: one computes, the others wait. Raises UserError where the images cannot
    be had or the cache cannot be written.
    """
    judge = judge_for(dataset, cache_dir, data_dir)
    record = judge.record
    digests = [record.train_digest, record.test_digest, record.weights_sha256, SCORES_VERSION, NEIGHBOURS]
    key = hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]
    path = cache_dir.expanduser().absolute() / f"reference-{dataset}-{key}.safetensors"
    try:
        if kept := _load(path, dataset, judge):
            return kept
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            # Another process may have computed it while this one waited for the lock.
            if kept := _load(path, dataset, judge):
                return kept
            reference = compute_reference(dataset, judge, data_dir)
            _save(path, reference)
            return reference
    except OSError as error:
        raise UserError(f"cannot keep the reference of {dataset} in {cache_dir}: {error}") from error


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
    real = reference.real
    tensors = {"features": real.features, "radii": real.radii, "shares": real.shares}
    figures = {"floor": json.dumps(reference.floor), "ceiling": json.dumps(reference.ceiling)}
    write_whole(path, save(tensors, metadata=figures))


def _load(path: Path, dataset: str, judge: TrainedJudge) -> Reference | None:
    """The reference kept at `path`; None if not there whole."""
    try:
        with safe_open(path, framework="pt") as file:
            features, radii, shares = (file.get_tensor(name) for name in ("features", "radii", "shares"))
            floor, ceiling = (json.loads(file.metadata()[name]) for name in ("floor", "ceiling"))
    except (FileNotFoundError, SafetensorError):
        return None
    return Reference(dataset, judge, real_side(features, radii, shares), floor, ceiling)
