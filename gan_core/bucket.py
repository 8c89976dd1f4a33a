"""A path in an object store such as s3://bucket/path, used as a `pathlib.Path` is; pyarrow reaches the store.

An object is there whole or not at all, so nothing is written beside and renamed here.
"""

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from gan_core.errors import UserError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs", "abfs", "abfss")
PATIENCE = 60.0  # seconds that a store which does not answer is asked again

T = TypeVar("T")


@dataclass(frozen=True)
class Bucket:
    """A path below `root`, the URI that the user gave: s3://bucket/path?endpoint_override=host:port&…"""

    root: str
    inner: str = ""

    def __truediv__(self, name: str) -> "Bucket":
        """The path below this one."""
        return Bucket(self.root, posixpath.join(self.inner, name))

    def __str__(self) -> str:
        """As a URI, which `gan_core.place.place` takes again."""
        address, mark, query = self.root.partition("?")
        return posixpath.join(address, self.inner).rstrip("/") + mark + query

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
        from pyarrow.fs import FileType

        files, path = self._reached()
        return bool(files.get_file_info(path).type != FileType.NotFound)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: an object needs no folder."""

    def glob(self, pattern: str) -> Iterator["Bucket"]:
        """The objects right below whose names are like the pattern. Raises OSError."""
        from pyarrow.fs import FileSelector

        files, path = self._reached()
        for info in _patiently(lambda: files.get_file_info(FileSelector(path, allow_not_found=True))):
            if info.is_file and fnmatchcase(info.base_name, pattern):
                yield self / info.base_name

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
        with files.open_input_stream(path) as stream:
            return bytes(stream.read())

    def write_bytes(self, content: bytes) -> None:
        """Write the object, patiently. Raises OSError."""
        _patiently(lambda: self.put(content))

    def put(self, content: bytes) -> None:
        """Write the object, tried once. Raises OSError."""
        files, path = self._reached()
        with files.open_output_stream(path) as stream:
            stream.write(content)

    def touch(self) -> None:
        """Make an empty object. Raises OSError."""
        self.write_bytes(b"")

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object. Raises OSError, FileNotFoundError if it is missing and that is not ok."""
        files, path = self._reached()
        try:
            files.delete_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise
        except OSError:
            # pyarrow then makes an empty object for the folder, which not every server takes.
            if self.exists():
                raise

    def _reached(self) -> tuple["FileSystem", str]:
        files, root = _file_system(self.root)
        return files, posixpath.join(root, self.inner).rstrip("/")


@cache
def _file_system(root: str) -> tuple["FileSystem", str]:
    """pyarrow's file system of a URI, and the path in it. Raises UserError, OSError."""
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    try:
        files, path = FileSystem.from_uri(root)
    except ArrowInvalid as error:
        raise UserError(f"{root} is no address of an object store: {error}") from error
    return files, path


def check_uri(uri: str) -> None:
    """Raise UserError for a URI that names no object store, or has a password in it."""
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise UserError(
            f"checkpoints can be kept in a folder, or under {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
            f"BUCKET/PATH; got {parts.scheme}://…"
        )
    if "@" in parts.netloc and parts.scheme in ("s3", "gs"):
        raise UserError(
            "a checkpoint URI should have no keys in it: it is shown and kept. Give them in the environment, "
            "as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def _patiently(ask: Callable[[], T]) -> T:
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, OSError) and not _lasts(error)),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        stop=stop_after_delay(PATIENCE),
        reraise=True,
    )(ask)


def _lasts(error: OSError) -> bool:
    refused = ("NO_SUCH_BUCKET", "NoSuchBucket", "ACCESS_DENIED", "AccessDenied", "INVALID_ACCESS_KEY")
    return isinstance(error, FileNotFoundError | PermissionError) or any(
        word in str(error) for word in (*refused, "SignatureDoesNotMatch", "SIGNATURE_DOES_NOT_MATCH")
    )
