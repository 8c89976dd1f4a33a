"""Where checkpoints lie: a folder (`pathlib.Path`) or a path in an object store (`ObjectPath`), used alike."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock
from upath.extensions import ProxyUPath

from gan_core.errors import UserError

PATIENCE = 60.0  # seconds for which a request that fails is repeated
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}  # scheme of a URI → what has to be installed for it

T = TypeVar("T")


def storage_path(text: str) -> "StoragePath":
    """The folder or the object store's path that `text` names. Raises UserError if it cannot be used."""
    if "://" not in text:
        return expanded(Path(text))
    if text.startswith("file://"):
        return Path(text.removeprefix("file://")).absolute()
    _check_uri(text)
    # One request must not wait for minutes. Made anew each time: botocore changes what it is given.
    times = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}}
    options: dict[str, Any] = {"config_kwargs": times} if text.startswith("s3:") else {}
    return ObjectPath(text, use_listings_cache=False, **options)


def checkpoint_folder(given: str | None, store_file: Path | None) -> "StoragePath":
    """Where all checkpoints lie: `given`, else `checkpoints` beside the SQLite store, else in the project.

    store_file: the file of an SQLite store, None for another kind of store. Raises UserError as
    `storage_path` does.
    """
    return storage_path(given or str((store_file.parent if store_file else project_root()) / "checkpoints"))


def write_whole(file: "StoragePath", content: bytes) -> None:
    """Write the file, in a folder made if need be: all of it or nothing, also under a kill. Raises OSError."""
    if isinstance(file, ObjectPath):
        file.write_bytes(content)  # an object appears only once all of it has arrived
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def project_root() -> Path:
    """The folder of pyproject.toml if this is a checkout; the current folder if this is an installed copy."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def default_data_dir() -> Path:
    """GAN_DATA_DIR if set, else `data` in the project's folder."""
    return Path(os.environ.get("GAN_DATA_DIR") or project_root() / "data")


def expanded(path: Path) -> Path:
    """The absolute path, with `~` replaced by the home folder. Raises UserError if there is no such folder."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"there is no home folder for {path.parts[0]}: write the path out") from error


def made_once(find: Callable[[], T | None], make: Callable[[], T], lock: Path) -> T:
    """What `find` finds, else what `make` makes: of several processes at once, one makes it, the others wait.

    lock: the file that is locked meanwhile, whose folder is made if need be. Raises OSError.
    """
    if found := find():
        return found
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        return find() or make()  # another process may have made it while this one waited


class ObjectPath(ProxyUPath):
    """A path in an object store. Its methods are those of `pathlib.Path`, and fail as those do: by OSError.

    universal_pathlib gives the path and the access. Added here: errors of the store's own library become
    OSError, and requests that fail are repeated for PATIENCE seconds.
    """

    def __str__(self) -> str:
        """The URI, from which `storage_path` makes the same path again."""
        account = self.storage_options.get("account_name")
        if account:  # of abfs://CONTAINER@ACCOUNT…, which universal_pathlib leaves out
            container, slash, path = self.path.partition("/")
            return f"{self.protocol}://{container}@{account}.dfs.core.windows.net{slash}{path}"
        return super().__str__().rstrip("/")

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object of this path, or any below it."""
        return attempt(super().exists)

    def glob(
        self, pattern: str, *, case_sensitive: bool | None = None, recurse_symlinks: bool = False
    ) -> Iterator[Self]:
        """The objects directly below this path whose names match the pattern."""
        # universal_pathlib's own glob would also take a * or [ of the folder's name for a pattern.
        try:
            found = attempt(lambda: self.fs.ls(self.path, detail=True, refresh=True), PATIENCE)
        except FileNotFoundError:
            return
        for info in found:
            name = info["name"].rstrip("/").rpartition("/")[2]
            if info["type"] == "file" and fnmatchcase(name, pattern):
                yield self / name

    def read_bytes(self) -> bytes:
        """The object's content.

        Raises FileNotFoundError; RuntimeError if the store cannot be read for PATIENCE seconds. That is no
        OSError, because callers take an OSError for damage and delete the file.
        """
        try:
            return bytes(attempt(lambda: self.fs.cat_file(self.path), PATIENCE))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RuntimeError(f"{self} cannot be read: {error}") from error

    def write_bytes(self, data: bytes) -> int:
        """Write the object."""
        # Not super().write_bytes, which opens a file: one request is enough.
        attempt(lambda: self.fs.pipe_file(self.path, data), PATIENCE)
        return len(data)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object, if there is one."""
        # Not super().unlink, which takes a * or [ of the path for a pattern and removes all that match.
        with suppress(FileNotFoundError):
            attempt(lambda: self.fs.rm_file(self.path))


StoragePath = Path | ObjectPath


def _check_uri(uri: str) -> None:
    """Raise UserError if the URI names no object store that can be used, or holds a key."""
    parts = urlsplit(uri)
    scheme = parts.scheme
    if scheme not in PACKAGES or not parts.netloc:
        known = ", ".join(f"{one}://" for one in PACKAGES)
        raise UserError(f"checkpoints can be kept in a folder, or under {known}BUCKET/PATH; got {scheme}://…")
    if "@" in parts.netloc and scheme != "abfs":  # abfs://CONTAINER@ACCOUNT… has no key there
        raise UserError(
            "a checkpoint URI should hold no keys, because it is shown and stored. Give them in the "
            "environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if parts.query or parts.fragment:
        raise UserError(
            "a checkpoint URI should end with its path. The address of a server of your own goes into the "
            "environment, as AWS_ENDPOINT_URL"
        )
    if not find_spec(PACKAGES[scheme]):
        raise UserError(f"{scheme}:// needs a package that is not installed: pip install {PACKAGES[scheme]}")


def attempt(request: Callable[[], T], patience: float = 0.0) -> T:
    """The request's answer; one that fails is repeated for `patience` seconds. Whatever fails, raises OSError."""
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

    def made() -> T:
        try:
            return request()
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    return Retrying(
        retry=retry_if_exception(_may_pass),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        stop=stop_after_delay(patience),
        reraise=True,
    )(made)


def _may_pass(error: BaseException) -> bool:
    lasting = isinstance(error, FileNotFoundError | PermissionError) or "NoCredentials" in str(error)
    return isinstance(error, OSError) and not lasting
