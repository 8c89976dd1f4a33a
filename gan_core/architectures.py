"""What G and D are made of, by the name of the network; another network is one more entry.

PyTorch is imported where layers are made: it takes seconds, and the names are checked before any training.
"""

from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

SIDE = 28  # pixels
PIXELS = SIDE * SIDE
LEAK = 0.2  # slope of the leaky ReLU below 0


class Network(NamedTuple):
    """The functions that make the layers of G and of D.

    Their parameters are fields of RunConfig, by name: each run's values are given to them, first weights
    depend on them, and a generator's file holds those of G.
    """

    G: Callable[..., "nn.Module"]  # among its parameters z_dim: z, N×z_dim → N×1×28×28 in [-1, 1]
    D: Callable[..., "nn.Module"]  # N×1×28×28 in [-1, 1] → N×1, the probability that each is real


def fields_of(layers: Callable[..., "nn.Module"]) -> tuple[str, ...]:
    """The fields of RunConfig that the layers of G or of D are made from."""
    return tuple(signature(layers).parameters)


def mlp_generator(z_dim: int, hidden_dim: int) -> "nn.Module":
    """Fully connected, one hidden layer."""
    from torch import nn

    return nn.Sequential(
        nn.Linear(z_dim, hidden_dim),
        nn.LeakyReLU(LEAK),
        nn.Linear(hidden_dim, PIXELS),
        nn.Tanh(),
        nn.Unflatten(1, (1, SIDE, SIDE)),
    )


def mlp_discriminator(hidden_dim: int) -> "nn.Module":
    """Fully connected, one hidden layer."""
    from torch import nn

    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(PIXELS, hidden_dim),
        nn.LeakyReLU(LEAK),
        nn.Linear(hidden_dim, 1),
        nn.Sigmoid(),
    )


NETWORKS = {"mlp": Network(mlp_generator, mlp_discriminator)}
