"""One GAN training: its settings, data, networks, the training loop, and what it leaves behind."""

from importlib import import_module
from typing import TYPE_CHECKING

from gan_core.config import RunConfig
from gan_core.data import ImageSet, load_images
from gan_core.events import EpochEnd, Samples, Trained

if TYPE_CHECKING:
    from gan_core.networks import load_generator
    from gan_core.plots import plot_losses, sample_sheet
    from gan_core.training import train

__all__ = [
    "EpochEnd",
    "ImageSet",
    "RunConfig",
    "Samples",
    "Trained",
    "load_generator",
    "load_images",
    "plot_losses",
    "sample_sheet",
    "train",
]

_SLOW = {"load_generator": "networks", "plot_losses": "plots", "sample_sheet": "plots", "train": "training"}


def __getattr__(name: str) -> object:
    """The name, from its module: PyTorch takes seconds to import, and the commands check all before that."""
    if name not in _SLOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_SLOW[name]}"), name)
