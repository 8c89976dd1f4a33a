"""What G and D are made of, by the name of the network; another network is one more entry.

PyTorch is imported where layers are made: it takes seconds, and the names are checked before any training.
"""

from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

LEAK = 0.2  # slope of the leaky ReLU below 0


class Network(NamedTuple):
    """The functions that make the layers of G and of D.

    Their parameters are fields of RunConfig, by name: each run's values are given to them, first weights
    depend on them, and a generator's file holds those of G.
    """

    G: Callable[..., "nn.Module"]  # among its parameters z_dim: z, N×z_dim → images N×C×H×W in [-1, 1]
    D: Callable[..., "nn.Module"]  # such images → N×1, the probability that each is real


def fields_of(layers: Callable[..., "nn.Module"]) -> tuple[str, ...]:
    """The fields of RunConfig that the layers of G or of D are made from."""
    return tuple(signature(layers).parameters)


def mlp_generator(z_dim: int, hidden_dim: int, image_size: int = 28, channels: int = 1) -> "nn.Module":
    """Fully connected, one hidden layer."""
    from torch import nn

    return nn.Sequential(
        nn.Linear(z_dim, hidden_dim),
        nn.LeakyReLU(LEAK),
        nn.Linear(hidden_dim, channels * image_size**2),
        nn.Tanh(),
        nn.Unflatten(1, (channels, image_size, image_size)),
    )


def mlp_discriminator(hidden_dim: int, image_size: int = 28, channels: int = 1) -> "nn.Module":
    """Fully connected, one hidden layer."""
    from torch import nn

    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * image_size**2, hidden_dim),
        nn.LeakyReLU(LEAK),
        nn.Linear(hidden_dim, 1),
        nn.Sigmoid(),
    )


NETWORKS = {"mlp": Network(mlp_generator, mlp_discriminator)}
