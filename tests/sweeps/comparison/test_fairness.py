"""What the page says on fairness: true whatever the axes are."""

import re

import pytest

from sweeps.comparison.compare import compare
from sweeps.comparison.page import report_files
from sweeps.comparison.verdict import held_equal, random_streams

STREAMS = {
    "init-D": {"seed", "network", "hidden_dim", "image_size", "channels"},
    "init-G": {"seed", "network", "hidden_dim", "z_dim", "image_size", "channels"},
    "order": {"seed", "dataset"}, "noise": {"seed", "z_dim", "batch_size"}, "samples": {"z_dim"}, "mine": {"seed"},
}  # fmt: skip


@pytest.fixture
def fair(made_up):
    def of(runs, axes=("optimizer", "z_dim"), streams=STREAMS):
        return held_equal(compare(made_up.sweep(runs, axes=axes)), streams)

    return of


def shared(fairness):
    return {stream: needs for needs, streams in fairness.shared.items() for stream in streams}


def test_what_runs_share_depends_on_what_differs(fair, made_up):
    by_default = shared(fair(made_up.settings({("sgd", 20): 5.0, ("sgd", 50): 5.0, ("adam", 20): 9.0})))
    assert by_default["init-D"] == by_default["order"] == (True, ())
    assert by_default["init-G"] == by_default["noise"] == (True, ("z_dim",))
    assert by_default["samples"] == (False, ("z_dim",))
    runs = [made_up.run(0, batch_size=b, hidden_dim=h, axes=()) for b in (32, 64) for h in (8, 16)]
    sizes = shared(fair(runs, ("batch_size", "hidden_dim")))
    assert sizes["init-D"] == sizes["init-G"] == (True, ("hidden_dim",))
    assert sizes["noise"] == (True, ("batch_size",))
    assert sizes["order"] == (True, ())
    assert sizes["samples"] == (False, ())


def test_the_streams_are_those_of_the_trainer(made_up):
    streams = random_streams(made_up.sweep([made_up.run()]))
    assert {"seed", "hidden_dim"} <= streams["init-D"]
    assert "z_dim" not in streams["init-D"]
    assert {"seed", "z_dim", "hidden_dim"} <= streams["init-G"]
    assert streams["order"] == {"seed", "dataset"}
    assert {"seed", "z_dim", "batch_size"} <= streams["noise"]
    unknown = made_up.run(0)
    unknown.fields["network"] = "of another version"
    assert random_streams(made_up.sweep([unknown])) == {}


def test_what_is_fixed_and_what_follows_from_an_axis(fair, made_up):
    found = fair(made_up.settings({("sgd", 20): 5.0, ("adam", 20): 9.0, ("adam", 50): 9.0}))
    assert (found.fixed["batch_size"], found.fixed["epochs"]) == ("64", "20")
    assert not found.fixed.keys() & {"optimizer", "z_dim", "learning_rate", "seed"}
    assert found.derived == {
        ("learning_rate", "optimizer"): {"sgd": ["0.03"], "adam": ["0.0002"]},
    }
    assert found.uneven == {("z_dim", "optimizer"): {"sgd": ["20"], "adam": ["20", "50"]}}
    assert found.choices == {"optimizer": {"sgd": 1, "adam": 2}, "z_dim": {"20": 2, "50": 1}}
    assert found.unexplained == {}


def test_an_axis_of_its_own_for_each_value_of_another(fair, made_up):
    rates = {"sgd": (0.03, 0.1, 0.2), "adam": (2e-4, 1e-3)}
    runs = [made_up.run(0, optimizer=optimizer, learning_rate=rate) for optimizer, its in rates.items() for rate in its]
    found = fair(runs, ("optimizer", "learning_rate"))
    assert found.derived == {}
    assert found.uneven == {
        ("learning_rate", "optimizer"): {"sgd": ["0.03", "0.1", "0.2"], "adam": ["0.0002", "0.001"]}
    }


def test_a_full_grid_is_even(fair, made_up):
    found = fair(
        [made_up.run(0, batch_size=b, hidden_dim=h) for b in (32, 64) for h in (8, 16)], ("batch_size", "hidden_dim")
    )
    assert (found.derived, found.uneven, found.choices, found.unexplained) == ({}, {}, {}, {})


def test_lengths_that_no_axis_explains(fair, made_up):
    runs = [made_up.run(seed, z_dim=z, epochs=10 + 10 * seed) for z in (20, 50) for seed in (0, 1)]
    assert fair(runs).unexplained == {"epochs": ["10", "20"]}


def test_the_sentences(made_up, store_client):
    runs = [
        made_up.run(seed, 5.0 + seed + z / 100, optimizer=optimizer, z_dim=z, epochs=10 + 10 * seed)
        for optimizer, z in (("sgd", 20), ("adam", 20), ("adam", 50)) for seed in (0, 1)
    ]  # fmt: skip
    text = report_files(store_client, compare(made_up.sweep(runs)))["report.md"].decode()
    fair = re.sub(r"\\", "", text[text.index("## How fair") : text.index("## The sweep")])
    for sentence in (
        "- Runs of one seed share the first weights of D and the order of the real images, whatever the setting.",
        "- Runs of one seed that also have the same z_dim share the first weights of G and the noise that G and D are trained on.",
        "- So settings are compared seed by seed",
        "- All runs have batch_size 64, channels 1, dataset mnist, device cpu, discriminator_steps 1, hidden_dim 128",
        "- learning_rate is not an axis, and it differs by optimizer: sgd has 0.03; adam has 0.0002. A difference between the "
        "values of optimizer may be one of learning_rate. To tell the two apart, make learning_rate an axis.",
        "- Not every value of optimizer has the same values of z_dim: sgd has 20; adam has 20 and 50.",
        "- epochs differs between runs and is not an axis: 10 and 20.",
        "- The values of optimizer have different numbers of settings: sgd has 1, adam has 2.",
    ):
        assert sentence in fair
