"""G and D: the fully connected pair for 28×28 images."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gan_core.config import RunConfig
from gan_core.errors import UserError
from gan_core.rng import stream_seed
from gan_core.storage import write_atomically

SIDE = 28  # pixels
PIXELS = SIDE * SIDE
LEAK = 0.2  # slope of the leaky ReLU below 0

M = TypeVar("M", bound=nn.Module)


class Generator(nn.Module):
    """G: z (N×z_dim) → images (N×1×28×28) in [-1, 1], both float32."""

    def __init__(self, z_dim: int, hidden_dim: int = 128) -> None:
        """z_dim: length of z; hidden_dim: width of the hidden layer."""
        super().__init__()
        self.z_dim = z_dim
        self.hidden_dim = hidden_dim
        self.layers = nn.Sequential(
            nn.Linear(z_dim, hidden_dim), nn.LeakyReLU(LEAK), nn.Linear(hidden_dim, PIXELS), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        """z: N×z_dim → N×1×28×28."""
        images: Tensor = self.layers(z)
        return images.view(-1, 1, SIDE, SIDE)


class Discriminator(nn.Module):
    """D: images (N×1×28×28) in [-1, 1] → the probability that each is real (N×1), both float32."""

    def __init__(self, hidden_dim: int = 128) -> None:
        """hidden_dim: width of the hidden layer."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(PIXELS, hidden_dim), nn.LeakyReLU(LEAK), nn.Linear(hidden_dim, 1), nn.Sigmoid()
        )

    def forward(self, images: Tensor) -> Tensor:
        """images: N×1×28×28 → N×1."""
        probabilities: Tensor = self.layers(images.flatten(1))
        return probabilities


def build_models(config: RunConfig) -> tuple[Generator, Discriminator]:
    """G and D with PyTorch's default initial weights, each drawn from a stream of its own.

    D's first weights depend on the seed and hidden_dim alone; G's on these and z_dim.
    """
    G = _initialised(lambda: Generator(config.z_dim, config.hidden_dim), stream_seed("init-G", config.seed))
    D = _initialised(lambda: Discriminator(config.hidden_dim), stream_seed("init-D", config.seed))
    return G, D


def _initialised(make: Callable[[], M], seed: int) -> M:
    # nn.Linear draws from the global generator only: borrow it, and leave it as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 pixels 0..255 → float32 in [-1, 1]: x / 127.5 − 1, as ToTensor and Normalize(0.5, 0.5) do."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_pixels(images: Tensor) -> Tensor:
    """float32 in [-1, 1] → uint8 pixels 0..255, rounded; the inverse of `to_unit_range`."""
    return images.add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


GENERATOR_FILE = "generator.safetensors"  # among a run's files
FORMAT = "gan-grid generator 1"


def save_generator(G: Generator, path: Path) -> None:
    """Write G's weights, z_dim and hidden_dim to `path` (safetensors), whole or not at all."""
    shape = {"format": FORMAT, "z_dim": str(G.z_dim), "hidden_dim": str(G.hidden_dim)}
    write_atomically(path, save(G.state_dict(), metadata=shape))


def load_generator(path: Path | str) -> Generator:
    """The generator that `save_generator` wrote: `load_generator(path)(torch.randn(64, z_dim))` gives images.

    Raises UserError if the file is missing or is not such a generator.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shape = file.metadata() or {}
            if shape.get("format") != FORMAT:
                raise UserError(f"{path} holds no generator of this project (format {shape.get('format')!r})")
            G = Generator(int(shape["z_dim"]), int(shape["hidden_dim"]))
            G.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no iterator)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot load a generator from {path}: {error}") from error
    return G.eval()
