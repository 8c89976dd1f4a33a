"""The classifier of a data set: the package's own, one kept from before, or one trained now.

`python -m gan_core.evaluation.train_classifier` makes the package's own again.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from gan_core.data import DATASETS, LabelledImages, load_split
from gan_core.errors import UserError
from gan_core.evaluation import PACKAGED
from gan_core.evaluation.classifier import (
    Classifier,
    ClassifierRecord,
    TrainedClassifier,
    accuracy,
    extract_features,
    load_classifier,
    save_classifier,
)
from gan_core.networks import to_unit_range
from gan_core.rng import stream, stream_seed
from gan_core.storage import expanded

SEED = 0
EPOCHS = 12
LEAST_STEPS = 1500  # a small set is seen in more epochs
BATCH_SIZE = 128
PEAK_LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
SHIFT = 2  # pixels, the most by which a training image is moved
RECIPE: dict[str, str | int | float] = {
    "network": "conv 16, conv 32, linear 64, linear 10",
    "epochs": EPOCHS,
    "least_steps": LEAST_STEPS,
    "batch_size": BATCH_SIZE,
    "optimizer": "adamw",
    "peak_learning_rate": PEAK_LEARNING_RATE,
    "weight_decay": WEIGHT_DECAY,
    "schedule": "one cycle",
    "shift": SHIFT,
    "features": "scaled to a mean square of 1",
}


def classifier_for(dataset: str, cache_dir: Path, data_dir: Path | None = None) -> TrainedClassifier:
    """The classifier of a data set: the package's if it was made from these very images, else the cache's.

    If the cache has none, one is trained (minutes on one core), with a line on stderr before and after. Of
    several processes that ask at once, one trains and the others wait. Raises UserError if the images cannot
    be had or the cache cannot be written.
    """
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
            save_classifier(path, *train_classifier(train, test))
    except OSError as error:
        raise UserError(f"cannot keep the classifier of {dataset} in {cache_dir}: {error}") from error
    kept = load_classifier(path)
    assert kept is not None  # just written
    print(
        f"trained a classifier for {dataset} in {kept.record.seconds:.0f} s: "
        f"{kept.record.test_accuracy:.2%} of {kept.record.test_images} test images right",
        file=sys.stderr,
    )
    return kept


def known_classifier(dataset: str, train_digest: str, test_digest: str, cache_dir: Path) -> TrainedClassifier | None:
    """The package's or the cache's classifier made from the images of these digests; None if there is none.

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
    # Of images and recipe, so that a classifier of another recipe is not used.
    recipe = hashlib.sha256(json.dumps([RECIPE, SEED], sort_keys=True).encode()).hexdigest()[:16]
    key = hashlib.sha256(f"{train_digest} {test_digest} {recipe}".encode()).hexdigest()[:16]
    return expanded(cache_dir) / f"classifier-{dataset}-{key}.safetensors"


def train_classifier(
    train: LabelledImages, test: LabelledImages, seed: int = SEED
) -> tuple[Classifier, ClassifierRecord]:
    """A classifier trained on `train` and its record, in which the digest of the weights is still empty.

    On one thread, so that the same machine gives the same weights, bit for bit. The test images give the
    accuracy and nothing else: nothing is chosen by it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.perf_counter()
        epochs = epochs_for(train)
        network = _train(train, epochs, seed)
        seconds = time.perf_counter() - started
        right = accuracy(network, test)
    finally:
        torch.set_num_threads(threads)
    command = f"python -m gan_core.evaluation.train_classifier --dataset {train.name} --seed {seed}"
    record = ClassifierRecord(
        dataset=train.name,
        command=command,
        recipe=RECIPE,
        seed=seed,
        epochs=epochs,
        torch=torch.__version__,
        seconds=round(seconds, 1),
        test_accuracy=right,
        test_images=len(test.images),
        weights_sha256="",
        train_digest=train.digest,
        test_digest=test.digest,
    )
    return network, record


def epochs_for(train: LabelledImages) -> int:
    """The recipe's epochs, more where the set is small. Raises UserError if it is smaller than a batch."""
    steps_per_epoch = len(train.images) // BATCH_SIZE
    if steps_per_epoch == 0:
        raise UserError(
            f"a classifier needs at least {BATCH_SIZE} training images, {train.name} has {len(train.images)}"
        )
    return max(EPOCHS, -(-LEAST_STEPS // steps_per_epoch))


def _train(train: LabelledImages, epochs: int, seed: int) -> Classifier:
    # The streams' names say "judge", a former word for the classifier: others would give other weights than
    # the packaged ones.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("judge-init", seed))
        network = Classifier()
    steps_per_epoch = len(train.images) // BATCH_SIZE
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_LEARNING_RATE, total_steps=epochs * steps_per_epoch
    )
    order, shifts = stream("judge-order", seed), stream("judge-shifts", seed)
    for _ in range(epochs):
        batches = torch.randperm(len(train.images), generator=order).split(BATCH_SIZE)[:steps_per_epoch]
        for batch in batches:
            images = moved(train.images[batch], shifts)
            _, logits = network(to_unit_range(images))
            loss = cross_entropy(logits, train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval().requires_grad_(False)
    scale_features(network, train.images)
    return network


def scale_features(network: Classifier, images: Tensor) -> None:
    """Scale the features, in place, so that their mean square over `images` is 1; the logits stay the same.

    The cubic kernel adds 1 to x·y / d: features much larger than 1 would leave it the third power alone,
    in which a few outliers decide.
    """
    features, _ = extract_features(network, images)
    factor = features.square().mean(dtype=torch.float64).rsqrt().item()
    network.penultimate.weight.mul_(factor)  # what follows is a ReLU, so its outputs scale as its inputs do
    network.penultimate.bias.mul_(factor)
    network.head.weight.div_(factor)


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to ±2 pixels either way, black coming in at the edge. uint8, N×1×28×28, both."""
    side = images.shape[-1]
    places = pad(images, (SHIFT,) * 4).unfold(2, side, 1).unfold(3, side, 1)  # N×1×5×5×28×28, a view
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, len(images)), generator=generator)
    return places[torch.arange(len(images)), :, down, right]


def main(arguments: list[str] | None = None) -> int:
    """Train a classifier, write its weights and record, and print its accuracy; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gan_core.evaluation.train_classifier", description=__doc__)
    parser.add_argument("--dataset", default="mnist", help=f"one of {', '.join(DATASETS)}; default mnist")
    parser.add_argument("--seed", type=int, default=SEED, help=f"default {SEED}")
    parser.add_argument("--data-dir", type=Path, help="where the images are or go")
    parser.add_argument(
        "--out",
        type=Path,
        help="weights file (.safetensors), the record goes beside; default: the package's own of the set",
    )
    options = parser.parse_args(arguments)
    try:
        out = options.out or PACKAGED.get(options.dataset)
        if out is None:
            raise UserError(f"the package has no classifier of {options.dataset}: name a file with --out")
        train, test = (load_split(options.dataset, split, options.data_dir) for split in ("train", "test"))
        record = save_classifier(out, *train_classifier(train, test, options.seed))
    except UserError as error:
        print(f"train_classifier: {error}", file=sys.stderr)
        return 2
    print(
        f"{record.dataset}: {record.test_accuracy:.2%} of {record.test_images} test images right, "
        f"{record.seconds:.0f} s, weights {record.weights_sha256[:16]}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
