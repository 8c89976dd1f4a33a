"""A lock where nothing can be locked: an object that its owner writes anew every few seconds.

Whoever wants it watches it, and takes it once it has not changed for a while: by the watcher's own clock,
so that the clocks of two machines are never compared. To take it is to write one's name, to wait, and to
see whether it still stands there: Fischer's algorithm (in Lamport, A fast mutual exclusion algorithm, ACM
TOCS 5(1), 1987), which holds as long as a write takes less than SETTLED. An owner that finds another's name
there, because it was stopped for longer than LOST itself, ends its process: what it did next would be done
twice.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from filelock import Timeout

from gan_core.bucket import Bucket

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
