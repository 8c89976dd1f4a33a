import pytest

from sweeps.comparison.cells import compare
from sweeps.comparison.charts import line_looks


def looks_of(made_up, runs):
    """Colour and style, by the cell's name."""
    cells = compare(made_up.sweep(runs)).cells
    return dict(zip([cell.name for cell in cells], line_looks(cells), strict=True))


@pytest.mark.parametrize(
    ("rates", "z_dims"),
    [((None,), (20, 50, 100, 200)), ((0.01, 0.03, 0.1, 0.3), (100,)), ((0.01, 0.1), (20, 50)),
     ((0.01, 0.03, 0.1), (20, 50, 100, 200)), ((0.1,), range(1, 9))],
)  # fmt: skip
def test_no_two_cells_look_alike(made_up, rates, z_dims):
    runs = [
        made_up.run(optimizer, z, 0, rate=rate)
        for optimizer in ("sgd", "adam")
        for rate in rates
        for z in z_dims
    ]
    looks = looks_of(made_up, runs)
    assert len(set(looks.values())) == len(looks) == len(runs)


def test_a_colour_says_z_dim_or_else_the_place_of_the_rate(made_up):
    looks = looks_of(made_up, [made_up.run(optimizer, z) for optimizer in ("sgd", "adam") for z in (20, 50)])
    assert looks["sgd_z20"][0] == looks["adam_z20"][0] != looks["sgd_z50"][0] == looks["adam_z50"][0]
    assert looks["sgd_z20"][1] == looks["sgd_z50"][1] != looks["adam_z20"][1] == looks["adam_z50"][1]
    runs = [
        made_up.run(name, 50, rate=rate)
        for name, rates in (("sgd", (0.1, 0.3)), ("adam", (0.001, 0.01)))
        for rate in rates
    ]
    looks = looks_of(made_up, runs)
    low, high, adam_low, adam_high = (looks[run.cell] for run in runs)
    assert low[0] == adam_low[0] != high[0] == adam_high[0]
    assert low[1] == high[1] != adam_low[1] == adam_high[1]
