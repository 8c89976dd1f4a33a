"""One GAN training: its settings, data, networks, the training loop, and what it leaves behind."""

from gan_core.config import RunConfig
from gan_core.data import ImageSet, load_images
from gan_core.events import EpochEnd, Samples, Trained
from gan_core.generator_file import load_generator
from gan_core.plots import plot_losses, sample_sheet
from gan_core.trainer import train

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
