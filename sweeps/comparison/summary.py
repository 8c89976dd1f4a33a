"""What a finished sweep says in the terminal: a table of its settings, the answer, where to look further."""

from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.table import Table

from gan_core import metric_names as names
from gan_core.storage import project_root
from gan_core.tracking.store import redact, sqlite_file
from sweeps.comparison.compare import TRAINING, Comparison
from sweeps.comparison.page import LOSSES_OVERVIEW
from sweeps.comparison.render import duration, number, render
from sweeps.comparison.verdict import give_verdict

MOST_ROWS = 24
COLUMNS = ("finished", "loss D", "loss G", "D(x)", "D(G(z))", "fd", "health", "time")


def print_summary(console: Console, comparison: Comparison, where: str, uri: str) -> None:
    """A row per setting, the best first; then the answer, and where to look further.

    where: the address of the sweep in MLflow's UI. uri: the store's.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("setting", no_wrap=True)
    for column in COLUMNS:
        # Where the terminal is narrow, the words of health are the ones to give way.
        table.add_column(column, justify="right", no_wrap=column != "health")
    for setting in comparison.settings[:MOST_ROWS]:
        health = ", ".join(f"{name or 'not checked'} {runs}" for name, runs in setting.health.items())
        table.add_row(
            setting.name,
            f"{len(setting.finished)}/{setting.planned}",
            *(number(setting.training[metric].mean) for metric in TRAINING),
            number(setting.fd),
            health,
            duration(setting.seconds),
        )
    values = {
        "c": comparison, "verdict": give_verdict(comparison), "rows": MOST_ROWS, "where": where,
        "command": ui_command(uri), "pictures": (names.CONTACT_SHEET, LOSSES_OVERVIEW),
        "artifacts": redact(comparison.record.artifact_uri.removeprefix("file://")),
    }  # fmt: skip
    console.print()
    console.print(table)
    console.print(render("summary.txt.j2", values), markup=False, highlight=False, soft_wrap=True)


def ui_command(uri: str) -> str:
    """The command that starts MLflow's UI on the store; empty for a tracking server, which has one."""
    if uri.startswith("http"):
        return ""
    if sqlite_file(uri) != project_root() / "mlflow.db":
        return f"mlflow ui --backend-store-uri {quote(redact(uri))}"
    return "mlflow ui" if Path.cwd() == project_root() else f"cd {quote(str(project_root()))} && mlflow ui"
