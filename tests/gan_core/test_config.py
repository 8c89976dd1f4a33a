import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gan_core.architectures import NETWORKS
from gan_core.config import RunConfig, make_config
from gan_core.data import DATASETS
from gan_core.errors import UserError
from gan_core.losses import OBJECTIVES
from gan_core.optimizers import OPTIMIZERS, SETTABLE, OptimizerEntry

HASH_BEFORE = "7ad5b832735b408d"  # of RunConfig() when it had no momentum

GOOD = {
    "dataset": st.sampled_from(sorted(DATASETS)),
    "optimizer": st.sampled_from(sorted(OPTIMIZERS)),
    "learning_rate": st.floats(1e-12, 1e6),
    "discriminator_learning_rate": st.floats(1e-12, 1e6),
    "weight_decay": st.floats(0, 1e6),
    "objective": st.sampled_from(sorted(OBJECTIVES)),
    "gradient_penalty": st.floats(1e-12, 1e6),
    "discriminator_steps": st.integers(1, 1_000_000),
    "network": st.sampled_from(sorted(NETWORKS)),
    "spectral_norm": st.booleans(),
    "ema": st.floats(0, 1, exclude_max=True),
    "z_dim": st.integers(1, 1_000_000),
    "hidden_dim": st.integers(1, 1_000_000),
    "batch_size": st.integers(1, 1797),
    "epochs": st.integers(1, 1_000_000),
    "device": st.sampled_from(["cpu", "cuda"]),
    "seed": st.integers(0, 2**63 - 1),
}
WRONG = st.one_of(st.booleans(), st.lists(st.integers()), st.binary())
MISTYPED = st.none() | WRONG
OUT_OF_SHARE = st.floats(max_value=0, exclude_max=True) | st.floats(min_value=1) | st.text()
NOT_FINITE = st.sampled_from([float("nan"), float("inf")])
BAD = {
    "dataset": MISTYPED | st.integers() | st.text().filter(lambda name: name not in DATASETS),
    "optimizer": MISTYPED | st.integers() | st.text().filter(lambda name: name not in OPTIMIZERS),
    "learning_rate": MISTYPED | st.floats(max_value=0) | st.sampled_from([float("nan"), float("inf")]) | st.text(),
    "discriminator_learning_rate": WRONG | st.floats(max_value=0) | NOT_FINITE,
    **dict.fromkeys(("momentum", "beta1", "beta2"), WRONG | OUT_OF_SHARE),
    **dict.fromkeys(("label_smoothing", "ema"), MISTYPED | OUT_OF_SHARE),
    "weight_decay": WRONG | st.floats(max_value=0, exclude_max=True) | NOT_FINITE,
    "gradient_penalty": MISTYPED | st.floats(max_value=0, exclude_max=True) | NOT_FINITE,
    **{name: MISTYPED | st.integers() | st.text() for name in ("objective", "network")},
    "spectral_norm": st.one_of(st.none(), st.integers(), st.text(), st.floats()),
    "device": MISTYPED | st.integers() | st.text(),
    **{
        name: MISTYPED | st.integers(max_value=least - 1) | st.floats() | st.text()
        for name, least in (
            *((name, 1) for name in ("z_dim", "hidden_dim", "batch_size", "epochs", "discriminator_steps")),
            ("seed", 0),
        )
    },
}


@given(st.fixed_dictionaries({}, optional=GOOD))
def test_every_value_in_range_is_taken_as_it_is(settings):
    config = RunConfig(**settings)
    assert {name: getattr(config, name) for name in settings} == settings
    assert make_config(**dataclasses.asdict(config)) == config


@given(st.sampled_from(sorted(BAD)).flatmap(lambda name: st.tuples(st.just(name), BAD[name])))
def test_every_other_value_is_refused_in_one_line_that_names_it(case):
    name, value = case
    with pytest.raises(UserError) as refusal:
        make_config(**{name: value})
    assert name in str(refusal.value)
    assert repr(value) in str(refusal.value)


def test_an_unknown_setting_is_refused():
    with pytest.raises(UserError, match="no setting zdim; there are dataset"):
        make_config(zdim=20)


def test_a_batch_larger_than_the_image_set_is_refused():
    with pytest.raises(UserError, match=r"batch_size .*1797.*1798"):
        make_config(dataset="digits", batch_size=1798)


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().z_dim = 20


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_learning_rate_is_the_optimizers_own_unless_given(name):
    assert RunConfig(optimizer=name).learning_rate == OPTIMIZERS[name].learning_rate
    assert RunConfig(optimizer=name, learning_rate=0.5).learning_rate == 0.5


def test_the_library_raises_too():
    with pytest.raises(ValidationError):
        RunConfig(z_dim=0)


def test_the_hash_tells_every_setting_but_the_length_of_the_run(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "another", OBJECTIVES["non-saturating"])
    monkeypatch.setitem(NETWORKS, "another", NETWORKS["mlp"])
    others = {
        "objective": "another", "network": "another", "dataset": "digits", "optimizer": "adam", "learning_rate": 0.5,
        "discriminator_learning_rate": 0.5, "momentum": 0.5, "weight_decay": 0.5, "label_smoothing": 0.5,
        "discriminator_steps": 2, "gradient_penalty": 0.5, "spectral_norm": True, "ema": 0.5, "z_dim": 20, "hidden_dim": 64, "batch_size": 32, "device": "cuda", "seed": 1,
    }  # fmt: skip
    hashes = {RunConfig().config_hash, *(RunConfig(**{name: value}).config_hash for name, value in others.items())}
    assert len(hashes) == 1 + len(others)
    assert {*others, "epochs", "image_size", "channels", "beta1", "beta2"} == {
        field.name for field in dataclasses.fields(RunConfig)
    }
    assert RunConfig(epochs=7).config_hash == RunConfig().config_hash


def test_a_field_that_came_later_has_a_default_and_then_the_hash_is_that_of_runs_before_it():
    assert RunConfig().config_hash == HASH_BEFORE
    for name, entry in OPTIMIZERS.items():
        own = RunConfig(optimizer=name)
        assert {field: getattr(own, field) for field in SETTABLE} == {**dict.fromkeys(SETTABLE), **entry.fields}
        for field, value in entry.fields.items():
            assert RunConfig(optimizer=name, **{field: value}).config_hash == own.config_hash
            assert RunConfig(optimizer=name, **{field: 0.25}).config_hash != own.config_hash
    penalized = RunConfig(objective="wasserstein")
    assert penalized.gradient_penalty == 10
    assert RunConfig(objective="wasserstein", gradient_penalty=10.0).config_hash == penalized.config_hash


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"optimizer": "adam", "momentum": 0.5}, "momentum cannot be set for adam, got 0.5"),
        ({"optimizer": "sgd", "beta1": 0.5}, "beta1 cannot be set for sgd, got 0.5"),
        ({"optimizer": "rmsprop", "beta2": 0.5}, "beta2 cannot be set for rmsprop, got 0.5"),
        ({"optimizer": "plain", "weight_decay": 0.5}, "weight_decay cannot be set for plain, got 0.5"),
        *(
            (
                {"objective": objective, "label_smoothing": 0.1},
                f"label_smoothing cannot be set for {objective}, which has no labels, got 0.1",
            )
            for objective in ("hinge", "wasserstein")
        ),
        (
            {"objective": "wasserstein", "gradient_penalty": 0.0},
            "wasserstein should have a gradient_penalty or spectral_norm, without which its critic has no bounds, "
            "got gradient_penalty 0.0",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(settings, line, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "plain", OptimizerEntry("Adagrad", 0.1, 1))
    assert RunConfig(optimizer="plain").weight_decay is None
    with pytest.raises(UserError) as refusal:
        make_config(**settings)
    assert str(refusal.value) == line
    RunConfig(objective="wasserstein", gradient_penalty=0.0, spectral_norm=True)


def test_a_folder_is_known_by_its_absolute_path_and_nothing_of_it_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for text, path in (
        ("nowhere", tmp_path / "nowhere"),
        ("./nowhere/../else/", tmp_path / "else"),
        ("~/my pictures 猫", tmp_path / "home" / "my pictures 猫"),
        ("/a/b", Path("/a/b")),
    ):
        config = make_config(dataset=f"folder:{text}")
        assert (config.dataset, config.image_size, config.channels) == (f"folder:{path}", 28, 3)
        assert RunConfig(**dataclasses.asdict(config)) == config
    assert make_config(dataset="folder:x").config_hash == make_config(dataset=f"folder:{tmp_path}/x").config_hash
    make_config(dataset="folder:x", batch_size=100_000)  # as many as there may be


@pytest.mark.parametrize("path", ["", "a\nb", "a\0b", "a\udcff", "a" * 401, "~nobody-of-this-name/x"])
def test_what_cannot_be_the_path_of_a_folder_is_refused_in_one_line(path):
    with pytest.raises(UserError, match="dataset should be") as refusal:
        make_config(dataset=f"folder:{path}")
    assert "\n" not in str(refusal.value)


def test_only_a_folder_has_images_of_several_sizes_gray_or_in_colour():
    keys = {make_config(dataset="folder:/x", image_size=size, channels=channels).image_key
            for size in (28, 32) for channels in (1, 3)}  # fmt: skip
    assert keys == {("folder:/x", size, channels) for size in (28, 32) for channels in (1, 3)}
    for settings, said in (
        ({"dataset": "folder:/x", "image_size": 64}, "image_size of folder:/x is 28 or 32, got 64"),
        ({"dataset": "folder:/x", "channels": 4}, "channels of folder:/x is 1 or 3, got 4"),
        ({"dataset": "mnist", "image_size": 32}, "image_size of mnist is 28, got 32"),
        ({"dataset": "cifar10", "channels": 1}, "channels of cifar10 is 3, got 1"),
    ):
        with pytest.raises(UserError, match=said):
            make_config(**settings)
