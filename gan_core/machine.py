"""What a run trains on: the kind of machine, of which the last bits depend, and the least time that a step can take."""

import platform
import statistics
import timeit
from collections.abc import Callable, Sequence
from importlib.metadata import version

import torch

from gan_core.config import RunConfig

LIBRARIES = ("torch", "numpy", "numba")  # whose arithmetic a training is
FLOOR_STEPS = 12  # of which the median is taken; some 20 ms


def kind_of_machine() -> str:
    """The processor's instruction set, as PyTorch uses it, and the versions of the libraries that compute."""
    libraries = " ".join(f"{name}-{version(name)}" for name in LIBRARIES)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {libraries}"


def least_step_seconds(config: RunConfig) -> float | None:
    """The time of the matrix products of a training step by themselves, here and now; None if they are not known."""
    if config.network != "mlp" or config.device != "cpu" or config.discriminator_steps > 1 or config.gradient_penalty:
        return None
    take = products(config, apart=False)
    take(2)
    return statistics.median(timeit.repeat(lambda: take(1), number=1, repeat=FLOOR_STEPS))


def products(config: RunConfig, apart: bool) -> Callable[[int], None]:
    """Does the matrix products of so many steps of the network "mlp", into memory that is kept.

    apart: G's passes for D's half and for its own are products of their own, 11 in all, and not one, 9 in all.
    """
    n, hidden_dim, pixels = config.batch_size, config.hidden_dim, config.pixels
    z, h_G, d_h = (torch.ones(2 * n, width) for width in (config.z_dim, hidden_dim, hidden_dim))
    G1, G2, D1 = torch.ones(hidden_dim, config.z_dim), torch.ones(pixels, hidden_dim), torch.ones(hidden_dim, pixels)
    images, d_fake, d_hG = torch.ones(3 * n, pixels), torch.ones(n, pixels), torch.ones(n, hidden_dim)
    passes: Sequence[slice] = (slice(n), slice(n, 2 * n)) if apart else (slice(2 * n),)
    factors = [
        *((z[rows], G1.t()) for rows in passes),
        *((h_G[rows], G2.t()) for rows in passes),
        (images[: 2 * n], D1.t()),
        (d_h.t(), images[: 2 * n]),
        (images[2 * n :], D1.t()),
        (d_h[n:], D1),
        (d_fake, G2),
        (d_fake.t(), h_G[n:]),
        (d_hG.t(), z[n:]),
    ]
    todo = [(one, other, torch.empty(len(one), other.shape[1])) for one, other in factors]

    @torch.inference_mode()
    def take(steps: int) -> None:
        for _ in range(steps):
            for one, other, out in todo:
                torch.mm(one, other, out=out)

    return take
