import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gan_core.errors import UserError
from sweeps.grid import grid_runs, make_grid, parse_rates

NAMES = st.lists(st.sampled_from(["sgd", "adam", "adamw", "rmsprop"]), min_size=1)
DIMS = st.lists(st.integers(1, 500), min_size=1, max_size=4)
SEEDS = st.lists(st.integers(0, 9), min_size=1, max_size=3)
RATES = st.lists(st.floats(1e-6, 10), max_size=3)


@given(NAMES, DIMS, SEEDS, RATES)
def test_every_point_of_the_grid_is_one_run(optimizers, z_dims, seeds, rates):
    grid, notes = make_grid(optimizers, z_dims, seeds, rates)
    runs = grid_runs(grid, epochs=3, dataset="digits")
    points = [
        (
            run.config.optimizer,
            run.config.z_dim,
            run.config.seed,
            *([run.config.learning_rate] if rates else []),
        )
        for run in runs
    ]
    axes = [set(optimizers), set(z_dims), set(seeds), *([set(rates)] if rates else [])]
    assert len(points) == len(set(points))
    assert set(points) == set(itertools.product(*axes))
    assert {run.config.epochs for run in runs} == {3}
    given_twice = [
        (name, value)
        for name, axis in enumerate((optimizers, z_dims, seeds, rates))
        for value in set(axis)
        if axis.count(value) > 1
    ]
    assert len(notes) == len(given_twice)


def test_names_are_the_contracts():
    grid, _ = make_grid(["sgd", "adam"], [20, 100], [0, 1])
    assert [run.name for run in grid_runs(grid)] == [
        "sgd_z20_s0", "sgd_z100_s0", "adam_z20_s0", "adam_z100_s0",
        "sgd_z20_s1", "sgd_z100_s1", "adam_z20_s1", "adam_z100_s1",
    ]  # fmt: skip


def test_a_learning_rate_axis_is_in_the_names():
    grid, _ = make_grid(["sgd"], [20], [0], [0.03, 1e-4])
    runs = grid_runs(grid)
    assert [(run.name, run.config.learning_rate) for run in runs] == [
        ("sgd_lr0.03_z20_s0", 0.03),
        ("sgd_lr0.0001_z20_s0", 1e-4),
    ]


@given(st.lists(st.floats(1e-9, 1e3), min_size=2, max_size=5, unique=True))
@example([0.1, 0.1000001])
def test_two_rates_never_share_a_name(rates):
    grid, _ = make_grid(["sgd"], [20], [0], rates)
    assert len({run.name for run in grid_runs(grid)}) == len(rates)


def test_without_one_each_optimizer_has_its_own():
    grid, _ = make_grid(["sgd", "adam"], [20], [0])
    assert [run.config.learning_rate for run in grid_runs(grid)] == [0.03, 2e-4]


def test_a_duplicate_is_said_and_taken_once():
    grid, notes = make_grid(["sgd", "sgd"], [20, 50, 20, 20], [0], [0.1, 1e-1])
    assert notes == [
        "optimizers: sgd is given 2 times and taken once",
        "z_dims: 20 is given 3 times and taken once",
        "learning_rates: 0.1 is given 2 times and taken once",
    ]
    assert len(grid.cells()) == 2


@pytest.mark.parametrize("axis", ["optimizers", "z_dims", "seeds"])
def test_an_empty_axis_is_refused(axis):
    axes = {"optimizers": ["sgd"], "z_dims": [20], "seeds": [0], axis: []}
    with pytest.raises(UserError, match=f"{axis} is empty"):
        make_grid(**axes)


def test_values_are_refused_before_anything_else():
    grid, _ = make_grid(["sgd"], [20, 0], [0])
    with pytest.raises(UserError, match=r"z_dim .* got 0"):
        grid_runs(grid)


def test_rates_can_differ_by_optimizer():
    rates = parse_rates(["sgd=0.03,0.1", "adam=0.001"])
    grid, notes = make_grid(["sgd", "adam", "rmsprop"], [20], [0], rates)
    runs = grid_runs(grid)
    assert [(run.name, run.config.learning_rate) for run in runs] == [
        ("sgd_lr0.03_z20_s0", 0.03),
        ("sgd_lr0.1_z20_s0", 0.1),
        ("adam_lr0.001_z20_s0", 0.001),
        ("rmsprop_z20_s0", 2e-4),  # no entry: its own rate
    ]
    assert grid.rates_in_words() == "sgd=0.03,0.1 adam=0.001"
    assert not notes


@pytest.mark.parametrize("words", [["0.03", "0.1"], ["sgd=0.03,0.1", "adam=0.1"], []])
def test_the_words_for_the_rates_are_those_of_the_command_line(words):
    grid, _ = make_grid(["sgd", "adam"], [20], [0], parse_rates(words))
    assert grid.rates_in_words() == " ".join(words)
    again, _ = make_grid(["sgd", "adam"], [20], [0], parse_rates(grid.rates_in_words().split()))
    assert again == grid


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["many"], "should be numbers, got 'many'"),
        (["sgd=0.1", "0.3"], "'0.3' stands among the latter"),
        (["sgd=0.1", "sgd=0.3"], "has sgd twice"),
        (["sgd=0.1,1e-1"], "has a rate twice in sgd=0.1,1e-1"),
        (["sgd="], "should be numbers, got ''"),
        (["sgd=0.1,"], "should be numbers, got ''"),
        (["sgd=0.1,x"], "should be numbers, got 'x'"),
        (["rmsprop=0.1"], "given for rmsprop, which is not among the optimizers sgd adam"),
        (["sgd=-1"], r"learning_rate should be greater than 0, got -1.0"),
        (["sgd=inf"], r"learning_rate should be a finite number"),
    ],
)
def test_bad_rates_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        grid_runs(make_grid(["sgd", "adam"], [20], [0], parse_rates(words))[0])
