"""The classifier: a small network for 28×28 images, fixed once trained, on whose features images are compared.

The Inception network, which is usual for this, is made for photographs of 299×299. A classifier of the data
itself sees what matters in a digit, is far faster, and fits into the package. Distances on its features can
only be compared with other distances on the features of the same classifier.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from gan_core.data import LabelledImages
from gan_core.networks import SIDE, to_unit_range
from gan_core.storage import write_whole

FEATURES = 64  # width of the layer before the last
CLASSES = 10
BLOCK = 250  # images in a forward pass, as many as a core's cache holds; with 1,000 each takes twice as long


class Classifier(nn.Module):
    """Two convolutions and two linear layers: images → features → logits of the ten classes."""

    def __init__(self) -> None:
        """Random first weights, drawn from PyTorch's global generator."""
        super().__init__()
        self.body = nn.Sequential(
            # The pool comes before the ReLU: the values are the same, and it takes half the time.
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
        # More than twice as fast on a CPU as the usual order of dimensions.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: N×1×28×28 float32 in [-1, 1] → features N×64, 0 or more, and logits N×10."""
        features = self.penultimate(self.body(images)).relu()
        return features, self.head(features)


@dataclasses.dataclass(frozen=True)
class ClassifierRecord:
    """How a classifier was made and how good it is: the JSON file beside its weights."""

    dataset: str
    command: str
    recipe: dict[str, str | int | float]
    seed: int
    epochs: int
    torch: str  # version
    seconds: float  # of the training
    test_accuracy: float  # share of the test images that it classifies right
    test_images: int
    weights_sha256: str  # of the safetensors file
    train_digest: str  # of the training images and labels, as LabelledImages has it
    test_digest: str


@dataclasses.dataclass(frozen=True)
class TrainedClassifier:
    """A classifier in evaluation mode, without gradients, and its record."""

    network: Classifier
    record: ClassifierRecord


@torch.inference_mode()
def extract_features(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """images: uint8, N×1×28×28 → features N×64 and log-probabilities of the classes N×10, float32."""
    features = torch.empty(len(images), FEATURES)
    log_probabilities = torch.empty(len(images), CLASSES)
    for start in range(0, len(images), BLOCK):
        block = slice(start, start + BLOCK)
        features[block], logits = network(to_unit_range(images[block]))
        log_probabilities[block] = logits.log_softmax(dim=1)
    return features, log_probabilities


def accuracy(network: Classifier, data: LabelledImages) -> float:
    """The share of the images that the network classifies right, 0..1."""
    _, log_probabilities = extract_features(network, data.images)
    return (log_probabilities.argmax(dim=1) == data.labels).to(torch.float64).mean().item()


def load_classifier(path: Path) -> TrainedClassifier | None:
    """The classifier in the file `path` (.safetensors, its record beside it as .json); None if not whole."""
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
    """Write the weights, then the record, which has their digest. Returns the record with the digest."""
    weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    record = dataclasses.replace(record, weights_sha256=hashlib.sha256(weights).hexdigest())
    write_whole(path, weights)
    text = json.dumps(dataclasses.asdict(record), indent=2) + "\n"
    write_whole(path.with_suffix(".json"), text.encode())
    return record
