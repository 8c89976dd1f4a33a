"""A recorded sweep replayed as a race: what it would have asked for, and whether its answer is the record's."""

import math

import numpy as np
import pytest
from mlflow import MlflowClient

from gan_core import metric_names as names
from gan_core.cli import exit_code
from sweeps.race import Rules, decide
from sweeps.rehearse import main, rehearse

RULES = Rules(4, max_seeds=5)
FD = {("sgd", 20): 5.0, ("sgd", 50): 5.02, ("adam", 20): 25.0, ("adam", 50): 27.0}


def spread(values, seed):
    """The distance of a setting and a seed: seeds differ by about 2 %."""
    chance = np.random.default_rng([seed, *map(ord, str(sorted(values.items())))])
    return FD[values["optimizer"], values["z_dim"]] * math.exp(0.02 * chance.standard_normal())


@pytest.fixture
def say(uri, capsys):
    def words(*arguments):
        code = exit_code("rehearse.py", lambda: main([*map(str, arguments), "--tracking-uri", uri]))
        said = capsys.readouterr()
        return code, said.out, said.err

    return words


def test_a_fixed_grid_is_rehearsed_in_words(say, write):
    write("study", axes={"optimizer": ["sgd", "adam"], "z_dim": [20, 50]}, seeds=(3, 4, 5, 6, 7), fd=spread, epochs=10)
    code, said, err = say("--sweep", "study")
    assert (code, err) == (0, "")
    assert "study: 4 settings, at most 5 seeds of each, 10 epochs; at 95 % confidence" in said
    assert "after 4 whole runs" in said
    assert "  drops adam_z20 after epoch" in said
    assert "answer   equal: sgd_z20 sgd_z50\n" in said
    assert "recorded are 20\n" in said
    assert float(said.split("cost     ")[1].split(" ")[0]) < 15
    assert "the best by all its seeds is sgd_z" in said
    assert said.rstrip().endswith(": the same")
    _, narrow, _ = say("--sweep", "study", "--margin", 0.001)
    assert "answer   open: sgd_z20 sgd_z50\n" in narrow
    _, short, _ = say("--sweep", "study", "--max-seeds", 2, "--until", 0.9)
    assert "at most 2 seeds of each, 10 epochs; at 90 % confidence" in short


def test_drawn_settings_are_rehearsed_from_their_first_seed_on(say, write, uri):
    parent = write(
        "drawn", axes={"optimizer": ["sgd", "adam"], "z_dim": [20, 50]}, seeds=range(5), fd=spread, epochs=10
    )
    rules = {names.SWEEP_SEARCH: "sobol", names.ANSWER_MAX_SEEDS: 10, names.ANSWER_CONFIDENCE: 0.95}
    for key, value in {**rules, names.ANSWER_MARGIN: 0.1}.items():
        MlflowClient(uri).set_tag(parent, key, value)
    code, said, err = say()
    assert (code, err) == (0, "")
    assert "at most 5 seeds of each, 10 epochs; at 95 % confidence" in said
    assert "after 0.4 whole runs\n  drops adam_z20 after epoch 1 of seed 0" in said


@pytest.mark.parametrize(
    ("axes", "seeds", "said"),
    [
        ({"optimizer": ["sgd", "adam"], "z_dim": [20]}, (0,), "2 settings and 1 seed"),
        ({"optimizer": ["sgd"], "z_dim": [20]}, (0, 1), "1 setting and 2 seeds"),
        ({"optimizer": ["sgd"], "epochs": [4, 6], "z_dim": [20]}, (0, 1), "should have one length to be raced, got [4, 6]"),
    ],
)  # fmt: skip
def test_what_cannot_be_rehearsed_is_one_line(say, write, axes, seeds, said):
    write("small", axes=axes, seeds=seeds)
    code, _, err = say()
    assert (code, len(err.splitlines())) == (2, 1)
    assert said in err


def test_it_decides_as_the_race_does_and_stops_where_the_record_does():
    chance = np.random.default_rng(0)
    scores = {
        (name, seed): {1: mean + 1, 4: mean + 0.02 * chance.standard_normal()}
        for name, mean in (("a", 1.0), ("b", 1.3), ("c", 3.0))
        for seed in range(5)
    }
    races = rehearse("abc", scores, RULES)
    assert races[-1] == decide("abc", scores, RULES)
    assert (races[-1].answer, races[-1].chosen, races[-1].asked) == ("best", "a", [])
    assert [race.spent for race in races] == sorted(race.spent for race in races)
    assert [len(race.dropped) for race in races][-1] == 2
    few = {run: its for run, its in scores.items() if run[1] < 2}
    (*_, last) = rehearse("abc", few, RULES)
    assert {ask.seed for ask in last.asked} == {1, 2}
