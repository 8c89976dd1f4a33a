import dataclasses
import itertools
import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gan_core.config import FIELDS, extra
from gan_core.errors import UserError
from sweeps.grid import (
    AxesWhen,
    Grid,
    checked,
    parse_axis,
    parse_sweep,
    read_sweep_file,
    sweep_text,
    text_of,
)

VALUES = {
    "dataset": st.sampled_from(["mnist", "fashion-mnist", "digits"]),
    "optimizer": st.sampled_from(["sgd", "adam", "adamw", "rmsprop"]),
    "learning_rate": st.floats(1e-6, 10),
    **{name: st.integers(1, 500) for name in ("z_dim", "hidden_dim", "batch_size", "epochs")},
}
AXES = st.dictionaries(st.sampled_from(sorted(VALUES)), st.none(), max_size=4).flatmap(
    lambda names: st.fixed_dictionaries(
        {name: st.lists(VALUES[name], min_size=1, max_size=3, unique=True).map(tuple) for name in names}
    )
)
SEEDS = st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True).map(tuple)
RATES = [
    AxesWhen({"optimizer": "sgd"}, {"learning_rate": (0.03, 0.1)}),
    AxesWhen({"optimizer": "adam"}, {"learning_rate": (0.001,)}),
]


def names(grid):
    return [run.name for run in grid.runs()]


@given(AXES, SEEDS)
def test_every_combination_is_one_run(axes, seeds):
    grid, notes = checked(Grid(axes, seeds=seeds))
    runs = grid.runs()
    points = [(*(getattr(run.config, name) for name in axes), run.config.seed) for run in runs]
    assert len(points) == len(set(points))
    assert set(points) == set(itertools.product(*axes.values(), seeds))
    assert len({run.name for run in runs}) == len(runs)
    assert all(run.setting.values == {name: getattr(run.config, name) for name in axes} for run in runs)
    assert not notes


def test_names_are_the_contracts():
    grid = Grid({"optimizer": ("sgd", "adam"), "z_dim": (20, 100)}, seeds=(0, 1))
    assert names(grid) == [
        "sgd_z20_s0", "sgd_z100_s0", "adam_z20_s0", "adam_z100_s0",
        "sgd_z20_s1", "sgd_z100_s1", "adam_z20_s1", "adam_z100_s1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "name"),
    [
        ({"batch_size": (32,), "hidden_dim": (64,)}, "b32_h64_s0"),
        ({"hidden_dim": (64,), "batch_size": (32,)}, "h64_b32_s0"),
        ({"learning_rate": (1e-4,), "dataset": ("digits",)}, "lr0.0001_digits_s0"),
        ({"epochs": (3,)}, "e3_s0"),
        ({}, "default_s0"),
    ],
)
def test_the_fields_of_a_name_are_in_the_order_of_the_axes(axes, name):
    assert names(Grid(axes)) == [name]


def test_a_field_that_is_no_axis_has_its_fixed_value_or_its_default():
    (run,) = Grid({"optimizer": ("adam",)}, fixed={"z_dim": 7}).runs()
    assert (run.config.z_dim, run.config.learning_rate, run.config.batch_size) == (7, 2e-4, 64)


@given(st.lists(st.floats(1e-9, 1e3), min_size=2, max_size=5, unique=True))
@example([0.1, 0.1000001])
def test_two_values_never_share_a_name(rates):
    assert len(set(names(Grid({"learning_rate": tuple(rates)})))) == len(rates)


def test_an_axis_can_hold_for_some_settings_only():
    grid, _ = checked(Grid({"optimizer": ("sgd", "adam", "rmsprop"), "z_dim": (5,)}, RATES))
    assert grid.fields() == ["optimizer", "learning_rate", "z_dim"]
    assert [(run.name, run.config.learning_rate) for run in grid.runs()] == [
        ("sgd_lr0.03_z5_s0", 0.03),
        ("sgd_lr0.1_z5_s0", 0.1),
        ("adam_lr0.001_z5_s0", 0.001),
        ("rmsprop_z5_s0", 2e-4),  # no condition holds: its own default
    ]


def test_an_axis_can_depend_on_two_fields():
    when = {"optimizer": "sgd", "z_dim": 7}
    grid, _ = checked(Grid({"optimizer": ("sgd", "adam"), "z_dim": (5, 7)}, [AxesWhen(when, {"hidden_dim": (8, 16)})]))
    assert names(grid) == ["sgd_z5_s0", "sgd_z7_h8_s0", "sgd_z7_h16_s0", "adam_z5_s0", "adam_z7_s0"]


def test_an_axis_can_depend_on_one_field_here_and_on_another_there():
    here = AxesWhen({"optimizer": "sgd"}, {"hidden_dim": (8,)})
    there = AxesWhen({"optimizer": "adam", "z_dim": 7}, {"hidden_dim": (16,)})
    grid, _ = checked(Grid({"optimizer": ("sgd", "adam"), "z_dim": (5, 7)}, [here, there]))
    assert names(grid) == ["sgd_z5_h8_s0", "sgd_z7_h8_s0", "adam_z5_s0", "adam_z7_h16_s0"]


def test_a_duplicate_is_noted_and_taken_once():
    grid, notes = checked(Grid({"optimizer": ("sgd", "sgd"), "learning_rate": (0.1, 1e-1)}, seeds=(1, 1, 1)))
    assert notes == [
        "optimizer: sgd is given 2 times and taken once",
        "learning_rate: 0.1 is given 2 times and taken once",
        "seeds: 1 is given 3 times and taken once",
    ]
    assert names(grid) == ["sgd_lr0.1_s1"]
    when = AxesWhen({"optimizer": "sgd"}, {"z_dim": (3, 3)})
    grid, notes = checked(Grid({"optimizer": ("sgd",)}, [when]))
    assert notes == ["z_dim: 3 is given 2 times and taken once"]
    assert grid.axes_when == [AxesWhen({"optimizer": "sgd"}, {"z_dim": (3,)})]


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        (Grid({"z_dim": ()}), "z_dim is empty"),
        (Grid({"zdim": (1,)}), "there is no setting zdim; there are dataset, image_size"),
        (Grid(fixed={"zdim": 1}), "there is no setting zdim"),
        (Grid({"seed": (1,)}), "seed cannot be an axis"),
        (Grid({"device": ("cpu",)}), "device cannot be an axis"),
        (Grid(fixed={"seed": 1}), "seed repeats a setting"),
        (Grid({"z_dim": (1,)}, fixed={"z_dim": 2}), "z_dim is given twice: as an axis and with the value 2"),
        (Grid({"z_dim": (1,)}, RATES), "learning_rate depends on optimizer, which is not among the axes"),
        (Grid({"optimizer": ("sgd",)}, RATES), "given for optimizer adam, which is not among sgd"),
        (
            Grid({"optimizer": ("sgd", "adam"), "learning_rate": (1,)}, RATES),
            "learning_rate is given twice: for all settings and for some",
        ),
        (
            Grid({"optimizer": ("sgd", "adam")}, [*RATES, RATES[0]]),
            "learning_rate is given twice for the same settings",
        ),
        (
            Grid(
                {"optimizer": ("sgd", "adam"), "z_dim": (5,)},
                [*RATES, AxesWhen({"z_dim": 5}, {"learning_rate": (1,)})],
            ),
            "learning_rate is given twice for the same settings",
        ),
        (Grid({"optimizer": ("sgd",)}, [AxesWhen({"optimizer": "sgd"}, {"x": (1,)})]), "there is no setting x"),
        (Grid({"optimizer": ("sgd",)}, [AxesWhen({"optimizer": "sgd"}, {"device": ("cpu",)})]), "device cannot be"),
        (
            Grid({"optimizer": ("sgd",)}, [AxesWhen({"z_dim": 1}, {"epochs": (1,), "hidden_dim": (1,)})]),
            "^epochs, hidden_dim depends on z_dim, which is not among the axes$",
        ),
        (
            Grid({"optimizer": ("sgd",)}, [AxesWhen({"optimizer": "adam"}, {"epochs": (1,), "hidden_dim": (1,)})]),
            "^epochs, hidden_dim is given for optimizer adam, which is not among sgd$",
        ),
        (Grid({"optimizer": ("sgd",)}, [AxesWhen({}, {"z_dim": (1,)})]), "^axes_when should have both"),
        (Grid({"optimizer": ("sgd",)}, [AxesWhen({"optimizer": "sgd"}, {})]), "axes_when should have both"),
    ],
)
def test_what_cannot_be_is_refused(grid, reason):
    with pytest.raises(UserError, match=reason):
        checked(grid)


def test_values_are_refused_by_the_config():
    with pytest.raises(UserError, match=r"z_dim .* got 0"):
        Grid({"z_dim": (20, 0)}).runs()


def test_two_settings_of_one_name_are_refused(monkeypatch):
    monkeypatch.setitem(FIELDS["z_dim"].json_schema_extra, "short", "")
    monkeypatch.setitem(FIELDS["hidden_dim"].json_schema_extra, "short", "")
    grid = Grid({"optimizer": ("sgd",), "z_dim": (1, 2), "hidden_dim": (1, 2)})
    assert len(set(names(grid))) == 4
    monkeypatch.setattr("sweeps.grid._label", lambda name, value: "x")
    with pytest.raises(UserError, match="two settings would be called x_x_x"):
        grid.runs()


@pytest.mark.parametrize("name", [name for name in FIELDS if extra(name)["axis"]])
def test_every_field_has_a_part_in_a_name_of_its_own(name):
    others = {extra(other)["short"] for other in FIELDS if other != name and extra(other)["short"]}
    assert extra(name)["short"] not in others


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("batch_size=32,64", ("batch_size", (32, 64))),
        ("learning_rate=1e-3,0.1", ("learning_rate", (0.001, 0.1))),
        ("optimizer=adam", ("optimizer", ("adam",))),
    ],
)
def test_an_axis_is_read_by_its_fields_type(text, axis):
    assert parse_axis(text) == axis


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("batch_size", "should be FIELD=VALUE,VALUE, got 'batch_size'"),
        ("batch_size=", "batch_size should be a valid integer.*got ''"),
        ("batch_size=1.5", "batch_size should be a valid integer"),
        ("learning_rate=x", "learning_rate should be a valid number.*got 'x'"),
        ("batchsize=3", "there is no setting batchsize"),
        ("=3", "there is no setting ;"),
        ("batch_size=1=2", "got '1=2'"),
    ],
)
def test_what_is_no_axis_is_refused(text, reason):
    with pytest.raises(UserError, match=reason):
        parse_axis(text)


SWEEP = """
seeds = [0, 1]

[fixed]
dataset = "digits"
epochs = 20

[axes]
optimizer = ["sgd", "adam"]
z_dim = [20, 100]

[[axes_when]]
when = { optimizer = "sgd" }
learning_rate = [0.03, 0.1]
"""


def test_a_sweep_can_be_written_down(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(SWEEP)
    grid, _ = checked(read_sweep_file(file))
    assert names(grid)[:6] == [
        "sgd_lr0.03_z20_s0", "sgd_lr0.03_z100_s0", "sgd_lr0.1_z20_s0", "sgd_lr0.1_z100_s0",
        "adam_z20_s0", "adam_z100_s0",
    ]  # fmt: skip
    assert len(names(grid)) == 12
    assert {(run.config.dataset, run.config.epochs) for run in grid.runs()} == {("digits", 20)}


def test_what_a_file_leaves_out_has_its_default():
    assert parse_sweep("") == Grid({}, [], {}, ())
    with pytest.raises(UserError, match="axes_when should have both"):
        checked(parse_sweep("[[axes_when]]\nz_dim = [3]"))


@given(AXES, SEEDS, st.booleans())
def test_what_is_written_is_read_back(axes, seeds, conditional):
    conditions = RATES if conditional and set(axes.get("optimizer", ())) >= {"sgd", "adam"} else []
    grid = Grid(axes, conditions, {} if "z_dim" in axes else {"z_dim": 3}, seeds)
    assert parse_sweep(sweep_text(grid)) == grid
    assert tomllib.loads(sweep_text(grid))["seeds"] == list(seeds)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"axes = ", "cannot read the sweep file .*: "),
        (b"\xff", "cannot read the sweep file"),
        (
            b"[axis]\nz_dim = [1]",
            "there is no axis in a sweep file; there are seeds, race, settings, search, fixed, axes, axes_when",
        ),
        (b"axes = 3", "axes should be a table, got 3"),
        (b"fixed = 3", "fixed should be a table, got 3"),
        (b"[axes]\nz_dim = 3", "z_dim should be a list of values, got 3"),
        (b"seeds = []", "seeds is empty: give at least one value"),
        (b"[race]\nuntil = 1", "until should be less than 1, got 1"),
        (b"[race]\nuntil = 0.9\nseed = 1", "seed"),
        (b"seeds = [0]\n[race]\nuntil = 0.9", "seeds are for a fixed grid, until, margin and max_seeds for a race"),
        (b"race = 3", "race should be a table, got 3"),
        (b"seeds = 3", "seeds should be a list of values, got 3"),
        (b"[axes]\nz_dim = [[3]]", "z_dim should be a list of values"),
        (b"axes_when = 3", "axes_when should be written as"),
        (b"[axes_when]\nz_dim = [3]", "axes_when should be written as"),
        (b"axes_when = [3]", "axes_when should be written as"),
        (b"[[axes_when]]\nwhen = 3", "when should be a table"),
    ],
)
def test_a_file_with_anything_else_in_it_is_refused(tmp_path, content, reason):
    file = tmp_path / "sweep.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_sweep_file(file)
    with pytest.raises(UserError, match="cannot read the sweep file"):
        read_sweep_file(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.03, "0.03"),
        (1e-4, "0.0001"),
        (0.1000001, "0.1000001"),
        (1.0, "1"),
        (20, "20"),
        (True, "true"),
        ("a", "a"),
    ],
)
def test_a_value_is_written_in_few_characters(value, text):
    assert text_of(value) == text


def test_a_folder_is_absolute_in_the_sweeps_file_and_short_in_the_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = {"dataset": ("folder:my shapes", "folder:x/../my shapes/", "folder:/a/b c", "digits")}
    when = [AxesWhen({"dataset": "folder:my shapes"}, {"image_size": (28, 32)})]
    grid, notes = checked(Grid(both, when, seeds=(0,)))
    assert notes == [f"dataset: folder:{tmp_path}/my shapes is given 2 times and taken once"]
    assert [run.name for run in grid.runs()] == ["my-shapes_px28_s0", "my-shapes_px32_s0", "b-c_s0", "digits_s0"]
    assert parse_sweep(sweep_text(grid)) == dataclasses.replace(grid, axes_when=list(grid.axes_when))
    assert f"folder:{tmp_path}/my shapes" in sweep_text(grid)
    fixed, _ = checked(Grid({"z_dim": (5, 7)}, fixed={"dataset": "folder:~x", "channels": 1}, seeds=(0,)))
    with pytest.raises(UserError, match="dataset should be the path of a folder: there is no home folder for ~x"):
        fixed.runs()


def test_folders_of_one_name_cannot_be_told_apart_and_one_without_a_name_has_one():
    grid, _ = checked(Grid({"dataset": ("folder:/a/x", "folder:/b/x")}, seeds=(0,)))
    with pytest.raises(UserError, match="two settings would be called x"):
        grid.runs()
    grid, _ = checked(Grid({"dataset": ("folder:/", "folder:/" + 100 * "y")}, seeds=(0,)))
    assert [run.name for run in grid.runs()] == ["folder_s0", 40 * "y" + "_s0"]
