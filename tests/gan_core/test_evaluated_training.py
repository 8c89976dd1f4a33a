"""Runs that are evaluated: the training is the same, what is logged, how collapsed runs end."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.config import RunConfig, RunOptions
from gan_core.errors import NonFiniteLossError
from gan_core.evaluation.baselines import evaluate
from gan_core.evaluation.scores import QUICK_SCORES, SCORES
from gan_core.events import Baselines, Diagnosis, EpochEnd, Evaluated, Machine, Reached, Samples, Trained
from gan_core.networks import load_generator
from gan_core.optimizers import OPTIMIZERS
from gan_core.run import Job, evaluated_training
from gan_core.training import fixed_noise, generate, train

CONFIG = RunConfig(dataset="digits", optimizer="adam", z_dim=5, hidden_dim=8, epochs=5, batch_size=64)
DEAD = RunConfig(dataset="digits", learning_rate=1.0, z_dim=5, hidden_dim=8, epochs=50)
DIVERGED = RunConfig(dataset="digits", learning_rate=1e30, z_dim=5, hidden_dim=8, epochs=3)


@pytest.fixture
def events(digits, digits_reference):
    def collect(config, **settings):
        found = []
        try:
            schedule = RunOptions(**settings)
            for event in evaluated_training(Job("a", config, digits, digits_reference, schedule)):
                found.append(event)
                if isinstance(event, Evaluated):
                    # The live G, of which the scores must be.
                    G = of_kind(found, Reached)[-1].generator
                    again = evaluate(G, digits_reference, quick=len(event.scores) < len(SCORES))
                    assert again.scores == event.scores
        except NonFiniteLossError as error:
            found.append(error)
        return found

    return collect


@pytest.fixture
def tracked(new_run, track, digits, digits_reference):
    def log(config, **settings):
        run_id = new_run(config)
        return run_id, track(Job("a", config, digits, digits_reference, RunOptions(**settings)), run_id)

    return log


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


def weights(G):
    return torch.cat([parameter.detach().flatten() for parameter in G.parameters()])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_weight_depends_on_how_a_run_is_looked_at(digits, events, optimizer):
    config = RunConfig(dataset="digits", optimizer=optimizer, z_dim=5, hidden_dim=8, epochs=3, batch_size=64)
    plain = list(train(config, digits.images))[-1].generator
    for settings in ({"evaluate_every": 1}, {"evaluate_every": 0}, {"evaluate_every": 2, "stop_dead": True}):
        looked_at = events(config, **settings)[-1].generator
        assert torch.equal(weights(looked_at), weights(plain))


def test_events_come_in_order(events, digits_reference):
    found = [event for event in events(CONFIG, evaluate_every=2) if not isinstance(event, Reached)]
    assert [(type(event), getattr(event, "epoch", None)) for event in found] == [
        (Baselines, None), (Samples, 0),
        (EpochEnd, 1), (Machine, 1), (Samples, 1),
        (EpochEnd, 2), (Evaluated, 2), (Samples, 2),
        (EpochEnd, 3), (Samples, 3),
        (EpochEnd, 4), (Evaluated, 4), (Samples, 4),
        (EpochEnd, 5), (Evaluated, 5), (Diagnosis, of_kind(found, Diagnosis)[0].epoch), (Samples, 5),
        (Trained, None),
    ]  # fmt: skip
    assert [tuple(event.scores) for event in of_kind(found, Evaluated)] == [
        QUICK_SCORES, QUICK_SCORES, SCORES,
    ]  # fmt: skip
    assert found[0].classifier == digits_reference.classifier.record["weights_sha256"]
    assert (found[0].n, found[0].real_baseline) == (599, digits_reference.baselines.real_baseline)


@pytest.mark.parametrize(("every", "due"), [(0, [5]), (1, [1, 2, 3, 4, 5]), (10, [5]), (5, [5])])
def test_evaluations_are_made_where_due_and_at_the_end(events, every, due):
    assert [event.epoch for event in of_kind(events(CONFIG, evaluate_every=every), Evaluated)] == due


def test_scores_follow_the_training_not_its_end(events):
    first, *_, last = of_kind(events(CONFIG, evaluate_every=1), Evaluated)
    assert first.scores["quality/fd"] != last.scores["quality/fd"]


def test_an_epochs_time_does_not_count_its_evaluation(digits, digits_reference):
    config = dataclasses.replace(CONFIG, epochs=20)
    small = dataclasses.replace(digits, images=digits.images[:64])
    found = list(evaluated_training(Job("a", config, small, digits_reference, RunOptions(evaluate_every=1))))
    # An epoch of one batch takes about a millisecond, an evaluation of 599 images some tens.
    training = sum(end.seconds for end in of_kind(found, EpochEnd))
    assert training < sum(event.seconds for event in of_kind(found, Evaluated)) / 2


def test_metrics_and_tags_are_in_the_store(tracked, client, rows, digits_reference, tmp_path):
    run_id, outcome = tracked(CONFIG, evaluate_every=2)
    points = rows("SELECT key, step FROM metrics WHERE key LIKE 'quality/%' OR key = 'time/evaluation_seconds'")
    assert sorted(points) == sorted(
        [(name, step) for name in (*QUICK_SCORES, "time/evaluation_seconds") for step in (2, 4)]
        + [(name, 5) for name in (*SCORES, "time/evaluation_seconds")]
    )
    tags = client.get_run(run_id).data.tags
    record = digits_reference.classifier.record
    assert tags["quality.classifier"] == record["weights_sha256"]
    assert float(tags["quality.classifier_accuracy"]) == record["test_accuracy"]
    assert tags["quality.n"] == "599"
    assert json.loads(tags["quality.real_baseline"]) == digits_reference.baselines.real_baseline
    assert json.loads(tags["quality.untrained_baseline"]) == digits_reference.baselines.untrained_baseline
    assert tags["health"] == outcome.health == "not-learning"
    assert "Fréchet distance" in tags["health_reason"]

    folder = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    quality = json.loads((folder / "quality.json").read_text())
    assert {name: quality[name] for name in ("dataset", "classifier", "classifier_accuracy", "n")} == {
        "dataset": "digits",
        "classifier": record["weights_sha256"],
        "classifier_accuracy": record["test_accuracy"],
        "n": 599,
    }
    assert (quality["real_baseline"], quality["untrained_baseline"]) == (
        digits_reference.baselines.real_baseline,
        digits_reference.baselines.untrained_baseline,
    )
    assert [one["epoch"] for one in quality["evaluations"]] == [2, 4, 5]
    assert quality["health"] == "not-learning"
    # What was logged at the end is what the logged generator is worth.
    worth = evaluate(load_generator(folder / "generator.safetensors"), digits_reference)
    assert quality["evaluations"][-1]["scores"] == worth.scores
    assert quality["evaluations"][-1]["class_shares"] == worth.class_shares.tolist()
    assert dict(rows("SELECT key, value FROM metrics WHERE step = 5 AND key LIKE 'quality/%'")) == worth.scores


def test_a_dead_run_ends_early_and_whole(tracked, client, rows, tmp_path):
    run_id, outcome = tracked(DEAD, stop_dead=True)
    assert (outcome.status, outcome.health) == ("FINISHED", "collapsed")
    logged = client.get_run(run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.tags["health"] == "collapsed"
    assert "pinned" in logged.data.tags["health_reason"]
    assert "failure_reason" not in logged.data.tags
    (last,) = rows("SELECT max(step) FROM metrics")[0]
    assert last < 5
    assert {key for (key,) in rows("SELECT key FROM metrics WHERE step = ? AND key LIKE 'quality/%'", last)} == {
        *SCORES
    }
    folder = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "losses.npz", "losses.png", "metrics.csv", "config.json", "quality.json", "generator.safetensors",
        f"samples/epoch_{last:04d}.png",
    } <= names  # fmt: skip
    with np.load(folder / "losses.npz") as losses:
        assert len(losses["generator"]) == last


def test_a_dead_run_goes_on_unless_told_otherwise(events):
    found = events(dataclasses.replace(DEAD, epochs=4))
    assert len(of_kind(found, EpochEnd)) == 4
    assert of_kind(found, Diagnosis)[0].health == "collapsed"


def test_the_last_sheet_of_a_stopped_run_is_of_its_last_generator(events):
    found = events(DEAD, stop_dead=True)
    *_, sheet, trained = found
    assert torch.equal(sheet.images, generate(trained.generator, fixed_noise(5)))
    assert sheet.epoch == of_kind(found, EpochEnd)[-1].epoch


def test_a_run_that_diverged_is_named_and_failed(tracked, client, rows, tmp_path):
    run_id, outcome = tracked(DIVERGED, evaluate_every=1, stop_dead=True)
    assert (outcome.status, outcome.health) == ("FAILED", "diverged")
    logged = client.get_run(run_id)
    assert logged.info.status == "FAILED"
    assert logged.data.tags["health"] == "diverged"
    assert logged.data.tags["failure_reason"].startswith("NonFiniteLossError: the loss of the ")
    trace = Path(client.download_artifacts(run_id, "traceback.txt", str(tmp_path))).read_text()
    assert trace.splitlines()[-1].startswith("gan_core.errors.NonFiniteLossError")
    assert {file.path for file in client.list_artifacts(run_id)} >= {"losses.npz", "losses.png", "samples"}
    # A loss that is no number is logged as that, and no score of images that are none.
    assert rows("SELECT step, is_nan FROM metrics WHERE key = 'loss/discriminator'") == [(1, 1)]
    assert not rows("SELECT key FROM metrics WHERE key LIKE 'quality/%'")


def test_the_diagnosis_comes_before_the_error(events):
    *_, found, error = events(DIVERGED)
    assert isinstance(found, Diagnosis)
    assert (found.health, found.epoch) == ("diverged", 1)
    assert isinstance(error, NonFiniteLossError)
