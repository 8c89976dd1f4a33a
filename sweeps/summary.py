"""What a finished sweep says in the terminal: a table of its cells, and where to look further."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from statistics import fmean

from rich.console import Console
from rich.table import Table

from gan_core.live import in_time
from gan_core.storage import project_root
from gan_core.tracking.queries import MlflowClient
from gan_core.tracking.store import redact, sqlite_file
from sweeps.compat import view_address
from sweeps.report import CONTACT_SHEET, LOSSES_FIGURE, RunRecord
from sweeps.runs import Sweep


def show_results(
    console: Console, uri: str, client: MlflowClient, sweep: Sweep, records: Sequence[RunRecord]
) -> None:
    """A row for each cell, means over its seeds; then where the pictures are, and how to look at the rest."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title_justify="left")
    table.add_column("cell", no_wrap=True)
    for column in ("finished", "loss D", "loss G", "D(x)", "D(G(z))", "fd", "health", "time"):
        # Where the terminal is narrow, the words of health are the ones to give way.
        table.add_column(column, justify="right", no_wrap=column != "health")
    cells: dict[str, list[RunRecord]] = {}
    for record in records:
        cells.setdefault(record.cell, []).append(record)
    for cell, runs in cells.items():
        table.add_row(
            cell,
            f"{sum(run.status == 'FINISHED' for run in runs)}/{len(runs)}",
            *(
                f"{fmean(run.last(metric) for run in runs):{form}}"
                for metric, form in (
                    ("loss/discriminator", ".3f"),
                    ("loss/generator", ".3f"),
                    ("score/real", ".2f"),
                    ("score/fake", ".2f"),
                    ("quality/fd", ".1f"),
                )
            ),
            ", ".join(
                f"{health or 'unknown'} {count}/{len(runs)}"
                for health, count in Counter(run.health for run in runs).most_common()
            ),
            in_time(fmean(sum(run.history.get("time/epoch_seconds", [])) for run in runs)),
        )
    console.print()
    console.print(table)
    over = len(records) > len(cells)
    console.print(
        f"\nLosses, scores and fd (less is better) are of the last epoch{', means over seeds' * over}."
    )
    where = redact(client.get_run(sweep.parent_id).info.artifact_uri.removeprefix("file://"))
    console.print(f"Pictures: {where}/{CONTACT_SHEET} and {LOSSES_FIGURE}; each run's own beside its record.")
    console.print(f"Compare:  {_ui_command(uri)}")
    console.print(f"          then open {_ui_address(uri, sweep)}")


def _ui_address(uri: str, sweep: Sweep) -> str:
    """Where `mlflow ui` shows the sweep's runs. From its front page the UI leads elsewhere first."""
    server = redact(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return view_address(server, sweep.experiment_id, sweep.parent_id)


def _ui_command(uri: str) -> str:
    if uri.startswith("http"):
        return "on the tracking server"
    file = sqlite_file(uri)
    if file == project_root() / "mlflow.db":
        return (
            "mlflow ui" if Path.cwd() == project_root() else f"cd {quote(str(project_root()))} && mlflow ui"
        )
    return f"mlflow ui --backend-store-uri {quote(redact(uri))}"
