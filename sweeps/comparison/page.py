"""The report of a sweep: what it shows, put together as HTML and Markdown."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from sweeps.comparison.cells import Comparison
from sweeps.comparison.charts import Picture
from sweeps.comparison.decisions import Claim
from sweeps.comparison.fairness import AtItsBest
from sweeps.comparison.records import SweepRecord
from sweeps.comparison.verdict import Verdict
from sweeps.comparison.view import view
from sweeps.folders import safe_name

_LOADER = PackageLoader("sweeps.comparison")


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
    words = {"page": page, "record": page.record, "verdict": page.verdict} | view(
        page.record, page.comparison, page.at_their_best
    )
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


def sheet_of(png: bytes | None, cell: str, seed: int, epoch: int, caption: str) -> Sheet:
    """A sample sheet, named by its cell, seed and epoch."""
    file = f"sheets/{safe_name(f'{cell}_s{seed}_epoch_{epoch:04d}')}.png"
    return Sheet(png, file, f"64 digits of {cell}, seed {seed}, after epoch {epoch}", caption)
