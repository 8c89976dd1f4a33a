import itertools
from dataclasses import replace

import pytest

from gan_core import metric_names as names
from sweeps.comparison.charts import COLOURS, STYLES, lines_of
from sweeps.comparison.compare import compare


def looks(made_up, axes, few=None):
    """Colour and style, by the axes' values."""
    runs = [
        made_up.run(0, axes=axes, **dict(zip(axes, each, strict=True))) for each in itertools.product(*axes.values())
    ]
    comparison = compare(made_up.sweep(runs, axes=tuple(axes)))
    settings = comparison.settings[:few]
    lines = lines_of(settings, comparison, names.LOSS_G)
    assert [line.label for line in lines] == [setting.name for setting in settings]
    return {
        tuple(setting.values.values()): (line.colour, line.style) for setting, line in zip(settings, lines, strict=True)
    }


@pytest.mark.parametrize(
    "axes",
    [{"optimizer": ["sgd", "adam"], "z_dim": [20, 50, 100, 200]}, {"z_dim": list(range(1, 13))},
     {"batch_size": [16, 32, 64], "hidden_dim": [8, 16], "z_dim": [2, 3, 4, 5]},
     {"batch_size": [16, 32, 64, 128, 256], "hidden_dim": [8, 16, 32, 64, 128]}],
)  # fmt: skip
def test_no_two_of_the_lines_of_a_chart_look_alike(made_up, axes):
    found = looks(made_up, axes, few=24)
    assert len(set(found.values())) == len(found)


def test_of_two_small_axes_one_is_the_colour_and_one_the_style(made_up):
    found = looks(made_up, {"optimizer": ["sgd", "adam"], "z_dim": [20, 50, 100]})
    for z, optimizer in itertools.product(("20", "50", "100"), ("sgd", "adam")):
        place = ("20", "50", "100").index(z), ("sgd", "adam").index(optimizer)
        assert found[optimizer, z] == (COLOURS[place[0]], STYLES[place[1]])


def test_a_few_settings_have_a_colour_each(made_up):
    found = looks(made_up, {"optimizer": ["sgd", "adam"], "z_dim": [20, 50]}, few=3)
    assert [colour for colour, _ in found.values()] == list(COLOURS[:3])
    assert {style for _, style in found.values()} == {"-"}


def test_the_lines_of_fd_are_of_finished_runs_alone(made_up):
    runs = [made_up.run(seed) for seed in (0, 1)]
    runs[1] = replace(runs[1], status="KILLED")
    comparison = compare(made_up.sweep(runs))
    assert {m: len(lines_of(comparison.settings, comparison, m)[0].runs) for m in (names.FD, names.LOSS_D)} == {
        names.FD: 1, names.LOSS_D: 2,
    }  # fmt: skip
