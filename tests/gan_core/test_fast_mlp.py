"""The fast step against the plain one, whose gradients are autograd's: the same training, to rounding."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gan_core.config import RunConfig, make_config
from gan_core.data import load_images
from gan_core.events import EpochEnd, Trained
from gan_core.fast_mlp import FastStep
from gan_core.networks import Generator, build_models
from gan_core.optimizers import OPTIMIZERS
from gan_core.training import PlainStep, image_order, noise, train


@pytest.fixture(scope="module")
def images() -> Tensor:
    """1,797 digits, uint8: 28 batches of 64 and one of 5."""
    return load_images("digits").images


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a sweep trains; and two threads a process crawl where several processes share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ExactStep(PlainStep):
    """The plain step in float64: what both others round."""

    def __init__(self, config: RunConfig, G: Generator, D: nn.Module) -> None:
        super().__init__(config, G.double(), D.double())

    def _step(self, x: Tensor, z: Tensor) -> Tensor:
        return super()._step(x.double(), z.double())


def run(
    kind: type[PlainStep] | type[FastStep], config: RunConfig, images: Tensor, D_bias: float = 0.0
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """D and G's weights before and after config.epochs, and the figures of all iterations, float64."""
    G, D = build_models(config)
    parameters = [*G.parameters(), *D.parameters()]
    with torch.no_grad():
        parameters[-1].add_(D_bias)
    before = [p.detach().double().clone() for p in parameters]
    steps = kind(config, G, D)
    figures = []
    for epoch in range(1, config.epochs + 1):
        order = image_order(config, epoch, len(images)).split(config.batch_size)
        figures.append(steps.epoch(images, order, noise(config, epoch)))
    return before, [p.detach().double() for p in parameters], torch.cat(figures, dim=1).double()


def assert_same_training(config: RunConfig, images: Tensor, D_bias: float = 0.0) -> None:
    """Each weight matrix and bias ends where exact arithmetic takes it, and the figures agree.

    It may be off (root mean square) by a thousandth of its way beside what plain steps round.
    """
    before, exact, exact_figures = run(ExactStep, config, images, D_bias)
    _, plain, _ = run(PlainStep, config, images, D_bias)
    _, fast, figures = run(FastStep, config, images, D_bias)
    for start, right, rounded, found in zip(before, exact, plain, fast, strict=True):
        way = rms(right - start)
        assert way > 0
        assert rms(found - right) <= 1e-3 * way + 3 * rms(rounded - right)
    torch.testing.assert_close(figures, exact_figures, rtol=0, atol=1e-4)


def rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


@pytest.mark.parametrize("z_dim", [20, 200])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_over_many_steps(optimizer: str, z_dim: int, images: Tensor) -> None:
    # So small that no activation comes within rounding of the leaky ReLU's kink, where courses would part.
    config = make_config(optimizer=optimizer, z_dim=z_dim, hidden_dim=8, batch_size=8, epochs=30)
    assert_same_training(config, images[:35])  # four batches of 8 and one of 3


@pytest.mark.parametrize("z_dim", [20, 200])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_in_full_size(optimizer: str, z_dim: int, images: Tensor) -> None:
    assert_same_training(make_config(optimizer=optimizer, z_dim=z_dim, epochs=1), images)


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (65, {"z_dim": 100}),
        (7, {"batch_size": 7, "hidden_dim": 33, "z_dim": 1}),
        (3, {"batch_size": 1, "hidden_dim": 1, "z_dim": 5}),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_odd_shapes(optimizer: str, count: int, shape: dict[str, int], images: Tensor) -> None:
    assert_same_training(make_config(optimizer=optimizer, epochs=2, **shape), images[:count])


@pytest.mark.parametrize("bias", [-30.0, -28.0, -26.0])  # sigmoid(−28) is 7e−13; it fades below 1e−12
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_where_the_cross_entropys_gradient_fades(optimizer: str, bias: float, images: Tensor) -> None:
    config = make_config(optimizer=optimizer, hidden_dim=8, batch_size=8, epochs=1)
    assert_same_training(config, images[:35], bias)


@pytest.mark.parametrize("kind", [PlainStep, FastStep])
@pytest.mark.parametrize(("bias", "losses"), [(-200.0, (100, 100)), (200.0, (100, 0))])
def test_a_saturated_run_is_stuck_at_100(
    kind: type[PlainStep] | type[FastStep], bias: float, losses: tuple[float, float], images: Tensor
) -> None:
    config = make_config(epochs=1)
    before, after, figures = run(kind, config, images, bias)
    certainty = float(bias > 0)
    expected = torch.tensor([*losses, certainty, certainty], dtype=torch.float64)
    assert torch.equal(figures, expected[:, None].expand(4, 29))
    for start, end in zip(before, after, strict=True):
        assert torch.equal(start, end)


def digest(config: RunConfig, images: Tensor) -> str:
    """Of all that a training leaves: G's weights and every iteration's figures."""
    found = hashlib.sha256()
    for event in train(config, images):
        if isinstance(event, EpochEnd):
            found.update(event.discriminator_losses.tobytes() + event.generator_losses.tobytes())
            found.update(event.real_scores.tobytes() + event.fake_scores.tobytes())
        elif isinstance(event, Trained):
            for p in event.generator.parameters():
                found.update(p.detach().numpy().tobytes())
    return found.hexdigest()


def test_bit_for_bit_from_process_to_process(images: Tensor) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch; from test_fast_mlp import *; "
        "torch.set_num_threads(1); images = load_images('digits').images; "
        "[print(digest(make_config(optimizer=name, epochs=2), images)) for name in OPTIMIZERS]"
    )
    other = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    ours = [digest(make_config(optimizer=name, epochs=2), images) for name in OPTIMIZERS]
    assert ours == other.stdout.split()
