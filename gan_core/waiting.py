"""What takes long is told to the person who waits for it."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

TELL_EVERY = 10.0  # seconds

T = TypeVar("T")


def told(steps: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The steps, with a line on stderr every TELL_EVERY seconds: how many are done, how long the others will take."""
    begun = last = time.monotonic()
    for done, step in enumerate(steps):
        now = time.monotonic()
        if done and now - last >= TELL_EVERY:
            last = now
            left = (now - begun) / done * (total - done)
            time_left = f"{left / 60:.0f} min" if left >= 120 else f"{left:.0f} s"
            print(f"{what}: {done:,} of {total:,}, about {time_left} left", file=sys.stderr)
        yield step
