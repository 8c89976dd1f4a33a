"""Templates → HTML, Markdown and text for the terminal. All sentences are in templates."""

import base64
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

from gan_core.cli import in_time
from sweeps.comparison.statistics import LEVEL, MOST_SEEDS, POWER, Estimate

NONE = "–"


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


def listed(words: Iterable[object], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *front, end = list(map(str, words)) or [NONE]
    return f"{', '.join(front)} {last} {end}" if front else end


def some(names: Sequence[str], most: int = 6) -> str:
    """A list that stays readable: the first few and how many more."""
    return listed(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def duration(seconds: float) -> str:
    """A span of time; a dash where it is not known."""
    return in_time(seconds) if math.isfinite(seconds) and seconds > 0 else NONE


def moment(seconds: float) -> str:
    """A time since 1970 as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(seconds))


def data_uri(content: bytes, kind: str) -> str:
    """A picture as an address that needs no request."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


FILTERS = {
    "number": number, "signed": signed, "interval": interval, "estimate": estimate, "p_value": p_value,
    "p_clause": p_clause, "counted": counted, "listed": listed, "some": some, "duration": duration,
    "moment": moment, "data_uri": data_uri,
}  # fmt: skip


def render(template: str, values: Mapping[str, Any], packages: Sequence[str] = ()) -> str:
    """The template filled in; every value is escaped if its name has .html in it.

    packages: of studies, whose templates are called PACKAGE/NAME.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined

    loader = ChoiceLoader(
        [PackageLoader("sweeps.comparison"), PrefixLoader({name: PackageLoader(name) for name in packages})]
    )
    environment = Environment(
        loader=loader, autoescape=".html" in template, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= FILTERS
    environment.globals |= {"LEVEL": LEVEL, "POWER": POWER, "MOST_SEEDS": MOST_SEEDS}
    return environment.get_template(template).render(values)


def to_markdown(html: str) -> str:
    """The body of a report in Markdown. Knows the tags that the templates use, and drops what only styles."""
    converter = _Markdown()
    converter.feed(html)
    return converter.text()


class _Markdown(HTMLParser):
    """Collects blocks: a heading, a paragraph, an item, a row of a table."""

    BLOCKS: Mapping[str, str] = {
        "h1": "# ", "h2": "## ", "h3": "### ", "p": "", "figcaption": "", "li": "- ",
        "dt": "- **", "figure": "",
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._blocks: list[tuple[str, str]] = []
        self._inline = ""
        self._cells: list[str] = []
        self._head = True  # the next row is the first of its table
        self._tags: list[str] = []  # open: of those that Markdown marks at their end as well

    def text(self) -> str:
        """All blocks; those of a list or table stand close together."""
        text = ""
        before = ""
        for kind, block in self._blocks:
            text += ("\n" if kind == before and kind in ("li", "tr") else "\n\n" if text else "") + block
            before = kind
        return text + "\n"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.BLOCKS:
            self._end_block()
            self._inline = self.BLOCKS[tag]
        elif tag == "strong" or "tag" in (dict(attrs).get("class") or "").split():
            self._inline += "**"
            self._tags.append(tag)
        elif tag == "small":
            self._inline = self._inline.rstrip() + " ("
        elif tag == "br":
            self._inline += " "
        elif tag in ("th", "td", "pre"):
            self._end_block()
            self._tags.append(tag)
        elif tag == "table":
            self._end_block()
            self._head = True
        elif tag == "img":
            found = dict(attrs)
            self._inline += f"![{_escaped(found.get('alt') or '')}]({found.get('src')}) "

    def handle_endtag(self, tag: str) -> None:
        if self._tags[-1:] == [tag] and tag in ("strong", "span"):
            self._inline += "**"
            self._tags.pop()
        elif tag == "small":
            self._inline += ")"
        elif tag == "dt":
            self._inline = self._inline.rstrip() + "**: "
        elif tag in ("th", "td"):
            self._cells.append(self._inline.strip())
            self._inline = ""
            self._tags.pop()
        elif tag == "tr":
            self._blocks.append(("tr", f"| {' | '.join(self._cells)} |"))
            if self._head:
                self._blocks.append(("tr", "|" + " --- |" * len(self._cells)))
            self._cells, self._head = [], False
        elif tag == "pre":
            self._blocks.append(("pre", f"```bash\n{self._inline.strip()}\n```"))
            self._inline = ""
            self._tags.pop()
        elif tag in (*self.BLOCKS, "dd"):
            self._end_block("li" if tag in ("li", "dd") else tag)

    def handle_data(self, data: str) -> None:
        self._inline += data if "pre" in self._tags else _escaped(data, keep_ends=True)

    def _end_block(self, kind: str = "p") -> None:
        if "td" in self._tags or "th" in self._tags:  # a paragraph within a cell
            return
        if self._inline.strip():
            self._blocks.append((kind, self._inline.strip()))
        self._inline = ""


def _escaped(text: str, keep_ends: bool = False) -> str:
    """Text whose signs Markdown and the HTML within it would take for its own, made harmless."""
    plain = re.sub(r"\s+", " ", text) if keep_ends else " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", plain)
