"""Whether the process of a run or sweep lives, as told by a lock file that it holds as long as it does."""

import re
from pathlib import Path
from typing import Literal
from uuid import uuid4

from filelock import FileLock, Timeout

from gan_core.atomic import write_atomically

# A store's tags are anybody's: nothing but such a file is ever opened for what one of them says.
LOCK = re.compile(r"([0-9a-f]{32})/(sweep-[0-9a-f]{16}\.lock|[0-9a-f]{32}/lock)")
IDENTITY = "identity"


def lock_tag(checkpoint_dir: Path, lock: str) -> str:
    """The tag of a run whose process holds the lock file `lock` of `checkpoint_dir`. Raises OSError."""
    return f"{_identity(checkpoint_dir)}/{lock}"


def lock_in(checkpoint_dir: Path, tag: str | None) -> str | None:
    """The lock file of `checkpoint_dir` that a tag names; None if it is of another folder, or no such tag."""
    found = LOCK.fullmatch(tag or "")
    return found[2] if found and found[1] == _read_identity(checkpoint_dir) else None


def liveness(checkpoint_dir: Path, tag: str | None) -> Literal["alive", "dead", "unknown"]:
    """Of the process that holds, or held, a tag's lock; unknown if the lock lies in another folder."""
    lock = lock_in(checkpoint_dir, tag)
    if lock is None:
        return "unknown"
    return "dead" if is_free(checkpoint_dir / lock) else "alive"


def is_free(lock: Path) -> bool:
    """Whether nobody holds the lock file."""
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def _identity(folder: Path) -> str:
    """32 hex digits that tell the folder from all others, wherever it is moved or mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{IDENTITY}.lock"):
        if not _read_identity(folder):
            write_atomically(folder / IDENTITY, uuid4().hex.encode())
    return _read_identity(folder)


def _read_identity(folder: Path) -> str:
    """Empty if it has none."""
    try:
        found = (folder / IDENTITY).read_bytes()
    except FileNotFoundError:
        return ""
    return found.decode() if re.fullmatch(rb"[0-9a-f]{32}", found) else ""
