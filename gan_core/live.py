"""The live view of one run or many: a calm table in a terminal, now and then a plain line elsewhere."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gan_core.events import Progress

LATE = 20.0  # seconds: writes are some apart anyway
PLAIN_INTERVAL = 15.0  # seconds between two lines where the output is no terminal


def plain_console() -> Console:
    """Standard output as it is: a name like [red] is shown, not obeyed; the terminal wraps long lines."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


@dataclass
class LiveView:
    """Shows the runs of `epochs`, which has the length of each by its name; use as a context manager."""

    epochs: Mapping[str, int]
    console: Console = field(default_factory=plain_console)

    def __post_init__(self) -> None:
        """Begin the clock."""
        self._running: dict[str, Progress] = {}
        self._ended: dict[str, str] = {}
        self._left = dict(self.epochs)  # epochs still to train
        self._trained = 0
        self._first: tuple[float, int] | None = None  # when the first epoch ended: start-up is not speed
        self._said = self._started = time.monotonic()
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        """Take over the terminal's last lines, if there is one."""
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        self._live.stop()

    def update(self, progress: Progress) -> None:
        """A run has finished an epoch."""
        left = progress.epochs - progress.epoch
        if progress.run not in self._running:
            self._left[progress.run] = progress.epochs - progress.resumed
        self._trained += self._left[progress.run] - left
        self._left[progress.run] = left
        self._first = self._first or (time.monotonic(), self._trained)
        self._running[progress.run] = progress
        if not self.console.is_terminal and time.monotonic() - self._said >= PLAIN_INTERVAL:
            self._say(" · ".join([self._summary(), *map(_in_words, self._running.values())]))

    def end(self, run: str, status: str, reason: str = "", health: str = "") -> None:
        """A run has ended."""
        last = self._running.pop(run, None)
        self._left[run] = 0
        self._ended[run] = status
        figures = f" · {_in_words(last, name=False)}" if last else ""
        found = f" ({health})" if health else ""
        self._say(f"{run} {status}{found}{figures}{': ' + reason if reason else ''} · {self._summary()}")

    def say(self, run: str, text: str) -> None:
        """Something that a person should know of a run."""
        self._say(f"{run}: {text}")

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self.console.print(Text(f"{time.strftime('%H:%M:%S')}  {line}"))

    def _summary(self) -> str:
        done = f"{len(self._ended)}/{len(self.epochs)} runs done"
        left = self._seconds_left()
        return done if left is None else f"{done}, {in_time(left)} left"

    def _seconds_left(self) -> float | None:
        """From the epochs since the first one: what went before them was start-up."""
        if self._first is None or self._trained <= self._first[1]:
            return None
        since, before = self._first
        return sum(self._left.values()) * (time.monotonic() - since) / (self._trained - before)

    def _table(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("run", min_width=14, no_wrap=True)
        for column in ("epoch", "loss D", "loss G", "images/s"):
            table.add_column(column, justify="right", min_width=8, no_wrap=True)
        table.add_column("")
        for run in sorted(self._running.values(), key=lambda progress: progress.run):
            table.add_row(
                run.run,
                f"{run.epoch}/{run.epochs}",
                f"{run.discriminator_loss:.3f}",
                f"{run.generator_loss:.3f}",
                f"{run.images_per_second:,.0f}",
                _lateness(run).removeprefix(", "),
            )
        elapsed = in_time(time.monotonic() - self._started)
        head = Text(f"{self._summary()} · {elapsed} so far", style="bold")
        return Group(head, table) if self._running else Group(head, Text("starting …", style="dim"))


def _lateness(progress: Progress) -> str:
    late = progress.behind >= LATE
    return f", logging is {in_time(progress.behind)} behind" if late else ""


def _in_words(progress: Progress, name: bool = True) -> str:
    words = (
        f"epoch {progress.epoch}/{progress.epochs} D {progress.discriminator_loss:.3f} "
        f"G {progress.generator_loss:.3f} {progress.images_per_second:,.0f} images/s"
        f"{_lateness(progress)}"
    )
    return f"{progress.run} {words}" if name else words


def in_time(seconds: float) -> str:
    """A duration for people: 42 s, 3 min 20 s, 1 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
