"""G and D of a config: built, counted, and G saved and loaded."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gan_core.architectures import NETWORKS, fields_of
from gan_core.config import RunConfig
from gan_core.data import image_set
from gan_core.errors import UserError
from gan_core.optimizers import OPTIMIZERS
from gan_core.rng import run_stream
from gan_core.storage import write_whole

FORMAT = "gan-grid generator 1"
OLD_FIELDS = {"image_size": "28", "channels": "1"}  # of a file that does not say them
# How many images cost as much as an optimizer's update of one tensor as large as a parameter: Adam's two make
# a step of 64 images a quarter longer than SGD's (benchmarks/step.py).
OPTIMIZER_WORK = 8.0
FOLDER_SIZE = 10_000  # images in a folder that has not been read, as a guess


class Generator(nn.Module):
    """G: z (N×z_dim) → images (N×C×H×W) in [-1, 1], both float32."""

    def __init__(self, network: str, **fields: Any) -> None:
        """network: a name in NETWORKS; fields: those of RunConfig that its G is made from."""
        super().__init__()
        self.network, self.fields = network, fields
        self.z_dim: int = fields["z_dim"]
        # Convolutions on a CPU are faster where an image's channels lie together.
        self.layers = NETWORKS[network].G(**fields).to(memory_format=torch.channels_last)

    def forward(self, z: Tensor) -> Tensor:
        """z: N×z_dim → N×C×H×W."""
        images: Tensor = self.layers(z)
        return images


def build_models(config: RunConfig) -> tuple[Generator, nn.Module]:
    """G and D with PyTorch's default initial weights, each drawn from a stream of its own.

    With the network "mlp" D's first weights depend on the seed and hidden_dim alone; G's on these and z_dim.
    """
    network = NETWORKS[config.network]
    # Layers draw from the global generator only: borrow it, and leave it as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run_stream("init-G", config).initial_seed())
        G = Generator(config.network, **_given(config, network.G))
        torch.manual_seed(run_stream("init-D", config).initial_seed())
        return G, network.D(**_given(config, network.D)).to(memory_format=torch.channels_last)


def _given(config: RunConfig, layers: Callable[..., nn.Module]) -> dict[str, Any]:
    return {field: getattr(config, field) for field in fields_of(layers)}


def training_cost(config: RunConfig) -> float:
    """How much work a run is, to be compared with other runs: a sweep begins the longest first.

    An image costs as much as G and D have parameters, the optimizer's update as much as a number of images.
    """
    network = NETWORKS[config.network]
    parameters = sum(_parameters(layers, **_given(config, layers)) for layers in (network.G, network.D))
    update = OPTIMIZER_WORK * OPTIMIZERS[config.optimizer].tensors
    images = image_set(config.dataset).size or FOLDER_SIZE
    return config.epochs * images * parameters * (1 + update / config.batch_size)


@cache
def _parameters(layers: Callable[..., nn.Module], **fields: Any) -> int:
    with torch.device("meta"):  # shapes without memory
        return sum(parameter.numel() for parameter in layers(**fields).parameters())


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 pixels 0..255 → float32 in [-1, 1]: x / 127.5 − 1, as ToTensor and Normalize(0.5, 0.5) do."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_pixels(images: Tensor) -> Tensor:
    """float32 in [-1, 1] → uint8 pixels 0..255, rounded; the inverse of `to_unit_range`."""
    return images.add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


@torch.no_grad()
def generate(G: Generator, z: Tensor) -> Tensor:
    """G's images of z (N×z_dim) as uint8 on the CPU, N×C×H×W; as it is used, not as it is trained."""
    training = G.training
    try:
        return to_pixels(G.eval()(z.to(next(G.parameters()).device))).cpu().contiguous()
    finally:
        G.train(training)


def save_generator(G: Generator, path: Path) -> None:
    """Write G's weights and what its layers are made from to `path` (safetensors), whole or not at all."""
    fields = {name: json.dumps(value) for name, value in G.fields.items()}
    weights = {name: tensor.contiguous() for name, tensor in G.state_dict().items()}
    write_whole(path, save(weights, metadata={"format": FORMAT, "network": G.network, **fields}))


def load_generator(path: Path | str) -> Generator:
    """The generator that `save_generator` wrote: `load_generator(path)(torch.randn(64, z_dim))` gives images.

    Raises UserError if the file is missing, is not such a generator, or is one of a network unknown here.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise UserError(f"{path} holds no generator of this project (format {about.get('format')!r})")
            network = about.get("network", "mlp")  # version 0.1.0 knew no other
            if network not in NETWORKS:
                known = f"none of {', '.join(NETWORKS)}: add it to gan_core.architectures.NETWORKS"
                raise UserError(f"{path} holds a generator of the network {network!r}, which is {known}")
            given = OLD_FIELDS | about
            G = Generator(network, **{name: json.loads(given[name]) for name in fields_of(NETWORKS[network].G)})
            G.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no iterator)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"cannot load a generator from {path}: {error}") from error
    return G.eval()
