"""The claims of the practical that this project grew out of, each tested on the runs of a sweep."""

from collections.abc import Mapping

from sweeps.comparison.cells import Comparison
from sweeps.comparison.decisions import Claim
from sweeps.comparison.loss_claims import Peaks, flat_loss, loss_curves, loss_tells
from sweeps.comparison.practical import PRACTICAL, practical_runs, usual_rate
from sweeps.comparison.records import FD, SweepRecord
from sweeps.comparison.score_claims import clearest_digits, sensible_z, sgd_wins


def judge_claims(record: SweepRecord, comparison: Comparison, peaks: Mapping[str, Peaks]) -> list[Claim]:
    """Every claim. `peaks`: by run id, at least of the `practical_runs` at their `usual_z`."""
    rates = {name: usual_rate(comparison, name) for name in PRACTICAL}
    sgd, adam = (practical_runs(record, comparison, name) for name in PRACTICAL)
    runs = [run for run in record.runs if run.status == "FINISHED"]
    scored = FD in comparison.scores
    return [
        sgd_wins(sgd, adam, rates, scored),
        loss_curves(sgd, adam, peaks),
        clearest_digits(sgd, comparison.scores),
        flat_loss(sgd),
        sensible_z(sgd, scored),
        loss_tells(runs, scored),
    ]
