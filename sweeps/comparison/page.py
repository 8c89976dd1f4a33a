"""The report of a sweep: its words, tables and pictures put together as HTML, Markdown and CSV."""

import base64
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from gan_core.command_line import flag
from gan_core.config import FIELDS
from sweeps.comparison.cells import LOSSES, Cell, Comparison, Contrast
from sweeps.comparison.charts import Picture
from sweeps.comparison.decisions import RULE, Claim
from sweeps.comparison.fairness import BEST_OF_CAUTION, AtItsBest
from sweeps.comparison.records import FID, SweepRecord
from sweeps.comparison.statistics import MOST_SEEDS, Estimate
from sweeps.comparison.verdict import Verdict
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
from sweeps.folders import safe_name
from sweeps.runs import OWN_RATES

AXIS_PARAMS = ("optimizers", "z_dims", "seeds", "learning_rates")


@dataclass(frozen=True)
class Sheet:
    """A sample sheet in its place on the page."""

    png: bytes | None  # None: there is none
    file: str  # its path beside report.md
    alt: str
    caption: str


@dataclass(frozen=True)
class SheetRow:
    """The sheets of one cell, an element an epoch."""

    cell: str
    note: str
    sheets: list[Sheet]


@dataclass(frozen=True)
class ZRow:
    """One z_dim: its loss curves, and its digits."""

    z_dim: int
    chart: str  # its key in the pictures
    sheet: Sheet | None


@dataclass(frozen=True)
class Page:
    """All that the report shows."""

    record: SweepRecord
    comparison: Comparison
    verdict: Verdict
    claims: list[Claim]
    equal: list[str]
    at_their_best: list[AtItsBest]
    pictures: Mapping[str, Picture]  # by the stem of the file beside report.md
    chart_title: str  # which settings the loss curves by optimizer are of
    setting_title: str  # which setting the rows by z_dim are of
    z_rows: Sequence[ZRow]
    sheet_epochs: Sequence[int]
    sheet_rows: Sequence[SheetRow]
    sheet_seed: int | None


def page_files(page: Page) -> dict[str, bytes]:
    """report.html, report.md, and the pictures beside the latter, by path."""
    words = _words(page)
    files = {f"{stem}.png": picture.png for stem, picture in page.pictures.items()}
    for sheet in (
        *(sheet for row in page.sheet_rows for sheet in row.sheets),
        *(row.sheet for row in page.z_rows),
    ):
        if sheet and sheet.png:
            files[sheet.file] = sheet.png
    html = Environment(
        loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html.filters |= {"uri": _data_uri, "together": _together}
    markdown = Environment(
        loader=_LOADER, autoescape=False, finalize=_in_markdown, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    markdown.filters |= {"raw": Raw}
    files["report.html"] = html.get_template("report.html.j2").render(words).encode()
    files["report.md"] = markdown.get_template("report.md.j2").render(words).encode()
    return files


_LOADER = PackageLoader("sweeps.comparison")


class Raw(str):
    """Text that goes into Markdown as it is."""

    __slots__ = ()


def _in_markdown(value: object) -> str:
    """Text whose signs Markdown and the HTML within it would take for its own, made harmless."""
    if isinstance(value, Raw):
        return value
    text = re.sub(r"\s+", " ", str(value))
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", text)


def _together(text: str) -> str:
    """A number and its per cent sign in one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _words(page: Page) -> dict[str, object]:
    """What the templates need, ready to be shown."""
    record, comparison = page.record, page.comparison
    judge = record.judges[0] if len(record.judges) == 1 else None
    best = comparison.best
    marks = {contrast.cell.name: "tied" for contrast in comparison.tied}
    marks |= {contrast.cell.name: "not tested" for contrast in comparison.untested}
    marks |= {best.name: "best"} if best else {}
    return {
        "page": page,
        "record": record,
        "verdict": page.verdict,
        "notes": _notes(record),
        "score_names": [SCORE_NAMES[name] for name in comparison.scores],
        "rows": [_row(cell, comparison.scores, marks.get(cell.name, "")) for cell in comparison.cells],
        "bounds": [
            (name, [number(bounds[score]) for score in comparison.scores])
            for name, bounds in (("floor: real images", judge.floor), ("ceiling: untrained G", judge.ceiling))
        ]
        if judge and comparison.scores
        else [],
        "contrasts": [_contrast(contrast) for contrast in comparison.contrasts],
        "best_name": best.name if best else "",
        "several": any(len(cell.finished) > 1 for cell in comparison.cells),
        "table_notes": _table_notes(comparison),
        "contrast_notes": CONTRAST_NOTES,
        "claims_rule": RULE,
        "practical": _practical(record),
        "at_their_best": [
            (setting(each.optimizer, each.learning_rate), str(each.tried), number(each.fid.mean),
             interval(each.fid), each.against_best or "best")
            for each in page.at_their_best
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


CONTRAST_NOTES = (
    "By seed: runs of one seed share the first weights of D and the order of the images, so each seed is a "
    "pair. "
    "The paired t-test is of log fid, that is of ratios: fid is positive and skewed, and a run twice as bad "
    "differs as "
    "much as one half as bad. p is corrected for the number of comparisons (Holm). Seeds needed: for 80 % "
    "power at "
    "5 % shared among the comparisons, if the difference seen is the true one."
)


def _table_notes(comparison: Comparison) -> str:
    scores = (
        "fid is the geometric mean over seeds and its interval that of log fid; all other figures are plain "
        "means. "
        if comparison.scores
        else "Quality of images: not measured, or without the floor and ceiling that would place it. "
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
        ("commit of the code", record.commit or "not recorded"),
    ]
    if len(record.judges) == 1:
        judge = record.judges[0]
        right = (
            f", right on {judge.accuracy:.2%} of the test images" if judge.accuracy == judge.accuracy else ""
        )
        facts.append(("judge", f"{judge.sha256[:12]}{right}; {judge.images:,} images an evaluation"))
    else:
        facts.append(("judge", "several" if record.judges else "no scores"))
    return facts


def _grid_command(record: SweepRecord) -> str:
    """The command line that makes this sweep again, from the params of its parent run."""
    words = ["python", "sweeps/run_grid.py"]
    for name, value in record.params.items():
        if name in AXIS_PARAMS:
            if value != OWN_RATES:
                words += [flag(name), *map(quote, value.split())]
        elif name in FIELDS:
            words += [flag(name), quote(value)]
    return " ".join([*words, "--name", quote(record.name)])


def _report_command(record: SweepRecord) -> str:
    place = "" if record.experiment == "gan-grid" else f" --experiment {quote(record.experiment)}"
    return f"python sweeps/report.py --sweep {record.run_id}{place}"


def sheet_of(png: bytes | None, cell: str, seed: int, epoch: int, caption: str) -> Sheet:
    """A sample sheet, named by its cell, seed and epoch."""
    file = f"sheets/{safe_name(f'{cell}_s{seed}_epoch_{epoch:04d}')}.png"
    return Sheet(png, file, f"64 digits of {cell}, seed {seed}, after epoch {epoch}", caption)


def mean_distance(cell: Cell) -> str:
    """A cell's Fréchet distance in a few words, for a caption."""
    if FID not in cell.scores:
        return ""
    fid = cell.scores[FID]
    return f"fid {number(fid.mean)}" + (f" ({interval(fid)})" if fid.n > 1 else "")
