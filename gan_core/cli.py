"""What the commands share: flags from records of settings, the live view, one-line errors, exit codes, signals."""

import argparse
import io
import signal
import sys
import time
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gan_core.compat import end_process
from gan_core.config import RunOptions, fields_of
from gan_core.errors import UserError
from gan_core.events import Progress

OK, RUN_FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
LATE = 20.0  # seconds that logging is behind before that is shown: writes are some apart anyway
PLAIN_INTERVAL = 15.0  # seconds between two lines of the live view where the output is no terminal


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one line, without the usage text before it."""

    def __init__(self, program: str, description: str | None, examples: Collection[str]) -> None:
        """examples: command lines with what they do, shown at the end of the help."""
        super().__init__(
            prog=program_name(program),
            description=description,
            epilog="\n  ".join(["examples:", *examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise the mistake as any other of the user's."""
        raise UserError(f"{message} (see --help)")


Flags = argparse.ArgumentParser | argparse._ArgumentGroup


def flag(name: str) -> str:
    """The flag of a field: z_dim → --z-dim."""
    return "--" + name.replace("_", "-")


def add_fields(parser: Flags, record: type, without: Collection[str] = ()) -> None:
    """A flag for each field of a record of settings, with its type, default and description."""
    for name, field in fields_of(record).items():
        if name in without:
            continue
        if field.annotation is bool:
            parser.add_argument(flag(name), action="store_true", default=None, help=field.description)
            continue
        described = field.default_factory or field.default is None
        default = "" if described else f" (default: {field.default})"
        parser.add_argument(
            flag(name),
            type=_kind(field.annotation),
            metavar=name.rsplit("_", maxsplit=1)[-1].upper(),
            help=f"{field.description}{default}",
        )


def _kind(annotation: Any) -> type:
    """What makes a word of the command line a value: int (also of int | None), float, or str."""
    kinds = [kind for kind in (annotation, *typing.get_args(annotation)) if kind in (int, float)]
    return kinds[0] if kinds else str  # a choice of words (Literal) is checked by the record, like everything else


def given(args: argparse.Namespace, record: type) -> dict[str, Any]:
    """The fields of a record whose flags were given."""
    values = {name: getattr(args, name, None) for name in fields_of(record)}
    return {name: value for name, value in values.items() if value is not None}


def add_run_options(parser: Flags) -> None:
    """How each run is evaluated and kept."""
    add_fields(parser, RunOptions)
    parser.add_argument("--again", action="store_true", help="start anew, whatever has been trained before")


def add_store(parser: Flags) -> None:
    """Where results are recorded."""
    parser.add_argument(
        "--tracking-uri", metavar="URI",
        help="MLflow store: sqlite:///FILE, or a server's http://HOST:PORT "
        "(default: MLFLOW_TRACKING_URI, else mlflow.db beside pyproject.toml)",
    )  # fmt: skip
    parser.add_argument(
        "--experiment", default="gan-grid", metavar="NAME", help="MLflow experiment (default: gan-grid)"
    )


def add_folders(parser: Flags) -> None:
    """Where images come from, and where checkpoints are kept."""
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR",
        help="where image sets are kept (default: GAN_DATA_DIR, else the project's data folder)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint-dir", metavar="DIR",
        help="where checkpoints are kept: a folder, or a URI such as s3://BUCKET/PATH "
        "(default: checkpoints, beside an SQLite store, else in the project)",
    )  # fmt: skip


def check_name(what: str, name: str) -> str:
    """The name, if it can stand in a table and a store; else UserError."""
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise UserError(f"{what} should be 1 to 200 printable characters, got {name[:60]!r} ({len(name)} characters)")
    return name


def plain_console() -> Console:
    """Standard output as it is: a name like [red] is shown, not obeyed; the terminal wraps long lines."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


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

    def end(self, run: str, status: str, reason: str = "", health: str = "") -> None:
        """A run has ended."""
        last = self._running.pop(run, None)
        self._left[run] = 0
        self._ended.add(run)
        found = f" ({health})" if health else ""
        figures = f" · {' '.join(_figures(last))}" if last else ""
        self._say(f"{run} {status}{found}{figures}{': ' + reason if reason else ''} · {self._summary()}")

    def say(self, run: str, text: str) -> None:
        """Something that a person should know of a run."""
        self._say(f"{run}: {text}")

    def should_stop(self) -> bool:
        """Never: Ctrl-C comes as an exception."""
        return False

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self.console.print(Text(f"{time.strftime('%H:%M:%S')}  {line}"))

    def _summary(self) -> str:
        done = f"{len(self._ended)}/{len(self._left)} runs done"
        if self._first is None or not self._trained:
            return done
        left = sum(self._left.values()) * (time.monotonic() - self._first) / self._trained
        return f"{done}, {in_time(left)} left"

    def _table(self) -> Group:
        head = Text(f"{self._summary()} · {in_time(time.monotonic() - self._started)} so far", style="bold")
        if not self._running:
            return Group(head, Text("starting …", style="dim"))
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


def program_name(otherwise: str) -> str:
    """What the user called: a console script's name, else `otherwise`."""
    called = Path(sys.argv[0]).name
    return called if called.startswith("gan-grid") else otherwise


def run_command(program: str, command: Callable[[], int]) -> NoReturn:
    """Run a command to the process's end; a console script says its own name."""
    end_process(exit_code(program_name(program), command))


def exit_code(program: str, command: Callable[[], int]) -> int:
    """Run a command. A user's mistake is one line and exit code 2, an interruption 130.

    SIGTERM is taken as Ctrl-C is, so that both leave the same order behind.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a word that is no text is shown all the same
    try:
        return command()
    except UserError as error:
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as end:  # --help
        return int(end.code or 0)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
