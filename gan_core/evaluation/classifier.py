"""The classifier: a small classifier of 28×28 images, fixed once trained, on whose features images are compared.

The Inception network that usually plays this part is made for photographs of 299×299; a classifier of the
data itself sees what matters in a digit, is far faster, and fits in the package. Distances on its features
can only be compared with distances on the features of the same classifier: never with figures of another network.
"""

import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load, save
from torch import Tensor, nn

from gan_core.data import LabelledImages, load_split
from gan_core.errors import UserError
from gan_core.evaluation import PACKAGED
from gan_core.networks import SIDE, to_unit_range
from gan_core.storage import expanded

FEATURES = 64  # width of the layer before the last
CLASSES = 10
BLOCK = 250  # images in a forward pass: what a core's cache holds; 1,000 take twice as long each
# The classifiers that come with the package, by data set.


class Classifier(nn.Module):
    """Two convolutions and two linear layers: images → features → logits of the ten classes."""

    def __init__(self) -> None:
        """Random first weights, drawn from PyTorch's global generator."""
        super().__init__()
        self.body = nn.Sequential(
            # The pool first, then the ReLU: the same values as the other way round, in half the time.
            nn.Conv2d(1, 16, 3, padding=1),
            nn.MaxPool2d(2),  # 16×14×14
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(2),  # 32×7×7
            nn.ReLU(),
            nn.Flatten(),
        )
        self.penultimate = nn.Linear(32 * (SIDE // 4) ** 2, FEATURES)
        self.head = nn.Linear(FEATURES, CLASSES)
        # More than twice as fast on a CPU as the order of dimensions that is usual.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: N×1×28×28 float32 in [-1, 1] → features N×64, 0 or more, and logits N×10."""
        features = self.penultimate(self.body(images)).relu()
        return features, self.head(features)


@dataclass(frozen=True)
class ClassifierRecord:
    """How a classifier was made and how good it is: the JSON file beside its weights."""

    dataset: str
    command: str
    recipe: dict[str, str | int | float]
    seed: int
    epochs: int
    torch: str  # version
    seconds: float  # the training took
    test_accuracy: float  # share of the test images that it classifies right
    test_images: int
    weights_sha256: str  # of the safetensors file
    train_digest: str  # of the training images and labels, as LabelledImages has it
    test_digest: str


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier in evaluation mode, without gradients, and its record."""

    network: Classifier
    record: ClassifierRecord


@torch.inference_mode()
def look_at(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the classifier sees in images (uint8, N×1×28×28): features N×64 and log-probabilities N×10, float32."""
    features = torch.empty(len(images), FEATURES)
    log_probabilities = torch.empty(len(images), CLASSES)
    for start, block in _blocks(images):
        features[start : start + len(block)], logits = network(to_unit_range(block))
        log_probabilities[start : start + len(block)] = logits.log_softmax(dim=1)
    return features, log_probabilities


def accuracy(network: Classifier, data: LabelledImages) -> float:
    """The share of the images that the classifier classifies right, 0..1."""
    _, log_probabilities = look_at(network, data.images)
    return (log_probabilities.argmax(dim=1) == data.labels).to(torch.float64).mean().item()


def classifier_for(dataset: str, cache_dir: Path, data_dir: Path | None = None) -> TrainedClassifier:
    """The classifier of a data set: the package's own where it was made from these very images, else the cache's.

    Where the cache has none it is trained (minutes on one core), which is said on stderr before and after.
    Several processes may ask at once: one trains, the others wait. Raises UserError where the images cannot
    be had or the cache cannot be written.
    """
    from gan_core.evaluation.train_classifier import train_classifier

    train, test = load_split(dataset, "train", data_dir), load_split(dataset, "test", data_dir)
    try:
        if known := known_classifier(dataset, train.digest, test.digest, cache_dir):
            return known
        path = _cached(dataset, train.digest, test.digest, cache_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            # Another process may have trained it while this one waited for the lock.
            if cached := load_classifier(path):
                return cached
            print(
                f"training a classifier for {dataset}, once: minutes on one core; kept in {path.parent}",
                file=sys.stderr,
            )
            trained = train_classifier(train, test)
            save_classifier(path, *trained)
    except OSError as error:
        raise UserError(f"cannot keep the classifier of {dataset} in {cache_dir}: {error}") from error
    kept = load_classifier(path)
    assert kept is not None  # just written
    record = kept.record
    print(
        f"trained a classifier for {dataset} in {record.seconds:.0f} s: {record.test_accuracy:.2%} of "
        f"{record.test_images} test images right",
        file=sys.stderr,
    )
    return kept


def known_classifier(
    dataset: str, train_digest: str, test_digest: str, cache_dir: Path
) -> TrainedClassifier | None:
    """The classifier made from the images of these digests, the package's or the cache's; None if there is none.

    Raises UserError if the package should have one and it is damaged.
    """
    if at := PACKAGED.get(dataset):
        packaged = load_classifier(at)
        if packaged is None:
            raise UserError(f"the package's classifier {at} is missing or damaged: install the package again")
        if (packaged.record.train_digest, packaged.record.test_digest) == (train_digest, test_digest):
            return packaged
    return load_classifier(_cached(dataset, train_digest, test_digest, cache_dir))


def _cached(dataset: str, train_digest: str, test_digest: str, cache_dir: Path) -> Path:
    from gan_core.evaluation.train_classifier import recipe_digest

    key = hashlib.sha256(f"{train_digest} {test_digest} {recipe_digest()}".encode()).hexdigest()[:16]
    return expanded(cache_dir) / f"classifier-{dataset}-{key}.safetensors"


def load_classifier(path: Path) -> TrainedClassifier | None:
    """The classifier kept at `path` (.safetensors, its record beside it as .json); None if not there whole."""
    try:
        record = ClassifierRecord(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        weights = path.read_bytes()
    except (FileNotFoundError, TypeError, ValueError):
        return None
    if hashlib.sha256(weights).hexdigest() != record.weights_sha256:
        return None
    network = Classifier()
    network.load_state_dict(load(weights))
    return TrainedClassifier(network.eval().requires_grad_(False), record)


def save_classifier(path: Path, network: Classifier, record: ClassifierRecord) -> ClassifierRecord:
    """Write weights and record, each beside and then renamed; the record last, as it vouches for the weights.

    Returns the record with the digest of the weights filled in.
    """
    weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    record = dataclasses.replace(record, weights_sha256=hashlib.sha256(weights).hexdigest())
    write_whole(path, weights)
    text = json.dumps(dataclasses.asdict(record), indent=2) + "\n"
    write_whole(path.with_suffix(".json"), text.encode())
    return record


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that no reader ever sees part of it: beside it, then renamed."""
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(beside).chmod(0o644)  # mkstemp's files are for their owner alone
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _blocks(images: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(images), BLOCK):
        yield start, images[start : start + BLOCK]
