"""The names before, until every caller has the new ones."""

from gan_core.data import DATASETS, default_data_dir, fetch_images, where_images_are

__all__ = ["DATASETS", "default_data_dir", "fetch_images", "where_images_are"]
