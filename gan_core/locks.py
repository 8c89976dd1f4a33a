"""Whether the process of a run or sweep lives, as told by a lock that it holds as long as it does.

In a folder that is a lock of a file, which ends with its process; in an object store it is a lease.
"""

import hashlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from uuid import uuid4

from filelock import FileLock, Timeout

from gan_core.storage import Bucket, Place, write_atomically

# A store's tags are anybody's: nothing but such a file is ever opened for what one of them says.
LOCK = re.compile(r"([0-9a-f]{32})/(sweep-[0-9a-f]{16}\.lock|[0-9a-f]{32}/lock)")
IDENTITY = "identity"


def lock_tag(checkpoint_dir: Place, lock: str) -> str:
    """The tag of a run whose process holds the lock file `lock` of `checkpoint_dir`. Raises OSError."""
    return f"{_identity(checkpoint_dir)}/{lock}"


def lock_in(checkpoint_dir: Place, tag: str | None) -> str | None:
    """The lock file of `checkpoint_dir` that a tag names; None if it is of another folder, or no such tag."""
    found = LOCK.fullmatch(tag or "")
    return found[2] if found and found[1] == _read_identity(checkpoint_dir) else None


def liveness(checkpoint_dir: Place, tag: str | None) -> Literal["alive", "dead", "unknown"]:
    """Of the process that holds, or held, a tag's lock; unknown if the lock lies in another folder."""
    lock = lock_in(checkpoint_dir, tag)
    if lock is None:
        return "unknown"
    return "dead" if is_free(checkpoint_dir / lock) else "alive"


@contextmanager
def hold(lock: Place, patience: float) -> Iterator[None]:
    """Be the one who holds the lock; `patience`: seconds to wait for another who lives.

    Raises filelock.Timeout if it is not to be had, OSError if it cannot be written.
    """
    if isinstance(lock, Bucket):
        with held(lock, patience):
            yield
    else:
        with FileLock(lock, timeout=patience):
            yield


def was_released(lock: Place) -> bool:
    """Whether its holder has let go of the lock, or, where that can be told at once, has died."""
    return not lock.exists() if isinstance(lock, Bucket) else is_free(lock)


def is_free(lock: Place) -> bool:
    """Whether nobody holds the lock; a lease has to be watched for that, for some seconds. Raises OSError."""
    if isinstance(lock, Bucket):
        return is_abandoned(lock)
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def _identity(folder: Place) -> str:
    """32 hex digits that tell the folder from all others, wherever it is moved or mounted."""
    if isinstance(folder, Bucket):
        return _read_identity(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{IDENTITY}.lock"):
        if not _read_identity(folder):
            write_atomically(folder / IDENTITY, uuid4().hex.encode())
    return _read_identity(folder)


def _read_identity(folder: Place) -> str:
    """Empty if it has none."""
    if isinstance(folder, Bucket):
        return hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    try:
        found = (folder / IDENTITY).read_bytes()
    except FileNotFoundError:
        return ""
    return found.decode() if re.fullmatch(rb"[0-9a-f]{32}", found) else ""


RENEWED = 4.0  # seconds between two writes of the owner
LOST = 20.0  # seconds without a change, after which it is nobody's
SETTLED = 2.0  # seconds between taking it and holding it
WATCHED = 1.0  # seconds between two looks at it


@contextmanager
def held(lease: Bucket, patience: float) -> Iterator[None]:
    """Be the one process that holds the lease.

    `patience`: seconds to wait for a living owner; for a dead one it takes LOST anyway. Raises
    filelock.Timeout if it is not to be had, OSError if the store cannot be reached.
    """
    owner = uuid4().hex
    _take(lease, owner, time.monotonic() + patience + LOST + RENEWED)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, owner, ended), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with suppress(OSError):
            if _owner(_look(lease)) == owner:
                lease.unlink(missing_ok=True)


def is_abandoned(lease: Bucket) -> bool:
    """Whether nobody holds the lease; where there is one, this takes up to LOST seconds. Raises OSError."""
    return _watch(lease, time.monotonic() + LOST + RENEWED)


def _take(lease: Bucket, owner: str, until: float) -> None:
    while _watch(lease, until):
        lease.put(f"{owner} 0".encode())
        time.sleep(SETTLED)
        if _owner(_look(lease)) == owner:
            return
    raise Timeout(str(lease))


def _watch(lease: Bucket, until: float) -> bool:
    """Whether the lease becomes nobody's before `until`, a time of the monotonic clock."""
    before = _look(lease)
    since = time.monotonic()
    while before is not None:
        if time.monotonic() - since >= LOST:
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(WATCHED)
        try:
            now = _look(lease)
        except OSError:
            # While the store is away its owner cannot write either: that is no sign of its death.
            since = time.monotonic()
            continue
        if now != before:
            before, since = now, time.monotonic()
    return True


def _renew(lease: Bucket, owner: str, ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(RENEWED):
        beat += 1
        with suppress(OSError):  # the next time, then
            now = _look(lease)
            if now is not None and _owner(now) != owner:
                print(
                    f"{lease} was taken over by another process: this one ends", file=sys.stderr, flush=True
                )
                os.kill(os.getpid(), signal.SIGKILL)
            lease.put(f"{owner} {beat}".encode())


def _look(lease: Bucket) -> bytes | None:
    try:
        return lease.peek()
    except FileNotFoundError:
        return None


def _owner(content: bytes | None) -> str:
    return (content or b"").partition(b" ")[0].decode(errors="replace")
