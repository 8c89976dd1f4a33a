"""What G and D are made of, by the name of the network; another network is one more entry.

PyTorch is imported where layers are made: it takes seconds, and the names are checked before any training.
"""

from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

LEAK = 0.2  # slope of the leaky ReLU below 0
DCGAN_STD = 0.02  # of its first weights


class Network(NamedTuple):
    """The functions that make the layers of G and of D.

    Their parameters are fields of RunConfig, by name: each run's values are given to them, first weights
    depend on them, and a generator's file holds those of G.
    """

    G: Callable[..., "nn.Module"]  # among its parameters z_dim: z, N×z_dim → images N×C×H×W in [-1, 1]
    D: Callable[..., "nn.Module"]  # such images → N×1; before the sigmoid, where the objective has one


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


def mlp_discriminator(
    hidden_dim: int, image_size: int = 28, channels: int = 1, spectral_norm: bool = False
) -> "nn.Module":
    """Fully connected, one hidden layer."""
    from torch import nn

    layers = nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * image_size**2, hidden_dim),
        nn.LeakyReLU(LEAK),
        nn.Linear(hidden_dim, 1),
    )
    return _normalized(layers, spectral_norm)


def dcgan_generator(z_dim: int, hidden_dim: int, image_size: int, channels: int) -> "nn.Module":
    """Transposed convolutions from 1×1 over 4×4 to the image; 2, 1 and ½ times hidden_dim maps in between.

    Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
    Networks", 2016, https://arxiv.org/abs/1511.06434, with the layers of PyTorch's example (its ngf is half of
    hidden_dim), which makes 64×64 by one more. 28×28 comes over 7×7, by a kernel of 3 where 32×32 has one of 4.
    """
    from torch import nn

    def block(of: int, to: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
        grown = nn.ConvTranspose2d(of, to, kernel, stride, padding, bias=False)
        return [grown, nn.BatchNorm2d(to), nn.ReLU()]

    few, some, many = _maps(hidden_dim)
    layers = nn.Sequential(
        nn.Unflatten(1, (z_dim, 1, 1)),
        *block(z_dim, many, 4, 1, 0),  # 4×4
        *block(many, some, _second_kernel(image_size), 2, 1),  # 7×7 or 8×8
        *block(some, few, 4, 2, 1),
        nn.ConvTranspose2d(few, channels, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
    return _drawn_small(layers)


def dcgan_discriminator(
    hidden_dim: int, image_size: int, channels: int, spectral_norm: bool, gradient_penalty: float
) -> "nn.Module":
    """Convolutions from the image over 4×4 to 1×1: G's layers, reversed.

    A batch normalization follows each of the inner ones. A penalty on the gradient by a single image goes with no
    normalization over images: there it is one over each image (Gulrajani et al. 2017, section 4). With spectral
    normalization there is no other (Miyato et al. 2018).
    """
    from torch import nn

    def block(of: int, to: int, kernel: int) -> list[nn.Module]:
        shrunk = nn.Conv2d(of, to, kernel, 2, 1, bias=False)
        norm = nn.GroupNorm(1, to) if gradient_penalty else nn.BatchNorm2d(to)
        return [shrunk, *([] if spectral_norm else [norm]), nn.LeakyReLU(LEAK)]

    few, some, many = _maps(hidden_dim)
    layers = nn.Sequential(
        nn.Conv2d(channels, few, 4, 2, 1, bias=False),
        nn.LeakyReLU(LEAK),
        *block(few, some, 4),  # 7×7 or 8×8
        *block(some, many, _second_kernel(image_size)),  # 4×4
        nn.Conv2d(many, 1, 4, 1, 0, bias=False),
        nn.Flatten(),
    )
    return _normalized(_drawn_small(layers), spectral_norm)


def _maps(hidden_dim: int) -> tuple[int, int, int]:
    return max(1, hidden_dim // 2), hidden_dim, 2 * hidden_dim


def _second_kernel(image_size: int) -> int:
    """From 4 pixels to 7 or to 8, and back."""
    return {28: 3, 32: 4}[image_size]


def _drawn_small(layers: "nn.Sequential") -> "nn.Sequential":
    """With the first weights of the paper: N(0, 0.02²), those of normalizations N(1, 0.02²)."""
    from torch import nn

    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, DCGAN_STD)
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(layer.weight, 1.0, DCGAN_STD)
    return layers


def _normalized(layers: "nn.Sequential", spectral_norm: bool) -> "nn.Sequential":
    """With each weight divided by its largest singular value, where asked for.

    Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018,
    https://arxiv.org/abs/1802.05957.
    """
    from torch import nn

    for layer in layers if spectral_norm else ():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.utils.parametrizations.spectral_norm(layer)
    return layers


NETWORKS = {
    "mlp": Network(mlp_generator, mlp_discriminator),
    "dcgan": Network(dcgan_generator, dcgan_discriminator),
}
