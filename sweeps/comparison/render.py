"""Templates → HTML, Markdown and what the terminal shows. All sentences are in templates."""

import base64
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from statistics import median
from typing import Any

from bs4 import Tag
from markdownify import MarkdownConverter
from rich.console import Console
from rich.table import Table

from gan_core import metric_names as names
from gan_core.live import in_time
from gan_core.storage import project_root
from gan_core.tracking.store import redact, sqlite_file
from sweeps.comparison.compare import TRAINING, Comparison
from sweeps.comparison.verdict import give_verdict
from sweeps.inference import LEVEL, MOST_SEEDS, POWER, Estimate

NONE = "–"
MOST_ROWS = 24  # in the terminal
COLUMNS = ("finished", "loss D", "loss G", "D(x)", "D(G(z))", "fd", "health", "time")


def number(value: float) -> str:
    """Three significant digits; a dash where there is no number."""
    if not math.isfinite(value):
        return NONE
    size = abs(value)
    if size < 5e-5:
        return "0"
    text = f"{size:,.0f}" if size >= 100 else f"{size:.4f}" if size < 1e-3 else f"{size:#.3g}".rstrip(".")
    return f"−{text}" if value < 0 else text


def signed(value: float) -> str:
    """Two decimals and the sign."""
    return f"{value:+.2f}".replace("-", "−")


def interval(estimate: Estimate) -> str:
    """The 95 % interval as `low to high`; a dash for a single value."""
    return NONE if estimate.n < 2 else f"{number(estimate.low)} to {number(estimate.high)}"


def estimate(value: Estimate) -> str:
    """The mean, and its interval where there is one."""
    return number(value.mean) + (f" ({interval(value)})" if value.n > 1 else "")


def p_value(p: float) -> str:
    """A p-value as one writes it."""
    return NONE if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_clause(p: float) -> str:
    """`p = 0.03`, `p < 0.001`."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def counted(count: int, noun: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def listed(words: Iterable[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *front, end = list(map(str, words)) or [NONE]
    return f"{', '.join(front)} and {end}" if front else end


def some(words: Sequence[str], most: int = 6) -> str:
    """A list that stays readable: the first few and how many more."""
    return listed(words) if len(words) <= most else f"{', '.join(words[:most])} and {len(words) - most} more"


def or_none(value: str) -> str:
    """The value of a field; `none` where the run has no such field."""
    return "none" if value == "None" else value


def duration(seconds: float) -> str:
    """A span of time; a dash where it is not known."""
    return in_time(seconds) if math.isfinite(seconds) and seconds > 0 else NONE


def moment(seconds: float) -> str:
    """A time since 1970 as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(seconds))


def data_uri(content: bytes, kind: str) -> str:
    """A picture as an address that needs no request."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


FILTERS = (
    number, signed, interval, estimate, p_value, p_clause, counted, listed, some, or_none, duration, moment, data_uri,
    quote,
)  # fmt: skip


def render(template: str, values: Mapping[str, Any], packages: Sequence[str] = ()) -> str:
    """The template filled in; every value is escaped if its name has .html in it.

    packages: of studies, whose templates are called PACKAGE/NAME.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined

    of_studies = PrefixLoader({name: PackageLoader(name) for name in packages})
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("sweeps.comparison"), of_studies]), autoescape=".html" in template,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {function.__name__: function for function in FILTERS}
    environment.filters["exp"] = math.exp
    environment.globals |= {"LEVEL": LEVEL, "POWER": POWER, "MOST_SEEDS": MOST_SEEDS}
    return environment.get_template(template).render(values)


def to_markdown(html: str) -> str:
    """The body of a report in Markdown."""
    converter = _Markdown(heading_style="atx", bullets="-", code_language="bash", wrap=True, wrap_width=None)
    text = converter.convert(html.replace("&nbsp;", " "))
    return re.sub(r"\s*\n\s*\n", "\n\n", f"{text}\n")


class _Markdown(MarkdownConverter):
    """Says in Markdown what the page says by the look of a tag, and escapes all of Markdown's signs in texts."""

    def escape(self, text: str, parent_tags: set[str]) -> str:
        return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", text)

    def convert_span(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return f"**{text}**" if "tag" in (el.get("class") or ()) else text

    def convert_small(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return f" ({text})"

    def convert_dt(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return f"- **{text}**: "

    def convert_figure(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return f"\n\n{text}\n\n"

    def convert_dd(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return f"{text}\n"

    def convert_img(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return f"![{self.escape(str(el['alt']), parent_tags)}]({el['src']}) "


def print_summary(console: Console, comparison: Comparison, where: str, uri: str) -> None:
    """A row per setting, the best first; then the answer, and where to look further.

    console: as of `plain_console`. where: the address of the sweep in MLflow's UI. uri: the store's.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
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
    kinds = {kind for run in comparison.record.runs for kind in run.machines}
    paces = [run.metrics[names.FLOOR_RATIO] for run in comparison.record.runs if names.FLOOR_RATIO in run.metrics]
    values = {
        "c": comparison, "verdict": give_verdict(comparison), "rows": MOST_ROWS, "where": where,
        "pace": f"{median(paces):.2f}" if paces else "", "kinds": len(kinds),
        "command": ui_command(uri), "pictures": (names.CONTACT_SHEET, names.LOSSES_PICTURE),
        "artifacts": redact(comparison.record.artifact_uri.removeprefix("file://")),
    }  # fmt: skip
    console.print()
    console.print(table)
    console.print(render("summary.txt.j2", values))


def ui_command(uri: str) -> str:
    """The command that starts MLflow's UI on the store; empty for a tracking server, which has one."""
    if uri.startswith("http"):
        return ""
    if sqlite_file(uri) != project_root() / "mlflow.db":
        return f"mlflow ui --backend-store-uri {quote(redact(uri))}"
    return "mlflow ui" if Path.cwd() == project_root() else f"cd {quote(str(project_root()))} && mlflow ui"
