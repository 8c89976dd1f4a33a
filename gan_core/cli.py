"""What the commands share: flags made from the records of settings, one-line errors, exit codes, signals."""

import argparse
import io
import signal
import sys
import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

from gan_core.compat import end_process
from gan_core.config import RunOptions, fields_of
from gan_core.errors import UserError

OK, RUN_FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


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
    signal.signal(signal.SIGTERM, signal.default_int_handler)
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
