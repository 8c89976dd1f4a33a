"""Where checkpoints are kept: a folder, or a path in an object store; both used as a `pathlib.Path` is."""

import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from gan_core.errors import UserError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def place(text: str) -> "Place":
    """What a path or URI names. Raises UserError for a kind of store that cannot be used."""
    if "://" not in text:
        return expanded(Path(text))
    if text.startswith("file://"):
        return Path(text.removeprefix("file://")).absolute()
    check_uri(text)
    return Bucket(text)


def write_whole(file: "Place", content: bytes) -> None:
    """Write the file so that it is there whole or not at all. Raises OSError."""
    if isinstance(file, Bucket):
        file.write_bytes(content)
    else:
        write_atomically(file, content)


def project_root() -> Path:
    """The folder of pyproject.toml when this is a checkout; for an installed copy, the current folder."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def expanded(path: Path) -> Path:
    """The path made absolute, `~` taken for the home folder. Raises UserError if there is no such folder."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"there is no home folder for {path.parts[0]}: write the path out") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename: a reader, or a kill in the middle, never meets half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


# What is to be installed for each, beside fsspec, and how it is told not to wait for minutes.
SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "s3": (
        "s3fs",
        {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}}},
    ),
    "gs": ("gcsfs", {}),
    "abfs": ("adlfs", {}),
}
PATIENCE = 60.0  # seconds that a store which does not answer is asked again

T = TypeVar("T")


@dataclass(frozen=True)
class Bucket:
    """A path below `root`, the URI that the user gave."""

    root: str
    inner: str = ""

    def __truediv__(self, name: str) -> "Bucket":
        """The path below this one."""
        return Bucket(self.root, posixpath.join(self.inner, name))

    def __str__(self) -> str:
        """As a URI, which `gan_core.storage.place` takes again."""
        return posixpath.join(self.root, self.inner).rstrip("/")

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self.inner)

    @property
    def parent(self) -> "Bucket":
        """What it is below of."""
        return Bucket(self.root, posixpath.dirname(self.inner))

    def exists(self) -> bool:
        """Whether there is such an object, or any below it. Raises OSError."""
        files, path = self._reached()
        return bool(_asked(lambda: files.exists(path)))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: an object needs no folder."""

    def glob(self, pattern: str) -> Iterator["Bucket"]:
        """The objects right below whose names are like the pattern. Raises OSError."""
        files, path = self._reached()
        try:
            found = _patiently(lambda: files.ls(path, detail=True, refresh=True))
        except FileNotFoundError:
            return
        for info in found:
            name = posixpath.basename(info["name"].rstrip("/"))
            if info["type"] == "file" and fnmatchcase(name, pattern):
                yield self / name

    def read_bytes(self) -> bytes:
        """The object. Raises FileNotFoundError, RuntimeError if the store does not answer for long."""
        try:
            return _patiently(self.peek)
        except FileNotFoundError:
            raise
        except OSError as error:
            # Not an OSError: what cannot be read now is not damaged, and must not be taken for it.
            raise RuntimeError(f"{self} cannot be read: {error}") from error

    def peek(self) -> bytes:
        """The object, asked for once. Raises OSError."""
        files, path = self._reached()
        return bytes(_asked(lambda: files.cat_file(path)))

    def write_bytes(self, content: bytes) -> None:
        """Write the object, patiently. Raises OSError."""
        _patiently(lambda: self.put(content))

    def put(self, content: bytes) -> None:
        """Write the object, tried once. Raises OSError."""
        files, path = self._reached()
        _asked(lambda: files.pipe_file(path, content))

    def touch(self) -> None:
        """Make an empty object. Raises OSError."""
        self.write_bytes(b"")

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object. Raises OSError, FileNotFoundError if it is missing and that is not ok."""
        files, path = self._reached()
        if not missing_ok and not self.exists():
            raise FileNotFoundError(str(self))
        with suppress(FileNotFoundError):
            _asked(lambda: files.rm_file(path))

    def _reached(self) -> tuple["AbstractFileSystem", str]:
        from fsspec.core import url_to_fs

        _, options = SCHEMES[urlsplit(self.root).scheme]
        files, root = url_to_fs(self.root, use_listings_cache=False, **options)  # one for all, kept by fsspec
        return files, posixpath.join(root, self.inner).rstrip("/")


Place = Path | Bucket


def check_uri(uri: str) -> None:
    """Raise UserError for a URI that names no object store, one that cannot be used, or has a key in it."""
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise UserError(
            f"checkpoints can be kept in a folder, or under {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
            f"BUCKET/PATH; got {parts.scheme}://…"
        )
    if "@" in parts.netloc and parts.scheme != "abfs":
        raise UserError(
            "a checkpoint URI should have no keys in it: it is shown and kept. Give them in the environment, "
            "as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if parts.query or parts.fragment:
        raise UserError(
            "a checkpoint URI ends with its path: the address of a server of one's own goes into the "
            "environment, as AWS_ENDPOINT_URL"
        )
    package, _ = SCHEMES[parts.scheme]
    if not find_spec(package):
        raise UserError(f"{parts.scheme}:// needs a package that is not installed: pip install {package}")


def _asked(ask: Callable[[], T]) -> T:
    """The answer. Raises OSError, whatever the store's own library raises."""
    try:
        return ask()
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _patiently(ask: Callable[[], T]) -> T:
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, OSError) and not _lasts(error)),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        stop=stop_after_delay(PATIENCE),
        reraise=True,
    )(lambda: _asked(ask))


def _lasts(error: OSError) -> bool:
    return isinstance(error, FileNotFoundError | PermissionError) or "NoCredentials" in str(error)
