"""The classifier: a small network for small images, fixed once trained, on whose features images are compared.

The Inception network, which is usual for this, is made for photographs of 299×299. A classifier of the data
itself sees what matters in a digit, is far faster, and fits into the package. Distances on its features can
only be compared with other distances on the features of the same classifier.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from gan_core.data import LabelledImages
from gan_core.networks import to_unit_range
from gan_core.storage import write_whole

FEATURES = 64  # width of the layer before the last
BLOCK = 100  # images in a forward pass, as many as a core's cache holds; the features do not depend on it


class Classifier(nn.Module):
    """Two convolutions and two linear layers: images → features → logits of the classes.

    record: how it was made and how good it is, as in the JSON file beside its weights.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        """Random first weights, drawn from PyTorch's global generator, for what the record says of the images."""
        super().__init__()
        self.record = record
        # The package's records are from before there were other images.
        self.classes: int = record.get("classes", 10)
        channels, side, _ = record.get("shape", (1, 28, 28))
        self.body = nn.Sequential(
            # The pool comes before the ReLU: the values are the same, and it takes half the time.
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.MaxPool2d(2),  # 16×14×14, of 28×28 pixels
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(2),  # 32×7×7
            nn.ReLU(),
            nn.Flatten(),
        )
        self.penultimate = nn.Linear(32 * (side // 4) ** 2, FEATURES)
        self.head = nn.Linear(FEATURES, self.classes)
        # More than twice as fast on a CPU as the usual order of dimensions.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: N×C×H×W float32 in [-1, 1] → features N×64, 0 or more, and logits N×classes."""
        features = self.penultimate(self.body(images)).relu()
        return features, self.head(features)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: more would add up in another order, and the last bits would depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def extract_features(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """images: uint8, N×C×H×W → features N×64 and log-probabilities of the classes N×classes, float32."""
    blocks = [classifier(to_unit_range(block)) for block in images.split(BLOCK)]
    features, logits = map(torch.cat, zip(*blocks, strict=True))
    return features, logits.log_softmax(dim=1)


def accuracy(classifier: Classifier, data: LabelledImages) -> float:
    """The share of the images that the classifier gets right, 0..1."""
    _, log_probabilities = extract_features(classifier, data.images)
    return (log_probabilities.argmax(dim=1) == data.labels).to(torch.float64).mean().item()


def load_classifier(path: Path) -> Classifier | None:
    """The classifier in the file `path` (.safetensors, its record beside it as .json); None if not whole.

    It is in evaluation mode, without gradients.
    """
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        weights = path.read_bytes()
    except (FileNotFoundError, ValueError):
        return None
    if hashlib.sha256(weights).hexdigest() != record["weights_sha256"]:
        return None
    classifier = Classifier(record)
    classifier.load_state_dict(load(weights))
    return classifier.eval().requires_grad_(False)


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write the weights, then the record, to which their digest is added."""
    weights = save({name: tensor.contiguous() for name, tensor in classifier.state_dict().items()})
    classifier.record["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    write_whole(path, weights)
    write_whole(path.with_suffix(".json"), (json.dumps(classifier.record, indent=2) + "\n").encode())
