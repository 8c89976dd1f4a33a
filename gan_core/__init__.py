"""One GAN training: its settings, data, networks, the training loop, and what it leaves behind."""

from gan_core.config import RunConfig
from gan_core.data import ImageSet, load_images
from gan_core.trainer import train

__all__ = ["ImageSet", "RunConfig", "load_images", "train"]
