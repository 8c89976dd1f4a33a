"""Image sets by name, as one uint8 tensor."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from gan_core.errors import UserError
from gan_core.image_files import (
    DATASETS,
    IDX_FILES,
    BundledDigits,
    IdxArchive,
    default_data_dir,
    md5_of,
    ready_folder,
)

SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageSet:
    """Training images: uint8, N×1×28×28. `digest` is over the pixels: 32 hex digits of their SHA-256."""

    name: str
    images: Tensor
    digest: str
    source: str


@dataclass(frozen=True)
class LabelledImages:
    """Half of an image set: images uint8, N×1×28×28; labels int64, N, 0..9.

    `digest` is over pixels and labels: 32 hex digits of their SHA-256.
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    digest: str


def load_images(name: str, data_dir: Path | None = None) -> ImageSet:
    """The training images of a set in DATASETS, fetched into `data_dir` first where they are not there whole.

    Safe when several processes call it at once. Raises UserError for an unknown name, and where the images
    cannot be had, saying what was tried.
    """
    if name not in DATASETS:
        raise UserError(f"dataset should be one of {', '.join(DATASETS)}, got {name!r}")
    kind = DATASETS[name]
    if isinstance(kind, BundledDigits):
        images, source = _bundled_digits(), "sklearn.datasets.load_digits"
    else:
        images, source = load_idx_images(name, kind, data_dir or default_data_dir())
    digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()[:32]
    return ImageSet(name, images, digest, source)


def load_split(name: str, split: str, data_dir: Path | None = None) -> LabelledImages:
    """The `train` or the `test` half of a set in DATASETS with its labels, fetched first if need be.

    The digits have no test half of their own: every third of the 1,797, from the first on, is one here (599).
    `load_images` gives all 1,797, so a GAN trained on those has seen them. Raises UserError as load_images
    does, and for an unknown split.
    """
    if name not in DATASETS:
        raise UserError(f"dataset should be one of {', '.join(DATASETS)}, got {name!r}")
    if split not in SPLITS:
        raise UserError(f"split should be one of {', '.join(SPLITS)}, got {split!r}")
    kind = DATASETS[name]
    if isinstance(kind, BundledDigits):
        from sklearn.datasets import load_digits

        # The set mostly counts from 0 to 9 in turn, and 3 does not divide 10: classes keep their shares.
        of_split = (torch.arange(kind.size) % 3 == 0) == (split == "test")
        images, labels = _bundled_digits()[of_split], torch.from_numpy(load_digits().target)[of_split]
    else:
        folder = ready_folder(name, kind, data_dir or default_data_dir())
        files = IDX_FILES[:2] if split == "train" else IDX_FILES[2:]
        images, labels = read_idx(folder / files[0]).unsqueeze(1), read_idx(folder / files[1])
    labels = labels.to(torch.int64)
    digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()[:32]
    return LabelledImages(name, split, images, labels, digest)


def fingerprint(name: str, data_dir: Path | None = None) -> str:
    """32 hex digits that tell a set, both halves with their labels, from every other; its files are checked.

    Not the digests of LabelledImages: where the files' right MD5s are known, the check tells all. Raises
    UserError as load_images does.
    """
    if name not in DATASETS:
        raise UserError(f"dataset should be one of {', '.join(DATASETS)}, got {name!r}")
    kind = DATASETS[name]
    if isinstance(kind, BundledDigits):
        digests = [load_split(name, split).digest for split in SPLITS]
    else:
        folder = ready_folder(name, kind, data_dir or default_data_dir())
        known = kind.md5 or {file: md5_of((folder / file).read_bytes()) for file in IDX_FILES}
        digests = [known[file] for file in IDX_FILES]
    return hashlib.sha256(" ".join([name, *digests]).encode()).hexdigest()[:32]


def load_idx_images(name: str, archive: IdxArchive, data_dir: Path) -> tuple[Tensor, str]:
    """The training images, uint8, N×1×28×28, and the folder that they were read from; fetched if need be."""
    folder = ready_folder(name, archive, data_dir)
    return read_idx(folder / IDX_FILES[0]).unsqueeze(1), str(folder)


def read_idx(path: Path) -> Tensor:
    """The array of an IDX file of unsigned bytes: uint8, of the sizes that its header gives.

    Format: http://yann.lecun.com/exdb/mnist/. Raises UserError if the file is anything else. torchvision
    reads these as well, and takes three seconds to be imported.
    """
    content = bytearray(path.read_bytes())  # a bytearray, so that the tensor can be written to
    axes = content[3] if len(content) > 3 else 0
    start = 4 + 4 * axes
    sizes = [int.from_bytes(content[at : at + 4]) for at in range(4, start, 4)]
    if content[:3] != b"\0\0\x08" or axes == 0 or len(content) != start + math.prod(sizes) or 0 in sizes:
        raise UserError(f"{path} is no IDX file of unsigned bytes, or is not whole")
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(sizes)


def _bundled_digits() -> Tensor:
    """The 8×8 digits, 0..16, as MNIST has them: 20×20, bilinear, centred in 28×28, 0..255."""
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images).to(torch.float32).unsqueeze(1)  # N×1×8×8
    large = interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    return pad(large * (255 / 16), (4, 4, 4, 4)).round_().clamp_(0, 255).to(torch.uint8)
