"""The live view of one run or many: a calm table in a terminal, now and then a plain line elsewhere."""

import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gan_core.events import Progress

LATE = 20.0  # seconds that logging is behind before that is shown: writes are some apart anyway
PLAIN_INTERVAL = 15.0  # seconds between two lines where the output is no terminal
PLAIN_WIDTH = 160  # characters of a table's line there: rich takes a pipe for 80 wide, and cuts words off


def plain_console() -> Console:
    """Standard output as it is: a name like [red] is shown, not obeyed; the terminal wraps long lines."""
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


class LiveView:
    """Shows runs: a calm table in a terminal, now and then a plain line elsewhere; can be a run's Observer."""

    def __init__(self, epochs: Mapping[str, int], console: Console | None = None) -> None:
        """`epochs`: the length of each run, by its name."""
        self.console = console or plain_console()
        self._left = dict(epochs)  # epochs still to train
        self._running: dict[str, Progress] = {}
        self._ended: set[str] = set()
        self._first: float | None = None  # when the first epoch ended: start-up is not speed
        self._trained = 0  # epochs since then
        self._to_come: float | None = None  # epochs of runs that are likely to follow; None: all runs are known
        self._said = self._started = time.monotonic()
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        """Take over the terminal's last lines, if there is one."""
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        self._live.stop()

    def update(self, progress: Progress) -> None:
        """A run has finished an epoch."""
        left = progress.epochs - progress.epoch
        if progress.run not in self._running:
            self._left[progress.run] = progress.epochs - progress.resumed
        if self._first is None:
            self._first = time.monotonic()
        else:
            self._trained += self._left[progress.run] - left
        self._left[progress.run] = left
        self._running[progress.run] = progress
        if not self.console.is_terminal and time.monotonic() - self._said >= PLAIN_INTERVAL:
            runs = [" ".join([name, *_figures(last)]) for name, last in self._running.items()]
            self._say(" · ".join([self._summary(), *runs]))

    def expect(self, run: str, epochs: int) -> None:
        """A run is about to be trained to this epoch."""
        self._left[run] = epochs  # once it trains, it says how many of these are behind it
        self._ended.discard(run)
        self._to_come = max((self._to_come or 0) - epochs, 0)

    def foresee(self, epochs: float) -> None:
        """So many epochs are likely to be left, of runs that are known and of others."""
        self._to_come = max(epochs - sum(self._left.values()), 0)

    def pause(self, run: str) -> None:
        """A run has been trained as far as it was asked for, for now."""
        self._running.pop(run, None)
        self._left[run] = 0
        self._ended.add(run)

    def end(self, run: str, status: str, reason: str = "", health: str = "") -> None:
        """A run has ended."""
        last = self._running.get(run)
        self.pause(run)
        found = f" ({health})" if health else ""
        figures = f" · {' '.join(_figures(last))}" if last else ""
        self._say(f"{run} {status}{found}{figures}{': ' + reason if reason else ''} · {self._summary()}")

    def say(self, run: str, text: str) -> None:
        """Something that a person should know of a run."""
        self._say(f"{run}: {text}")

    def note(self, text: str) -> None:
        """Something that a person should know of all of them; a line or several."""
        for line in text.splitlines():
            self._say(line)

    def should_stop(self) -> bool:
        """Never: Ctrl-C comes as an exception."""
        return False

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self.console.print(Text(f"{time.strftime('%H:%M:%S')}  {line}"))

    def _summary(self) -> str:
        of = f"/{len(self._left)}" if self._to_come is None else ""
        done = f"{len(self._ended)}{of} runs done"
        if self._first is None or not self._trained:
            return done
        left = (sum(self._left.values()) + (self._to_come or 0)) * (time.monotonic() - self._first) / self._trained
        return f"{done}, {in_time(left)} left"

    def _table(self) -> Group:
        head = Text(f"{self._summary()} · {in_time(time.monotonic() - self._started)} so far", style="bold")
        if not self._running:
            return Group(head, Text("no run is training" if self._ended else "starting …", style="dim"))
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, last in sorted(self._running.items()):
            table.add_row(name, *_figures(last))
        return Group(head, table)


def _figures(last: Progress) -> list[str]:
    """Epoch, losses, speed, and how far logging is behind, where it is."""
    losses = [f"D {last.discriminator_loss:.3f}", f"G {last.generator_loss:.3f}"]
    late = [f"(logging is {in_time(last.behind)} behind)"] if last.behind >= LATE else []
    return [f"epoch {last.epoch}/{last.epochs}", *losses, f"{last.images_per_second:,.0f} images/s", *late]


def in_time(seconds: float) -> str:
    """A duration for people: 42 s, 3 min 20 s, 1 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
