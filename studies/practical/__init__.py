"""The practical that this project grew out of: its two experiments and its claims, on the runs of a sweep."""

from collections.abc import Mapping, Sequence

from studies.practical.claims import CLAIMED, Claim, Claims, Peaks, by_z, usual_z
from sweeps.comparison.artifacts import Artifacts, Sheet, sheet_of
from sweeps.comparison.charts import COLOURS, Line, Picture, both_losses_chart, loss_chart
from sweeps.comparison.compare import Comparison
from sweeps.comparison.page import Section
from sweeps.comparison.records import RunRecord

AXES = {"optimizer", "z_dim", "learning_rate"}
AS_IT_WAS = {"dataset": "mnist", "epochs": "100"}


def section(comparison: Comparison, artifacts: Artifacts) -> Section | None:
    """The section of the report; None for a sweep on which the practical's claims cannot be read."""
    if not is_its_grid(comparison):
        return None
    claims = Claims(comparison)
    duel = {name: runs for name in CLAIMED if (runs := claims.runs_at_usual_z(name))}
    pictures: dict[str, Picture] = {}
    if duel:
        lines = [Line(_label(runs[0]), runs, COLOURS[place]) for place, runs in enumerate(duel.values())]
        pictures |= {f"practical_losses_{network}": loss_chart(lines, network) for network in ("G", "D")}
    rows = by_z(claims.runs["sgd"])
    pictures |= {f"practical_z{z}": both_losses_chart(runs) for z, runs in rows.items()}
    sheets = _last_sheets(comparison, rows, artifacts)
    values = {
        "claims": claims.all(_peaks(artifacts, [run for runs in duel.values() for run in runs])),
        "rates": claims.rates,
        "duel": list(duel),
        "usual_z": usual_z([*claims.runs["sgd"], *claims.runs["adam"]]),
        "rows": [(z, f"practical_z{z}", sheets.get(z)) for z in rows],
        "differs": {
            field: found
            for field, its in AS_IT_WAS.items()
            if (found := sorted({run.fields.get(field, "") for run in comparison.record.runs})) != [its]
        },
    }
    return Section("studies.practical/practical.html.j2", values, pictures, list(sheets.values()))


def is_its_grid(comparison: Comparison) -> bool:
    """Whether a sweep is one of the practical's experiments: SGD against Adam, or z_dims with SGD."""
    if not comparison.record.runs or not set(comparison.axes) <= AXES:
        return False
    fields = [run.fields for run in comparison.record.runs]
    try:
        z_dims = {int(each["z_dim"]) for each in fields}
        optimizers = {each["optimizer"] for each in fields if float(each["learning_rate"])}
    except (KeyError, ValueError):  # a store that this program has not written
        return False
    return optimizers >= set(CLAIMED) or ("sgd" in optimizers and len(z_dims) > 1)


def _label(run: RunRecord) -> str:
    return f"{run.fields['optimizer']} {run.fields['learning_rate']}, z_dim {run.fields['z_dim']}"


def _peaks(artifacts: Artifacts, runs: Sequence[RunRecord]) -> dict[str, Peaks]:
    """The highest loss of an iteration in the first epoch, by run id; without the runs that kept none."""
    found = {run.run_id: artifacts.losses(run) for run in runs}
    return {
        run_id: Peaks(float(losses["discriminator"][0].max()), float(losses["generator"][0].max()))
        for run_id, losses in found.items()
        if losses and all(array.ndim == 2 and array.size for array in losses.values())
    }


def _last_sheets(
    comparison: Comparison, rows: Mapping[int, Sequence[RunRecord]], artifacts: Artifacts
) -> dict[int, Sheet]:
    """The last sheet of the comparison's seed for each z_dim that has one."""
    runs = {z: run for z, its in rows.items() for run in its if run.seed == comparison.seed}
    epochs = artifacts.sheet_epochs(list(runs.values()))
    last = {run.run_id: epochs[run.run_id][-1] for run in runs.values() if epochs[run.run_id]}
    pngs = artifacts.sheets([(run, last[run.run_id]) for run in runs.values() if run.run_id in last])
    return {
        z: sheet_of(run, last[run.run_id], pngs.get((run.run_id, last[run.run_id])))
        for z, run in runs.items()
        if run.run_id in last
    }


__all__ = ["Claim", "section"]
