"""Compare the settings of a sweep: write a page that says which is best and how sure one can be."""

import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.cli import OK, OneLineParser, add_store, run_command
from gan_core.errors import UserError
from gan_core.metric_names import REPORT
from gan_core.storage import project_root, write_whole
from gan_core.tracking.store import brief, check_store, redact, resolve_uri, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from sweeps.comparison.compare import Comparison
    from sweeps.comparison.records import SweepRecord

PROGRAM = "report.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and write the report; the exit code."""
    args = _parser().parse_args(argv)
    client, record = open_sweep(args)
    from sweeps.comparison.compare import compare
    from sweeps.comparison.page import PAGE, report_files

    folder = args.output or report_folder(client.tracking_uri, record.name)
    with store_errors(client.tracking_uri):
        write_files(folder, report_files(client, compare(record)))
    print(folder / PAGE)
    return OK


def open_sweep(args: Namespace) -> "tuple[MlflowClient, SweepRecord]":
    """The store and the sweep that the command line names, read. Raises UserError."""
    # Only now: MLflow, matplotlib and the statistics take seconds to import.
    from mlflow import MlflowClient

    uri = resolve_uri(args.tracking_uri)
    file = sqlite_file(uri)
    if file is not None and not (file.is_file() and file.stat().st_size):
        raise UserError(f"there is no store {file}; python sweeps/run_grid.py makes one")
    check_store(uri)
    from sweeps.comparison.records import find_sweep, read_sweep
    from sweeps.comparison.render import render

    with store_errors(uri):
        client = MlflowClient(uri)
        parent, namesakes = find_sweep(client, args.experiment, args.sweep)
        record = read_sweep(client, parent, namesakes)
    if namesakes:
        values = {"record": record, "by_id": args.sweep == record.run_id}
        print(f"{PROGRAM}: {render('namesakes.txt.j2', values)}", file=sys.stderr)
    return client, record


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """What the store cannot do is a UserError: a schema of another MLflow version, a server that went away."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise UserError(f"cannot read the store {redact(uri)}: {brief(error, uri)}") from error


def report_folder(uri: str, sweep: str) -> Path:
    """Where a sweep's report goes: beside an SQLite store, as artifacts do, else in the project's folder."""
    from sweeps.comparison.page import safe_name

    file = sqlite_file(uri)
    return (file.parent if file else project_root()) / "reports" / safe_name(sweep)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a report's files, by their paths within the folder. Raises UserError."""
    for name, content in files.items():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, content)
        except OSError as error:
            raise UserError(f"cannot write {folder / name}: {error.strerror}") from error


def publish_report(client: "MlflowClient", uri: str, comparison: "Comparison") -> Path:
    """Write a sweep's report to its folder, and log it to the sweep's parent run; the page.

    Raises UserError, MlflowException or OSError.
    """
    from sweeps.comparison.page import PAGE, report_files

    files = report_files(client, comparison)
    folder = report_folder(uri, comparison.record.name)
    write_files(folder, files)
    with tempfile.TemporaryDirectory(prefix="gan-report-") as scratch:
        write_files(Path(scratch), files)  # these files alone: the folder may hold others
        client.log_artifacts(comparison.record.run_id, scratch, REPORT)
    return folder / PAGE


def _parser() -> OneLineParser:
    parser = OneLineParser(PROGRAM, __doc__, ("python sweeps/report.py --sweep study",))
    parser.add_argument("--sweep", metavar="NAME", help="a sweep's name or run id (default: the latest)")
    add_store(parser)
    where = "where to write it (default: reports/NAME beside the store)"
    parser.add_argument("--output", type=Path, metavar="DIR", help=where)
    return parser


def command() -> None:
    """Run the command to the process's end; the console script gan-grid-report calls it."""
    run_command(PROGRAM, main)


if __name__ == "__main__":
    command()
