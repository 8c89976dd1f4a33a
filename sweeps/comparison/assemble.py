"""A sweep's record → the files of its report. Fetches the few artifacts that are shown; writes nothing."""

from collections.abc import Mapping, Sequence

from gan_core.tracking.queries import MlflowClient
from sweeps.comparison.cells import Cell, Comparison, compare
from sweeps.comparison.charts import (
    Picture,
    distance_over_epochs,
    losses_by_optimizer,
    losses_of_setting,
)
from sweeps.comparison.claims import judge_claims
from sweeps.comparison.fairness import each_at_its_best, held_equal
from sweeps.comparison.page import Page, Sheet, SheetRow, ZRow, page_files, sheet_of
from sweeps.comparison.pictures import columns, fetch_sheets, first_epoch_peaks, sheet_epochs
from sweeps.comparison.practical import PRACTICAL, practical_runs, usual_rate, usual_z
from sweeps.comparison.records import FD, RunRecord, SweepRecord
from sweeps.comparison.tables import cells_csv, runs_csv
from sweeps.comparison.verdict import give_verdict
from sweeps.comparison.words import listed, mean_distance, number, setting


def report_files(client: MlflowClient, record: SweepRecord) -> dict[str, bytes]:
    """Every file of the report, by its path within the report's folder."""
    comparison = compare(record)
    practical = [run for name in PRACTICAL for run in practical_runs(record, comparison, name)]
    begun = [run for run in record.runs if run.history.get("loss/generator")]
    peaks = first_epoch_peaks(client, [run for run in practical if run.z_dim == usual_z(practical)])
    rows = _by_setting(record.runs)
    first = _first_seed_runs(record)
    epochs = sheet_epochs(client, first)
    shown = columns(epochs.values())
    sheets = fetch_sheets(
        client, [(run, epoch) for run in first for epoch in _kept(shown, epochs[run.run_id])]
    )
    pictures: dict[str, Picture] = {}

    duel, duel_title = _duel(begun, comparison)
    if duel:
        pictures |= {f"losses_{network}": losses_by_optimizer(duel, network) for network in ("G", "D")}
    row_runs, setting_title = _one_setting(begun, comparison)
    z_rows = []
    for z in sorted({run.z_dim for run in row_runs}):
        runs = [run for run in row_runs if run.z_dim == z]
        pictures[f"losses_z{z}"] = losses_of_setting(runs)
        z_rows.append(ZRow(z, f"losses_z{z}", _last_sheet(runs, first, epochs, sheets)))
    cells = {cell.name: cell for cell in comparison.cells}
    in_order = [cells[name] for name in dict.fromkeys(run.cell for run in record.runs)]
    measured = [cell for cell in in_order if FD in cell.scores]
    if measured:
        classifier = record.classifiers[0]
        pictures["fd"] = distance_over_epochs(
            measured, classifier.real_baseline[FD], classifier.untrained_baseline[FD]
        )

    page = Page(
        record=record,
        comparison=comparison,
        verdict=give_verdict(record, comparison),
        claims=judge_claims(record, comparison, peaks),
        equal=held_equal(record),
        at_their_best=each_at_its_best(record, comparison),
        pictures=pictures,
        chart_title=duel_title,
        setting_title=setting_title,
        z_rows=z_rows,
        sheet_epochs=shown,
        sheet_rows=[_sheet_row(run, cells[run.cell], shown, sheets) for run in rows if run in first],
        sheet_seed=first[0].seed if first else None,
    )
    return page_files(page) | {"cells.csv": cells_csv(comparison), "runs.csv": runs_csv(record, comparison)}


def _by_setting(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """In the order of the contact sheet: what is made of the same z stands together."""
    return sorted(runs, key=lambda run: (run.z_dim, _rank(run.optimizer, runs), run.learning_rate))


def _rank(optimizer: str, runs: Sequence[RunRecord]) -> int:
    return list(dict.fromkeys(run.optimizer for run in runs)).index(optimizer)


def _first_seed_runs(record: SweepRecord) -> list[RunRecord]:
    """One run of each cell, all of one seed: the one that most cells have finished."""
    finished = [run.seed for run in record.runs if run.status == "FINISHED"]
    seed = max(record.seeds, key=lambda each: (finished.count(each), -each), default=None)
    return [run for run in record.runs if run.seed == seed]


def _duel(runs: Sequence[RunRecord], comparison: Comparison) -> tuple[list[RunRecord], str]:
    """The runs of the loss curves by optimizer: one z_dim, SGD against Adam, or the optimizers there are."""
    if not runs:
        return [], ""
    optimizers = list(dict.fromkeys(run.optimizer for run in runs))
    chosen = [name for name in PRACTICAL if name in optimizers]
    chosen = chosen if len(chosen) == 2 else optimizers
    rates = {name: usual_rate(comparison, name) for name in chosen}
    among = [run for run in runs if run.optimizer in chosen and run.learning_rate == rates[run.optimizer]]
    z = usual_z(among or runs)
    found = [run for run in among if run.z_dim == z]
    found.sort(key=lambda run: chosen.index(run.optimizer))
    words = [setting(run.optimizer, run.learning_rate) for run in found]
    return found, f"{listed(dict.fromkeys(words), 'against')}, z_dim {z}"


def _one_setting(runs: Sequence[RunRecord], comparison: Comparison) -> tuple[list[RunRecord], str]:
    """The runs of the rows by z_dim: SGD, or the first optimizer, at the learning rate of the claims."""
    if not runs:
        return [], ""
    optimizers = list(dict.fromkeys(run.optimizer for run in runs))
    optimizer = "sgd" if "sgd" in optimizers else optimizers[0]
    rate = usual_rate(comparison, optimizer)
    found = [run for run in runs if run.optimizer == optimizer and run.learning_rate == rate]
    return found, setting(optimizer, found[0].learning_rate) if found else ""


def _kept(shown: Sequence[int], kept: Sequence[int]) -> list[int]:
    """The epochs to fetch of a run: those of the page, and its last."""
    return [epoch for epoch in kept if epoch in shown or epoch == kept[-1]]


def _last_sheet(
    runs: Sequence[RunRecord],
    first: Sequence[RunRecord],
    epochs: Mapping[str, list[int]],
    sheets: Mapping[tuple[str, int], bytes],
) -> Sheet | None:
    for run in runs:
        if run in first and epochs[run.run_id]:
            epoch = epochs[run.run_id][-1]
            caption = f"seed {run.seed}, epoch {epoch}"
            return sheet_of(sheets.get((run.run_id, epoch)), run.cell, run.seed, epoch, caption)
    return None


def _sheet_row(
    run: RunRecord, cell: Cell, shown: Sequence[int], sheets: Mapping[tuple[str, int], bytes]
) -> SheetRow:
    fds = dict(zip(run.epochs.get(FD, []), run.history.get(FD, []), strict=True))
    if FD not in cell.scores and not any(FD in each.metrics for each in cell.runs):
        fds = {}
    status = "" if run.status == "FINISHED" else run.status.lower()
    note = ", ".join(filter(None, [mean_distance(cell), run.health if run.health != "ok" else "", status]))
    return SheetRow(
        run.cell,
        note,
        [
            sheet_of(
                sheets.get((run.run_id, epoch)), run.cell, run.seed, epoch,
                f"fd {number(fds[epoch])}" if epoch in fds else "",
            )
            for epoch in shown
        ],
    )  # fmt: skip
