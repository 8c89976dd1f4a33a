"""Compare the cells of a sweep: a page that says which setting is best and how sure one can be."""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow.exceptions import MlflowException

from gan_core.cli import OK, OneLineParser, add_store, run_command
from gan_core.errors import UserError
from gan_core.storage import write_atomically
from gan_core.tracking.queries import MlflowClient, settle_stale
from gan_core.tracking.store import brief, check_store, checkpoint_dir, resolve_uri, sqlite_file
from sweeps.comparison.overview import (
    CONTACT_SHEET,
    LOSSES_FIGURE,
    contact_sheet,
    losses_figure,
    write_figures,
)
from sweeps.comparison.reading import find_sweep, read_record, read_sweep
from sweeps.comparison.records import RunRecord
from sweeps.folders import report_folder

PROGRAM = "report.py"
ARTIFACTS = "report"  # the folder among the parent run's artifacts
PAGE = "report.html"

__all__ = [
    "CONTACT_SHEET",
    "LOSSES_FIGURE",
    "RunRecord",
    "contact_sheet",
    "losses_figure",
    "make_report",
    "read_sweep",
    "write_figures",
]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and write the report; the exit code."""
    args = _parser().parse_args(argv)
    uri = resolve_uri(args.tracking_uri)
    _require_store(uri)
    page, notes = make_report(uri, args.experiment, args.sweep, args.output)
    for note in notes:
        print(f"{PROGRAM}: {note}", file=sys.stderr)
    print(page)
    return OK


def make_report(
    uri: str, experiment: str, sweep: str | None = None, output: Path | None = None
) -> tuple[Path, list[str]]:
    """Write the report of a sweep (the latest, or that of this name or run id); the page, and what to tell.

    It goes into `output` (by default `reports/NAME`), and among the artifacts of the sweep's parent run.
    Raises UserError if there is no such sweep or the folder cannot be written.
    """
    # Templates and statistics take a second to import; a command that only reads names does without them.
    from sweeps.comparison.assemble import report_files

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        settle_stale(client, found.experiment_id, checkpoint_dir(None, uri))
    parent, namesakes = find_sweep(client, experiment, sweep)
    folder = output or report_folder(uri, parent.info.run_name)
    _require_folder(folder)
    record = read_record(client, parent, experiment, namesakes)
    files = report_files(client, record)
    _write(folder, files)
    notes = []
    if namesakes:
        notes.append(
            f"{namesakes + 1} sweeps are called {record.name!r}; this is the report of {record.run_id}, "
            f"{'named by its run id' if sweep == record.run_id else 'the latest'}"
        )
    try:
        _upload(client, record.run_id, files)
    except (MlflowException, OSError) as error:
        notes.append(f"the report is not among the sweep's artifacts: {brief(error, uri)}")
    return folder / PAGE, notes


def _parser() -> OneLineParser:
    parser = OneLineParser(PROGRAM, __doc__, ("python sweeps/report.py --sweep study",))
    parser.add_argument("--sweep", metavar="NAME", help="a sweep's name or run id (default: the latest)")
    add_store(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where to write it (default: reports/NAME beside the store)",
    )
    return parser


def _require_store(uri: str) -> None:
    file = sqlite_file(uri)
    if file is not None and not (file.is_file() and file.stat().st_size):
        raise UserError(f"there is no store {file}; python sweeps/run_grid.py makes one")
    check_store(uri)


def _require_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write to the folder {folder}")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_atomically(folder / name, content)
    except OSError as error:
        raise UserError(f"cannot write {folder / name}: {error.strerror}") from error


def _upload(client: MlflowClient, parent_id: str, files: Mapping[str, bytes]) -> None:
    """These files alone: `folder` may hold others."""
    with tempfile.TemporaryDirectory(prefix="gan-report-") as scratch:
        _write(Path(scratch), files)
        client.log_artifacts(parent_id, scratch, ARTIFACTS)


def command() -> None:
    """Run the command to the process's end; the console script gan-grid-report calls it."""
    run_command(PROGRAM, main)


if __name__ == "__main__":
    command()
