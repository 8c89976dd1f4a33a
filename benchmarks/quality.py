"""Measures the classifier and the scores: `python benchmarks/quality.py {classifier,time,calibration,runs}`.

What docs/quality.md says comes from here. On one thread; the images are looked for as the trainer does.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gan_core.config import make_config
from gan_core.data import load_images
from gan_core.evaluation.baselines import Reference, evaluate, load_reference, real_baseline_images
from gan_core.evaluation.classifier import extract_features
from gan_core.evaluation.health import Standard, diagnose, pixel_spread
from gan_core.evaluation.scores import (
    SCORES,
    evaluation_images,
    fit_gaussian,
    frechet_distance,
    kernel_distance,
    kernel_moments,
    measure_real,
    prdc,
    score_images,
    squared_radii,
)
from gan_core.events import EpochEnd, Samples, Trained
from gan_core.networks import build_models
from gan_core.training import train

REPEATS = 7
DRAWS = 5
# optimizer, learning rate, epochs: the runs that the thresholds of gan_core/quality/health.py stand between
RUNS = (
    "sgd:0.03:1 sgd:0.03:2 sgd:0.03:10 sgd:0.1:2 sgd:0.1:6 sgd:0.2:1 sgd:0.3:1 sgd:0.3:2 sgd:0.001:3 "
    "adam:1e-5:3 adam:2e-4:10 adam:2e-4:20 adam:1e-3:8 adam:3e-3:4 adam:0.03:2 rmsprop:0.01:3"
)


def classifier(reference: Reference) -> None:
    """Accuracy, and what the classifier sees in halves of the test set that it was not trained on."""
    network = reference.classifier
    print("{test_accuracy:.2%} of {test_images}, seed {seed}, {seconds:.0f} s".format_map(network.record))
    data = load_images(reference.baselines.dataset)
    test = data.splits["test"].images
    half = len(test) // 2
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    real = measure_real(network, test[order[:half]])
    for name, images in (
        (f"{half} test images against the other {half}", test[order[half:]]),
        (f"{half} training images against the same", real_baseline_images(data, half)),
    ):
        print(name, show(score_images(images, network, real).scores))


def timing(reference: Reference) -> None:
    """Seconds of a whole evaluation and of its parts; the same by torchmetrics, features given."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    G, _ = build_models(make_config(seed=1))
    real, network, count = reference.real, reference.classifier, reference.baselines.n
    images = evaluation_images(G, count)
    features, _ = extract_features(network, images)
    radii = squared_radii(features)
    gaussian, moments = fit_gaussian(features), kernel_moments(features)

    def theirs(metric: FrechetInceptionDistance | KernelInceptionDistance) -> object:
        metric.update(real.features, real=True)
        metric.update(features, real=False)
        return metric.compute()

    print(f"median and range of {REPEATS}")
    for name, work in {
        "whole evaluation": lambda: evaluate(G, reference),
        "in mid-run": lambda: evaluate(G, reference, quick=True),
        "generate": lambda: evaluation_images(G, count),
        "classifier": lambda: extract_features(network, images),
        "Fréchet": lambda: frechet_distance(real.gaussian, fit_gaussian(features)),
        "kernel": lambda: kernel_distance(real.moments, kernel_moments(features)),
        "radii": lambda: squared_radii(features),
        "prdc": lambda: prdc(real.features, features, real.radii, radii),
        "torchmetrics FD": lambda: theirs(FrechetInceptionDistance(feature=AsGiven())),
        "torchmetrics KID, 100 subsets of 1,000": lambda: theirs(KernelInceptionDistance(feature=AsGiven())),
    }.items():
        print(f"{name}: {timed(work)}")
    print("ours", frechet_distance(real.gaussian, gaussian), kernel_distance(real.moments, moments))
    print("theirs", theirs(FrechetInceptionDistance(feature=AsGiven())))
    print("theirs", theirs(KernelInceptionDistance(feature=AsGiven())))
    # The real_baseline's images lie near the real ones, so more comparisons are close than for an untrained G's.
    near, _ = extract_features(network, real_baseline_images(load_images(reference.baselines.dataset), count))
    exact = real.features.double(), near.double()
    print("prdc in float32", prdc(real.features, near, real.radii, squared_radii(near)))
    print("prdc in float64", prdc(*exact, *map(squared_radii, exact)))


class AsGiven(torch.nn.Module):
    """Gives torchmetrics features in place of images."""

    num_features = 64

    def forward(self, features: Tensor) -> Tensor:
        return features


def calibration(reference: Reference) -> None:
    """Both baselines of each score with their spread, real images, and real images without nines."""
    network, real, count = reference.classifier, reference.real, reference.baselines.n
    data = load_images(reference.baselines.dataset)
    real_baselines = [
        score_images(real_baseline_images(data, count, draw=draw), network, real).scores for draw in range(DRAWS)
    ]
    untrained_baselines = []
    for seed in range(DRAWS):
        G, _ = build_models(make_config(dataset=data.name, seed=seed))
        untrained_baselines.append(evaluate(G, reference).scores)
    for name in SCORES:
        print(
            name,
            reference.baselines.real_baseline[name],
            reference.baselines.untrained_baseline[name],
            *(spread(s, name) for s in (real_baselines, untrained_baselines)),
        )
    print("test images themselves", show(score_images(data.splits["test"].images, network, real).scores))
    train_split = data.splits["train"]
    for draw in range(3):
        order = torch.randperm(len(train_split.images), generator=torch.Generator().manual_seed(draw))
        left = train_split.images[order][train_split.labels[order] != 9][:count]
        print("training images without nines", show(score_images(left, network, real).scores))


def runs(reference: Reference, settings: str) -> None:
    """Trains each setting, scores its last G and says what became of it."""
    images = load_images(reference.baselines.dataset).images
    for setting in settings.split():
        optimizer, learning_rate, epochs = setting.split(":")
        config = make_config(
            dataset=reference.baselines.dataset,
            optimizer=optimizer,
            learning_rate=float(learning_rate),
            epochs=int(epochs),
        )
        ends = []
        for event in train(config, images):
            if isinstance(event, EpochEnd):
                ends.append(event)
            elif isinstance(event, Samples):
                moves = pixel_spread(event.images)
            elif isinstance(event, Trained):
                evaluation = evaluate(event.generator, reference)
        found = diagnose(ends, moves, evaluation, Standard(reference.baselines.untrained_baseline))
        print(setting, found.health, found.epoch, found.reason, sep=" | ")
        print(
            "   ",
            f"spread {moves:.4f}",
            show(evaluation.scores),
            np.round(evaluation.class_shares, 3),
            flush=True,
        )


def timed(work: Callable[[], object]) -> str:
    """Median and range in seconds of REPEATS calls after a first: by the clock, and of the processor."""
    work()
    clock, processor = [], []
    for _ in range(REPEATS):
        started = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - started[0])
        processor.append(time.process_time() - started[1])
    return ", ".join(
        f"{name} {statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})"
        for name, seconds in (("clock", clock), ("processor", processor))
    )


def show(scores: dict[str, float]) -> str:
    return " ".join(f"{name.removeprefix('quality/')} {value:.4g}" for name, value in scores.items())


def spread(several: list[dict[str, float]], name: str) -> str:
    values = [scores[name] for scores in several]
    return f"[{min(values):.4g} to {max(values):.4g}, n = {len(values)}]"


def cpu() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return models[0].split(":")[1].strip() if models else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("classifier", "time", "calibration", "runs"))
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--cache-dir", type=Path, help="default: a fresh folder")
    parser.add_argument("--runs", default=RUNS, help="optimizer:learning_rate:epochs, several apart by spaces")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{cpu()}, one thread, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as fresh:
        reference = load_reference(load_images(options.dataset), options.cache_dir or Path(fresh))
        print(f"{options.dataset}, n = {reference.baselines.n}")
        {
            "classifier": classifier,
            "time": timing,
            "calibration": calibration,
            "runs": lambda known: runs(known, options.runs),
        }[options.what](reference)


if __name__ == "__main__":
    main()
