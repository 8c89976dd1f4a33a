"""Locks, by which any process can see whether the process of a run or a sweep is alive.

In a folder the lock is a locked file, which the system releases when the process ends. In an object store it
is a lease: an object that its owner keeps rewriting (docs/durability.md says why).
"""

import hashlib
import itertools
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

from gan_core.storage import ObjectPath, StoragePath, attempt, write_whole

# Anybody can write a tag into the store: only a file of one of these names is ever opened because of a tag.
LOCK_TAG_VALUE = re.compile(r"([0-9a-f]{32})/(sweep-[0-9a-f]{16}\.lock|[0-9a-f]{32}/lock)")
IDENTITY = "identity"  # the file that holds a checkpoint folder's identity

# Times of a lease, in seconds.
RENEWED = 4.0  # from one write of the owner to the next
LOST = 20.0  # without a change, after which the lease has no owner any more
SETTLED = 2.0  # from writing it to holding it
WATCHED = 1.0  # from one reading to the next


def lock_tag(checkpoint_dir: StoragePath, lock: str) -> str:
    """The tag of a run whose process holds the lock file `lock` of `checkpoint_dir`. Raises OSError."""
    if not isinstance(checkpoint_dir, ObjectPath):
        with FileLock(checkpoint_dir / f".{IDENTITY}.lock"):
            if not _identity(checkpoint_dir):
                write_whole(checkpoint_dir / IDENTITY, uuid4().hex.encode())
    return f"{_identity(checkpoint_dir)}/{lock}"


def lock_in(checkpoint_dir: StoragePath, tag: str | None) -> str | None:
    """The lock file that a tag names; None if the tag is of another folder or is no lock's tag."""
    found = LOCK_TAG_VALUE.fullmatch(tag or "")
    return found[2] if found and found[1] == _identity(checkpoint_dir) else None


def liveness(checkpoint_dir: StoragePath, tag: str | None) -> Literal["alive", "dead", "unknown"]:
    """State of the process to which a tag's lock belongs; unknown if the lock lies in another folder."""
    lock = lock_in(checkpoint_dir, tag)
    if lock is None:
        return "unknown"
    return "dead" if is_free(checkpoint_dir / lock) else "alive"


@contextmanager
def hold(lock: StoragePath, patience: float) -> Iterator[None]:
    """Hold the lock within the block; no other process does.

    patience: seconds to wait while another living process holds it; a lease whose owner has died takes LOST
    seconds in any case. Raises filelock.Timeout if it stays taken, OSError if it cannot be written.
    """
    with _hold_lease(lock, patience) if isinstance(lock, ObjectPath) else FileLock(lock, timeout=patience):
        yield


def was_released(lock: StoragePath) -> bool:
    """Whether the lock was let go; of a file, also whether its owner has died (a lease does not show that)."""
    return not lock.exists() if isinstance(lock, ObjectPath) else is_free(lock)


def is_free(lock: StoragePath) -> bool:
    """Whether no process holds the lock. Reading a lease takes up to LOST seconds. Raises OSError."""
    if isinstance(lock, ObjectPath):
        return _becomes_free(lock, time.monotonic() + LOST + RENEWED)
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def _identity(folder: StoragePath) -> str:
    """32 hex digits of the folder's own, the same wherever it is moved or mounted; empty if it has none yet."""
    if isinstance(folder, ObjectPath):
        return hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    try:
        found = (folder / IDENTITY).read_bytes()
    except FileNotFoundError:
        return ""
    return found.decode() if re.fullmatch(rb"[0-9a-f]{32}", found) else ""


@contextmanager
def _hold_lease(lease: ObjectPath, patience: float) -> Iterator[None]:
    """Hold the lease, taken by Fischer's algorithm: of all that write, the last one to do so owns it.

    Lamport (1987), A fast mutual exclusion algorithm, ACM Transactions on Computer Systems 5(1), describes
    it. It needs SETTLED to be longer than a write takes.
    """
    owner = uuid4().hex
    until = time.monotonic() + patience + LOST + RENEWED
    while not _read(lease).startswith(owner):
        if not _becomes_free(lease, until):
            raise Timeout(str(lease))
        _write(lease, owner, 0)
        time.sleep(SETTLED)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, owner, ended), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with suppress(OSError):
            if _read(lease).startswith(owner):
                lease.unlink(missing_ok=True)


def _becomes_free(lease: ObjectPath, until: float) -> bool:
    """Whether the lease has no owner before `until`, a time of the monotonic clock. Raises OSError."""
    before = _read(lease)
    since = time.monotonic()
    while before and time.monotonic() - since < LOST:
        if time.monotonic() >= until:
            return False
        time.sleep(WATCHED)
        try:
            now = _read(lease)
        except OSError:
            # The owner cannot write either while the store is away: the time starts anew.
            since = time.monotonic()
            continue
        if now != before:
            before, since = now, time.monotonic()
    return True


def _renew(lease: ObjectPath, owner: str, ended: threading.Event) -> None:
    for count in itertools.count(1):
        if ended.wait(RENEWED):
            return
        with suppress(OSError):  # the next write may succeed
            now = _read(lease)
            if now and not now.startswith(owner):
                print(f"{lease} was taken over by another process: this one ends", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)  # at once: two processes must not train one run
            _write(lease, owner, count)


def _write(lease: ObjectPath, owner: str, count: int) -> None:
    """With one attempt: a write that is repeated would take longer than SETTLED. Raises OSError."""
    attempt(lambda: lease.fs.pipe_file(lease.path, f"{owner} {count}".encode()))


def _read(lease: ObjectPath) -> str:
    """The lease's content, owner and count, with one attempt; empty if there is none. Raises OSError."""
    try:
        return bytes(attempt(lambda: lease.fs.cat_file(lease.path))).decode(errors="replace")
    except FileNotFoundError:
        return ""
