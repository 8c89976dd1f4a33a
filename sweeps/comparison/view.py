"""The report's words, tables and facts, ready for the templates."""

import time
from collections import Counter
from collections.abc import Sequence
from shlex import quote

from gan_core.cli import flag
from gan_core.config import FIELDS
from sweeps.comparison.cells import LOSSES, Cell, Comparison, Contrast
from sweeps.comparison.decisions import RULE
from sweeps.comparison.fairness import BEST_OF_CAUTION, AtItsBest
from sweeps.comparison.records import SweepRecord
from sweeps.comparison.statistics import MOST_SEEDS, Estimate
from sweeps.comparison.words import (
    GLOSSARY,
    NONE,
    SCORE_NAMES,
    counted,
    duration,
    health_words,
    interval,
    number,
    p_value,
    setting,
)

AXIS_PARAMS = {
    "optimizer": "optimizers",
    "z_dim": "z_dims",
    "seed": "seeds",
    "learning_rate": "learning_rates",
}
CONTRAST_NOTES = (
    "By seed: runs of one seed share the first weights of D and the order of the images, so each seed is a "
    "pair. "
    "The paired t-test is of log fd, that is of ratios: fd is positive and skewed, and a run twice as bad "
    "differs as "
    "much as one half as bad. p is corrected for the number of comparisons (Holm). Seeds needed: for 80 % "
    "power at "
    "5 % shared among the comparisons, if the difference seen is the true one."
)


def view(
    record: SweepRecord, comparison: Comparison, at_their_best: Sequence[AtItsBest]
) -> dict[str, object]:
    """What the templates need besides the page itself, ready to be shown."""
    classifier = record.classifiers[0] if len(record.classifiers) == 1 else None
    best = comparison.best
    marks = {contrast.cell.name: "tied" for contrast in comparison.tied}
    marks |= {contrast.cell.name: "not tested" for contrast in comparison.untested}
    marks |= {best.name: "best"} if best else {}
    return {
        "notes": _notes(record),
        "score_names": [SCORE_NAMES[name] for name in comparison.scores],
        "rows": [_row(cell, comparison.scores, marks.get(cell.name, "")) for cell in comparison.cells],
        "bounds": [
            (name, [number(bounds[score]) for score in comparison.scores])
            for name, bounds in (("real_baseline: real images", classifier.real_baseline), ("untrained_baseline: untrained G", classifier.untrained_baseline))
        ]
        if classifier and comparison.scores
        else [],
        "contrasts": [_contrast(contrast) for contrast in comparison.contrasts],
        "best_name": best.name if best else "",
        "several": any(len(cell.finished) > 1 for cell in comparison.cells),
        "table_notes": _table_notes(comparison),
        "contrast_notes": CONTRAST_NOTES,
        "claims_rule": RULE,
        "practical": _practical(record),
        "at_their_best": [
            (setting(each.optimizer, each.learning_rate), str(each.tried), number(each.fd.mean),
             interval(each.fd), each.against_best or "best")
            for each in at_their_best
        ],
        "best_of_caution": BEST_OF_CAUTION,
        "facts": _facts(record),
        "params": sorted(record.params.items()),
        "commands": [_grid_command(record), _report_command(record)],
        "glossary": {
            name: text
            for name, text in GLOSSARY.items()
            if comparison.scores or name not in SCORE_NAMES.values()
        },
    }  # fmt: skip


def _table_notes(comparison: Comparison) -> str:
    scores = (
        "fd is the geometric mean over seeds and its interval that of log fd; all other figures are plain "
        "means. "
        if comparison.scores
        else "Quality of images: not measured, or without the real_baseline and untrained_baseline that would place it. "
    )
    return (
        "Below a figure: its 95 % interval over seeds (Student's t on n seeds; a dash where n is 1), which "
        "speaks of "
        f"one cell alone: two cells may be told apart though their intervals overlap. {scores}Losses are "
        f"means of "
        "the last epoch, in nats. Tied: the seeds cannot tell it from the best."
    )


def _notes(record: SweepRecord) -> list[str]:
    """What a reader must know before anything else."""
    notes = []
    every = len(record.runs) + len(record.absent)
    if record.running:
        done = sum(run.status == "FINISHED" for run in record.runs)
        notes.append(
            f"This sweep is still running, or its command was cut off: {done} of {counted(every, 'run')} "
            f"finished. "
            "Only these are compared, and all of this may change."
        )
    if record.namesakes:
        others = counted(record.namesakes, "other sweep")
        notes.append(
            f"There {'is' if record.namesakes == 1 else 'are'} {others} of this name: name one by its run id."
        )
    if not every:
        notes.append("This sweep has no runs.")
    return notes


def _practical(record: SweepRecord) -> str:
    dataset, epochs = record.params.get("dataset", ""), record.params.get("epochs", "")
    same = dataset == "mnist" and epochs == "100"
    ours = f"this sweep ran {epochs or 'an unknown number of'} epochs of {dataset or 'an unknown image set'}"
    return "" if same else f"The practical ran 100 epochs of MNIST; {ours}: no strict test of its figures."


def _row(cell: Cell, scores: Sequence[str], mark: str) -> dict[str, object]:
    return {
        "name": cell.name,
        "mark": mark,
        "setting": setting(cell.optimizer, cell.learning_rate, cell.z_dim),
        "seeds": f"{len(cell.finished)}/{cell.planned}",
        "losses": [_pair(cell.losses[name]) for name in LOSSES],
        "scores": [_pair(cell.scores.get(name)) for name in scores],
        "health": health_words(cell.health, len(cell.finished)),
        "sound": cell.sound,
        "time": duration(cell.seconds),
        "speed": f"{cell.images_per_second:,.0f}" if cell.images_per_second > 0 else NONE,
    }


def _pair(estimate: Estimate | None) -> tuple[str, str]:
    return (NONE, NONE) if estimate is None else (number(estimate.mean), interval(estimate))


def _contrast(contrast: Contrast) -> dict[str, str]:
    needed = contrast.seeds_needed
    enough = str(needed) if needed else f"more than {MOST_SEEDS:,}" if contrast.tested else NONE
    return {
        "name": contrast.cell.name,
        "ratio": number(contrast.ratio.mean),
        "interval": interval(contrast.ratio),
        "pairs": str(contrast.ratio.n),
        "p": p_value(contrast.p_corrected),
        "apart": "yes" if contrast.told_apart else "no" if contrast.tested else "not tested",
        "needed": NONE if contrast.told_apart else enough,
    }


def _facts(record: SweepRecord) -> list[tuple[str, str]]:
    """The sweep itself: when, how long, from what."""
    spent = sum(run.seconds for run in record.runs)
    facts = [
        ("sweep", record.name),
        ("run id", record.run_id),
        ("experiment", record.experiment),
        ("status", record.status),
        ("begun", time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(record.started))),
        ("took", duration(record.ended - record.started) if record.ended else "not over"),
        ("training time, all runs", duration(spent)),
        ("commit of the code", _commits(record)),
    ]
    if len(record.classifiers) == 1:
        classifier = record.classifiers[0]
        right = (
            f", right on {classifier.accuracy:.2%} of the test images"
            if classifier.accuracy == classifier.accuracy
            else ""
        )
        facts.append(
            ("classifier", f"{classifier.sha256[:12]}{right}; {classifier.images:,} images an evaluation")
        )
    else:
        facts.append(("classifier", "several" if record.classifiers else "no scores"))
    return facts


def _commits(record: SweepRecord) -> str:
    """The one commit, or how many runs each has trained."""
    trained = Counter(tuple(run.commits) for run in record.runs)
    if len(trained) < 2:
        return " then ".join(next(iter(trained), ())) or record.commit or "not recorded"
    return ", ".join(
        f"{' then '.join(commit[:12] for commit in commits) or 'not recorded'} ({counted(runs, 'run')})"
        for commits, runs in trained.most_common()
    )


def _grid_command(record: SweepRecord) -> str:
    """The command line that makes this sweep again, from the params of its parent run."""
    words = ["python", "sweeps/run_grid.py"]
    for name, value in record.params.items():
        if name in AXIS_PARAMS:
            words += [flag(AXIS_PARAMS[name]), *map(quote, value.split())]
        elif name in FIELDS:
            words += [flag(name), quote(value)]
    return " ".join([*words, "--name", quote(record.name)])


def _report_command(record: SweepRecord) -> str:
    place = "" if record.experiment == "gan-grid" else f" --experiment {quote(record.experiment)}"
    return f"python sweeps/report.py --sweep {record.run_id}{place}"
