"""The classifier of a data set: the package's own, one kept from before, or one trained now.

`python -m gan_core.evaluation.train_classifier` makes the package's own again.
"""

import argparse
import dataclasses
import hashlib
import json
import shlex
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from gan_core.config import make_config
from gan_core.data import DATASETS, FOLDER, ImageSet, LabelledImages, digest, load_images, short_name
from gan_core.errors import UserError
from gan_core.evaluation import PACKAGED
from gan_core.evaluation.classifier import (
    Classifier,
    accuracy,
    extract_features,
    load_classifier,
    one_thread,
    save_classifier,
)
from gan_core.networks import to_unit_range
from gan_core.rng import stream, stream_seed
from gan_core.storage import expanded, made_once
from gan_core.waiting import told

SEED = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is made: part of its record."""

    network: str = "conv 16, conv 32, linear 64, linear 10"  # of ten classes
    epochs: int = 12
    least_steps: int = 1500  # a small set is seen in more epochs
    batch_size: int = 128
    optimizer: str = "adamw"
    peak_learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    schedule: str = "one cycle"
    shift: int = 2  # pixels, the most by which a training image is moved
    features: str = "scaled to a mean square of 1"


RECIPE = Recipe()
# The balls of precision and recall reach to an image's 5th nearest neighbour: of fewer they would hold nearly all.
LEAST_TEST_IMAGES = 10


def classifier_for(data: ImageSet, cache_dir: Path) -> Classifier:
    """The classifier of an image set: the package's if it was made from these very images, else the cache's.

    If the cache has none, one is trained (minutes on one core), with a line on stderr before and after. Of
    several processes that ask at once, one trains and the others wait. Raises UserError if the cache cannot
    be written, or if the package's is damaged.
    """
    digests = [digest(*data.splits[split]) for split in ("train", "test")]
    if at := PACKAGED.get(data.name):
        packaged = load_classifier(at)
        if packaged is None:
            raise UserError(f"the package's classifier {at} is missing or damaged: install the package again")
        if [packaged.record["train_digest"], packaged.record["test_digest"]] == digests:
            return packaged
    # Images and recipe are in the file's name, so that no other classifier is used.
    recipe = hashlib.sha256(json.dumps([dataclasses.asdict(RECIPE), SEED], sort_keys=True).encode()).hexdigest()[:16]
    key = hashlib.sha256(" ".join([*digests, recipe]).encode()).hexdigest()[:16]
    path = expanded(cache_dir) / f"classifier-{short_name(data.name)}-{key}.safetensors"

    def make() -> Classifier:
        begun = f"training a classifier for {data.name}, once: minutes on one core; kept in {path.parent}"
        print(begun, file=sys.stderr)
        classifier = train_classifier(data)
        save_classifier(path, classifier)
        print(f"trained a classifier for {data.name}: {_how_good(classifier)}", file=sys.stderr)
        return classifier

    try:
        return made_once(lambda: load_classifier(path), make, path.with_suffix(".lock"))
    except OSError as error:
        raise UserError(f"cannot keep the classifier of {data.name} in {cache_dir}: {error}") from error


def _how_good(classifier: Classifier) -> str:
    return "{test_accuracy:.2%} of {test_images} test images right, {seconds:.0f} s".format_map(classifier.record)


def train_classifier(data: ImageSet, seed: int = SEED) -> Classifier:
    """A classifier trained on the `train` split, in whose record the digest of its weights is still empty.

    On one thread, so that the same machine gives the same weights, bit for bit. The test images give the
    accuracy and nothing else: nothing is chosen by it. Raises UserError if there are too few images.
    """
    train, test = data.splits["train"], data.splits["test"]
    steps_per_epoch = len(train.images) // RECIPE.batch_size
    if steps_per_epoch == 0:
        raise UserError(
            f"a classifier needs at least {RECIPE.batch_size} training images, {data.name} has {len(train.images)}"
        )
    if len(test.images) < LEAST_TEST_IMAGES:
        raise UserError(
            f"scores need at least {LEAST_TEST_IMAGES} test images, {data.name} has {len(test.images)}: add images"
        )
    epochs = max(RECIPE.epochs, -(-RECIPE.least_steps // steps_per_epoch))
    with one_thread():
        started = time.perf_counter()
        classifier = _train(data.name, train, epochs, seed)
        seconds = time.perf_counter() - started
        right = accuracy(classifier, test)
    _, channels, size, _ = data.images.shape
    form = f" --image-size {size} --channels {channels}" if data.folder_digest else ""
    flags = f"--dataset {shlex.quote(data.name)}{form} --seed {seed}"
    classifier.record = {
        "dataset": data.name,
        "command": f"python -m gan_core.evaluation.train_classifier {flags}",
        "recipe": {**dataclasses.asdict(RECIPE), "network": RECIPE.network.replace("10", str(classifier.classes))},
        **classifier.record,
        "seed": seed,
        "epochs": epochs,
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "test_accuracy": right,  # share of the test images that it classifies right
        "test_images": len(test.images),
        "weights_sha256": "",  # of the safetensors file
        "train_digest": digest(*train),
        "test_digest": digest(*test),
    }
    return classifier


def _train(name: str, train: LabelledImages, epochs: int, seed: int) -> Classifier:
    # The streams' names say "judge", a former word for the classifier: others would give other weights than
    # the packaged ones.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("judge-init", seed))
        classifier = Classifier({"classes": int(train.labels.max()) + 1, "shape": list(train.images.shape[1:])})
    steps_per_epoch = len(train.images) // RECIPE.batch_size
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=RECIPE.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=RECIPE.peak_learning_rate, total_steps=epochs * steps_per_epoch
    )
    order, shifts = stream("judge-order", seed), stream("judge-shifts", seed)
    for _ in told(range(epochs), epochs, f"training a classifier for {name}, epochs"):
        batches = torch.randperm(len(train.images), generator=order).split(RECIPE.batch_size)[:steps_per_epoch]
        for batch in batches:
            images = moved(train.images[batch], shifts)
            _, logits = classifier(to_unit_range(images))
            loss = cross_entropy(logits, train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    classifier.eval().requires_grad_(False)
    scale_features(classifier, train.images)
    return classifier


def scale_features(classifier: Classifier, images: Tensor) -> None:
    """Scale the features, in place, so that their mean square over `images` is 1; the logits stay the same.

    The cubic kernel adds 1 to x·y / d: features much larger than 1 would leave it the third power alone,
    in which a few outliers decide.
    """
    features, _ = extract_features(classifier, images)
    factor = features.square().mean(dtype=torch.float64).rsqrt().item()
    classifier.penultimate.weight.mul_(factor)  # what follows is a ReLU, so its outputs scale as its inputs do
    classifier.penultimate.bias.mul_(factor)
    classifier.head.weight.div_(factor)


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to ±2 pixels either way, black coming in at the edge. uint8, N×C×H×W, both."""
    side, shift = images.shape[-1], RECIPE.shift
    places = pad(images, (shift,) * 4).unfold(2, side, 1).unfold(3, side, 1)  # N×C×5×5×H×W, a view
    down, right = torch.randint(0, 2 * shift + 1, (2, len(images)), generator=generator)
    return places[torch.arange(len(images)), :, down, right]


def main(arguments: list[str] | None = None) -> int:
    """Train a classifier, write its weights and record, and print its accuracy; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gan_core.evaluation.train_classifier", description=__doc__)
    parser.add_argument("--dataset", default="mnist", help=f"{', '.join(DATASETS)} or {FOLDER}PATH; default mnist")
    parser.add_argument("--image-size", type=int, help="of a folder: 28 or 32 pixels; default 28")
    parser.add_argument("--channels", type=int, help="of a folder: 1 (gray) or 3 (in colour); default 3")
    parser.add_argument("--seed", type=int, default=SEED, help=f"default {SEED}")
    parser.add_argument("--data-dir", type=Path, help="where the images are or go")
    its = "weights file (.safetensors), the record goes beside; default: the package's own of the set"
    parser.add_argument("--out", type=Path, help=its)
    options = parser.parse_args(arguments)
    try:
        out = options.out or PACKAGED.get(options.dataset)
        if out is None:
            raise UserError(f"the package has no classifier of {options.dataset}: name a file with --out")
        form = {"image_size": options.image_size, "channels": options.channels}
        given = {name: value for name, value in form.items() if value is not None}
        data = load_images(make_config(dataset=options.dataset, **given).image_key, options.data_dir)
        classifier = train_classifier(data, options.seed)
        save_classifier(out, classifier)
    except UserError as error:
        print(f"train_classifier: {error}", file=sys.stderr)
        return 2
    print(f"{options.dataset}: {_how_good(classifier)}, weights {classifier.record['weights_sha256'][:16]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
