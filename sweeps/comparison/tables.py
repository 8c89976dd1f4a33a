"""A sweep's cells and runs as CSV files."""

import csv
import io
from collections.abc import Iterable, Mapping

from sweeps.comparison.cells import LOSSES, Comparison
from sweeps.comparison.records import RunRecord, SweepRecord


def cells_csv(comparison: Comparison) -> bytes:
    """A row a cell, the best first: means over its finished runs, with their 95 % intervals."""
    against = {contrast.cell.name: contrast for contrast in comparison.contrasts}
    rows = []
    for cell in comparison.cells:
        row: dict[str, object] = {
            "cell": cell.name,
            "optimizer": cell.optimizer,
            "learning_rate": cell.learning_rate,
            "z_dim": cell.z_dim,
            "runs_finished": len(cell.finished),
            "runs_planned": cell.planned,
        }
        for name in (*LOSSES, *comparison.scores):
            estimate = (cell.losses | cell.scores).get(name)
            for what in ("mean", "low", "high"):
                row[f"{name} {what}"] = getattr(estimate, what) if estimate else ""
        contrast = against.get(cell.name)
        row |= {
            "fd ratio to best": contrast.ratio.mean if contrast else "",
            "ratio low": contrast.ratio.low if contrast else "",
            "ratio high": contrast.ratio.high if contrast else "",
            "p": contrast.p if contrast else "",
            "p Holm": contrast.p_corrected if contrast else "",
            "health": " ".join(f"{name or 'not-recorded'}:{count}" for name, count in cell.health.items()),
            "seconds": cell.seconds,
            "images_per_second": cell.images_per_second,
        }
        rows.append(row)
    return _csv(rows)


def runs_csv(record: SweepRecord, comparison: Comparison) -> bytes:
    """A row a run, those that never began as well."""
    rows = [_run_row(run, comparison) for run in record.runs]
    rows += [
        {"run": run.name, "cell": run.cell, "status": run.status, "failure": run.failure}
        for run in record.absent
    ]
    return _csv(rows)


def _run_row(run: RunRecord, comparison: Comparison) -> dict[str, object]:
    return {
        "run": run.name,
        "run_id": run.run_id,
        "cell": run.cell,
        "optimizer": run.optimizer,
        "learning_rate": run.learning_rate,
        "z_dim": run.z_dim,
        "seed": run.seed,
        "status": run.status,
        "failure": run.failure,
        "health": run.health,
        "health_reason": run.health_reason,
        "epochs": len(run.history.get(LOSSES[0], [])),
        **{name: run.last(name) for name in LOSSES},
        **{name: "" if (value := run.score(name)) is None else value for name in comparison.scores},
        "seconds": run.seconds,
        "images_per_second": run.images_per_second,
    }


def _csv(rows: Iterable[Mapping[str, object]]) -> bytes:
    rows = list(rows)
    text = io.StringIO()
    table = csv.DictWriter(
        text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
    )
    table.writeheader()
    # What a spreadsheet would take for a formula stays text.
    table.writerows({name: _inert(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _inert(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
