import pytest

from sweeps.comparison.render import (
    counted,
    duration,
    estimate,
    interval,
    listed,
    number,
    p_clause,
    p_value,
    signed,
    some,
    to_markdown,
)
from sweeps.inference import Estimate
from sweeps.inference import interval as interval_of


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.2345, "1.23"), (12.345, "12.3"), (0.0, "0"), (-0.0012345, "−0.00123"), (0.00005, "0.0001"),
        (0.000049, "0"), (0.001, "0.00100"), (0.00099, "0.0010"), (1234.5, "1,234"), (250.4, "250"), (99.95, "100"),
        (10.0, "10.0"), (100.0, "100"), (float("nan"), "–"), (float("inf"), "–"), (-5.0, "−5.00"),
    ],
)  # fmt: skip
def test_numbers(value, words):
    assert number(value) == words


def test_a_single_value_has_a_dash_for_an_interval():
    assert interval(interval_of([3.0])) == "–"
    assert estimate(interval_of([3.0])) == "3.00"
    assert estimate(Estimate(3.0, 2.0, 4.0, 2)) == "3.00 (2.00 to 4.00)"
    assert duration(float("nan")) == duration(0.0) == "–"
    assert duration(61) == "1 min 01 s"


@pytest.mark.parametrize(
    ("p", "words"),
    [(0.0009, "< 0.001"), (0.001, "0.001"), (0.0994, "0.099"), (0.1, "0.10"), (1.0, "1.00"), (float("nan"), "–")],
)
def test_p_values(p, words):
    assert p_value(p) == words
    assert p_clause(p) == (f"p {words}" if words.startswith("<") else f"p = {words}")


def test_words():
    assert [counted(n, "seed") for n in (0, 1, 2, 1000)] == ["0 seeds", "1 seed", "2 seeds", "1,000 seeds"]
    assert [listed(each) for each in ([], "a", "ab", "abc")] == ["–", "a", "a and b", "a, b and c"]
    assert some("abcd", 4) == "a, b, c and d"
    assert some("abcde", 4) == "a, b, c, d and 1 more"
    assert (signed(0.5), signed(-0.5)) == ("+0.50", "−0.50")


def test_markdown_of_every_tag_that_the_page_uses():
    html = """<h1>A &lt;b&gt; [x](y)</h1><section class="verdict"><p><span class="tag good">best</span></p>
    <h2>Use   sgd_z20</h2><ul><li>one</li>
    <li>two</li></ul></section>
    <div class="scroll"><table><thead><tr><th scope="col">setting</th><th>time<small>per run</small></th></tr></thead>
    <tbody><tr><th scope="row">a|b<br><span class="tag">tied</span></th><td>5.0<small>1 to 2</small></td></tr>
    <tr><td><img class="sheet" src="sheets/a.png" alt="of ]"></td><td></td></tr></tbody></table></div>
    <p class="soft">5&nbsp;% <strong>so</strong></p><dl><dt>fd</dt><dd>is</dd><dt>kd</dt><dd>too</dd></dl>
    <figure><picture><source srcset="data:x"><img src="fd.png" alt="chart"></picture><figcaption>Less</figcaption></figure>
    <pre>python x --name 'a_b &lt;c&gt;'
    </pre>"""
    assert to_markdown(html).replace("\N{NO-BREAK SPACE}", " ").splitlines() == [
        "# A \\<b\\> \\[x\\](y)", "", "**best**", "", "## Use sgd\\_z20", "", "- one", "- two", "",
        "| setting | time (per run) |", "| --- | --- |", "| a\\|b **tied** | 5.0 (1 to 2) |",
        "| ![of \\]](sheets/a.png) |  |", "", "5 % **so**", "", "- **fd**: is", "- **kd**: too", "",
        "![chart](fd.png)", "", "Less", "", "```bash", "python x --name 'a_b <c>'", "```",
    ]  # fmt: skip
