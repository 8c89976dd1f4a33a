"""A folder of images, with a folder for each class: its files found, read, brought to one size, kept as an array.

A class folder may have folders in it. Links to files and to class folders are followed. Hidden files and files of
other kinds are no images of the folder.
"""

import hashlib
import io
import json
import os
import stat
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gan_core.errors import UserError
from gan_core.storage import made_once, write_whole
from gan_core.waiting import told

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SUFFIXES = frozenset((".png", ".jpg", ".jpeg"))
# Images that a person would miss: they are refused, not passed over.
OTHER_SUFFIXES = frozenset((".avif", ".bmp", ".gif", ".heic", ".jp2", ".tif", ".tiff", ".webp"))
ONE_IN = 6  # is a test image: MNIST's share
SHOWN = 3  # files that a message names
READING = 1  # raised when files are read in another way, so that no older array is used


class Listing(NamedTuple):
    """The image files of a folder: sorted by class and path."""

    folder: Path
    classes: list[str]
    files: list[str]  # paths below the folder
    labels: list[int]  # for each file its class
    key: str  # of all names, sizes and times of change


class FolderImages(NamedTuple):
    """The images of a folder as tensors, in the listing's order."""

    images: "Tensor"  # uint8, N×C×H×W
    labels: "Tensor"  # int64, N
    is_test: "Tensor"  # bool, N


def list_images(folder: Path) -> Listing:
    """The image files below a folder, none of them read. Raises UserError if they cannot be trained on."""
    found: list[tuple[str, str, int, int]] = []  # class, path, size, time of change
    try:
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            if not stat.S_ISDIR(entry.stat().st_mode):
                if entry.suffix.lower() in SUFFIXES | OTHER_SUFFIXES:
                    raise UserError(f"{entry} lies beside the class folders: put it into one of them")
                continue
            for file in sorted(_image_files(str(entry)), key=lambda file: file.path):
                about = file.stat()
                if not stat.S_ISREG(about.st_mode):
                    raise UserError(f"{file.path} is called an image and is no file: remove it")
                below = file.path.removeprefix(str(entry))
                found.append((entry.name, entry.name + below, about.st_size, about.st_mtime_ns))
    except OSError as error:
        raise UserError(
            f"cannot read the image folder {folder}: {error}. It should have a folder of PNG or JPEG files for "
            "each class"
        ) from error
    classes = list(dict.fromkeys(name for name, *_ in found))
    if len(classes) < 2:
        raise UserError(
            f"the image folder {folder} should have two class folders or more with PNG or JPEG files in them, "
            f"because images are scored by a classifier; it has {len(classes)}"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [numbers[name] for name, *_ in found]
    key = hashlib.sha256(json.dumps([READING, found]).encode()).hexdigest()
    return Listing(folder, classes, [path for _, path, *_ in found], labels, key)


def _image_files(folder: str) -> Iterator["os.DirEntry[str]"]:
    """The images below a class folder. Raises OSError, and UserError for what would be passed over."""
    with os.scandir(folder) as entries:  # half of the time that pathlib takes
        for entry in entries:
            suffix = "".join(entry.name.lower().rpartition(".")[1:])
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if entry.is_symlink():
                    raise UserError(f"{entry.path} is a link to a folder: only a class folder itself can be one")
                yield from _image_files(entry.path)
            elif suffix in OTHER_SUFFIXES:
                raise UserError(f"{entry.path} is neither PNG nor JPEG: convert or remove it, and all others like it")
            elif suffix in SUFFIXES:
                yield entry


def read_images(listing: Listing, image_size: int, channels: int, cache: Path) -> FolderImages:
    """The images of the files, C×H×W as asked for: read once, then from one file in the folder `cache`.

    Each is cropped to the square in its middle and made image_size pixels wide. What is transparent becomes black.
    An image is for testing by the content of its file, so it stays on its side when others come or go. Safe in
    several processes at once. Raises UserError if a file is no whole image, OSError if `cache` cannot be used.
    """
    of = hashlib.sha256(json.dumps([str(listing.folder), image_size, channels]).encode()).hexdigest()[:16]
    path = cache / f"{of}.safetensors"

    def make() -> FolderImages:
        from safetensors.torch import save

        found = _read_all(listing, image_size, channels)
        write_whole(path, save(found._asdict(), metadata={"listing": listing.key}))
        return found

    return made_once(lambda: _load(path, listing.key), make, path.with_suffix(".lock"))


def _load(path: Path, key: str) -> FolderImages | None:
    """The images in the file `path`; None if it is not whole, or of a folder that has changed."""
    from safetensors import SafetensorError, safe_open

    with suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("listing") == key:
            return FolderImages(*map(file.get_tensor, FolderImages._fields))
    return None


def _read_all(listing: Listing, image_size: int, channels: int) -> FolderImages:
    import torch
    from PIL import Image

    paths = [listing.folder / file for file in listing.files]
    images = np.empty((len(paths), channels, image_size, image_size), np.uint8)
    is_test = np.empty(len(paths), np.bool_)

    def read(number: int) -> str:
        """Fill in the image of this number; what is wrong with it, empty if nothing."""
        try:
            content = paths[number].read_bytes()
            images[number] = pixels_of(content, image_size, channels)
        except Exception as error:  # Pillow's readers raise nearly anything on files that are damaged
            return f"{listing.files[number]} ({' '.join(str(error).split()) or type(error).__name__})"
        is_test[number] = int.from_bytes(hashlib.sha256(content).digest()[:8]) % ONE_IN == 0
        return ""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damage that does not hinder
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Pillow lets other threads compute while it decodes and resizes.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, ExitStack() as interrupted:
            interrupted.callback(pool.shutdown, cancel_futures=True)
            reading = pool.map(read, range(len(paths)))
            faults = list(filter(None, told(reading, len(paths), f"reading {listing.folder}")))
    if faults:
        shown = ", ".join(faults[:SHOWN]) + (", …" if len(faults) > SHOWN else "")
        raise UserError(
            f"{len(faults):,} of the {len(paths):,} files of {listing.folder} cannot be read as PNG or JPEG: {shown}. "
            "Mend or remove them"
        )
    return FolderImages(torch.from_numpy(images), torch.tensor(listing.labels), torch.from_numpy(is_test))


def pixels_of(content: bytes, image_size: int, channels: int) -> NDArray[np.uint8]:
    """A PNG's or JPEG's pixels, C×H×W: its middle square, smaller or larger. Whatever Pillow raises is passed on."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as opened:
        # A large JPEG is decoded to a half, a quarter or an eighth, in a fraction of the time.
        opened.draft(None, (2 * image_size, 2 * image_size))
        upright = ImageOps.exif_transpose(opened)
    plain = _without_depth_and_alpha(upright).convert("L" if channels == 1 else "RGB")
    side = min(plain.size)
    left, top = (plain.width - side) // 2, (plain.height - side) // 2
    # Antialiased: each pixel is a mean over all that it stands for.
    square = plain.crop((left, top, left + side, top + side))
    small = square.resize((image_size, image_size), Image.Resampling.LANCZOS)
    return np.asarray(small).reshape(image_size, image_size, channels).transpose(2, 0, 1)


def _without_depth_and_alpha(image: "Image") -> "Image":
    """16-bit gray as 8-bit: Pillow would cut off at 255; and what is transparent on black."""
    from PIL import Image

    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    return image
