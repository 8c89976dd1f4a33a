"""The fast step against the plain one, whose gradients are autograd's: the same training, to rounding."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan_core.config import RunConfig
from gan_core.data import load_images
from gan_core.fast_mlp import FastStep
from gan_core.networks import build_models
from gan_core.optimizers import OPTIMIZERS
from gan_core.training import PlainStep, image_order, mixing, noise, train

IMAGES = load_images("digits").images  # 28 batches of 64 and one of 5
SMALL = {"hidden_dim": 8, "batch_size": 8}  # of 35 images: four batches of 8 and one of 3


class ExactStep(PlainStep):
    """The plain step in float64: what both others round."""

    def __init__(self, config, G, D):
        super().__init__(config, G.double(), D.double())

    def _step(self, batches, z, mix):
        return super()._step([x.double() for x in batches], z.double(), mix.double())


def run(kind, config, images, D_bias=0.0):
    """The weights of G and D before and after config.epochs, and the figures of all iterations, float64."""
    G, D = build_models(config)
    parameters = [*G.parameters(), *D.parameters()]
    parameters[-1].data.add_(D_bias)
    before = [p.detach().double().clone() for p in parameters]
    steps = kind(config, G, D)
    figures = []
    for epoch in range(1, config.epochs + 1):
        order = image_order(config, epoch, len(images)).split(config.batch_size)
        figures.append(steps.epoch(images, order, noise(config, epoch), mixing(config, epoch)))
    return before, [p.detach().double() for p in parameters], torch.cat(figures, dim=1).double()


def rms(x):
    return x.square().mean().sqrt()


@pytest.mark.parametrize(
    ("count", "D_bias", "settings"),
    [
        # So small that no activation comes within rounding of the leaky ReLU's kink, where courses would part.
        (35, 0.0, {"z_dim": 20, "epochs": 30, **SMALL}),
        (35, 0.0, {"z_dim": 200, "epochs": 30, **SMALL}),
        (1797, 0.0, {"z_dim": 20, "epochs": 1}),
        (1797, 0.0, {"z_dim": 200, "epochs": 1}),
        (65, 0.0, {"epochs": 2}),
        (7, 0.0, {"batch_size": 7, "hidden_dim": 33, "z_dim": 1, "epochs": 2}),
        (3, 0.0, {"batch_size": 1, "hidden_dim": 1, "z_dim": 5, "epochs": 2}),
        # Where the cross-entropy's gradient fades: sigmoid(−28) is 7e−13, and it fades below 1e−12.
        *((35, bias, {"epochs": 1, **SMALL}) for bias in (-30.0, -28.0, -26.0)),
    ],
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_weight_ends_where_exact_arithmetic_takes_it(optimizer, count, D_bias, settings):
    """It may be off (root mean square) by a thousandth of its way beside what plain steps round."""
    case = RunConfig(optimizer=optimizer, **settings), IMAGES[:count], D_bias
    before, exact, exact_figures = run(ExactStep, *case)
    _, plain, _ = run(PlainStep, *case)
    _, fast, figures = run(FastStep, *case)
    for start, right, rounded, found in zip(before, exact, plain, fast, strict=True):
        way = rms(right - start)
        assert way > 0
        assert rms(found - right) <= 1e-3 * way + 3 * rms(rounded - right)
    torch.testing.assert_close(figures, exact_figures, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [PlainStep, FastStep])
@pytest.mark.parametrize(("bias", "losses"), [(-200.0, (100, 100)), (200.0, (100, 0))])
def test_a_saturated_run_is_stuck_at_100(kind, bias, losses):
    before, after, figures = run(kind, RunConfig(epochs=1), IMAGES, bias)
    certainty = float(bias > 0)
    expected = torch.tensor([*losses, certainty, certainty], dtype=torch.float64)
    assert torch.equal(figures, expected[:, None].expand(4, 29))
    assert all(map(torch.equal, before, after))


def digest(optimizer):
    """Of G's weights at the end of a training."""
    *_, trained = train(RunConfig(optimizer=optimizer, epochs=2), IMAGES)
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in trained.generator.parameters())).hexdigest()


def test_bit_for_bit_from_process_to_process():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_fast_mlp import *; "
        "torch.set_num_threads(1); print(*map(digest, OPTIMIZERS))"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    other = subprocess.run(command, capture_output=True, text=True, check=True)
    assert other.stdout.split() == [*map(digest, OPTIMIZERS)]
