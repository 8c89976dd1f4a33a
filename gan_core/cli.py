"""What the commands share: flags made from the config's fields, one-line errors, exit codes, signals."""

import argparse
import gc
import io
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

from gan_core.compat import end_process
from gan_core.config import FIELDS, EvaluationSchedule
from gan_core.errors import UserError

OK, RUN_FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one line, without the usage text before it."""

    def error(self, message: str) -> NoReturn:
        """Raise the mistake as any other of the user's."""
        raise UserError(f"{message} (see --help)")


def flag(name: str) -> str:
    """The flag of a field: z_dim → --z-dim."""
    return "--" + name.replace("_", "-")


def add_field(parser: argparse.ArgumentParser, name: str) -> None:
    """The flag of one field of RunConfig, with its type, default and description."""
    field = FIELDS[name]
    # str, int or float; a choice of words (Literal) is checked by the config, like everything else.
    kind = cast(Callable[[str], Any], field.annotation if isinstance(field.annotation, type) else str)
    default = None if field.default_factory else field.default
    parser.add_argument(
        flag(name),
        type=kind,
        metavar=name.rsplit("_", maxsplit=1)[-1].upper(),
        help=f"{field.description} (default: {'each optimizer has its own' if default is None else default})",
    )


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of RunConfig whose flags were given."""
    return {name: value for name, value in vars(args).items() if name in FIELDS and value is not None}


def add_places(parser: argparse.ArgumentParser) -> None:
    """The flags that say where data come from and where results go."""
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR",
        help="where image sets are kept (default: GAN_DATA_DIR, else the project's data folder)",
    )  # fmt: skip
    add_store(parser)


def add_store(parser: argparse.ArgumentParser) -> None:
    """The flags that say where results are recorded."""
    parser.add_argument(
        "--tracking-uri", metavar="URI",
        help="MLflow store: sqlite:///FILE, or a server's http://HOST:PORT "
        "(default: MLFLOW_TRACKING_URI, else mlflow.db beside pyproject.toml)",
    )  # fmt: skip
    parser.add_argument(
        "--experiment", default="gan-grid", metavar="NAME", help="MLflow experiment (default: gan-grid)"
    )


def add_assessment(parser: argparse.ArgumentParser) -> None:
    """The flags that say how the runs are looked at; they change nothing in the training."""
    parser.add_argument(
        "--evaluate-every", type=int, default=EvaluationSchedule.every, metavar="N",
        help="epochs from one evaluation of G to the next; 0: only at the end, where there always is one "
        f"(default: {EvaluationSchedule.every})",
    )  # fmt: skip
    parser.add_argument(
        "--stop-dead", action="store_true",
        help="end a run early once it has collapsed: losses pinned or frozen, or one picture whatever z is",
    )  # fmt: skip


def add_checkpoints(parser: argparse.ArgumentParser) -> None:
    """The flags of how a run that was cut off goes on."""
    parser.add_argument(
        "--checkpoint-every", type=int, default=10, metavar="N",
        help="epochs from one checkpoint to the next; 1 or more (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint-dir", metavar="DIR",
        help="where checkpoints are kept: a folder, or a URI such as s3://BUCKET/PATH "
        "(default: checkpoints, beside an SQLite store, else in the project)",
    )  # fmt: skip
    parser.add_argument("--again", action="store_true", help="start anew, whatever has been trained before")


def given_assessment(args: argparse.Namespace) -> EvaluationSchedule:
    """What these flags ask for. Raises UserError for a bad value."""
    return EvaluationSchedule(args.evaluate_every, args.stop_dead)


def check_name(what: str, name: str) -> str:
    """The name, if it can stand in a table and a store; else UserError."""
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise UserError(
            f"{what} should be 1 to 200 printable characters, got {name[:60]!r} ({len(name)} characters)"
        )
    return name


def run_command(program: str, command: Callable[[], int]) -> NoReturn:
    """Run a command to the process's end: a user's mistake is one line and exit code 2, an interruption 130.

    SIGTERM is taken as Ctrl-C is, so that both leave the same order behind.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a word that is no text is shown all the same
    try:
        code = command()
    except UserError as error:
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        code = BAD_USAGE
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        code = INTERRUPTED
    end_process(code)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def nothing_but_imports() -> Iterator[None]:
    """No search within the block, nor later among what it has made.

    Importing PyTorch, Ray and MLflow makes a million objects, none of them garbage: the search is a quarter
    of the time that it takes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
