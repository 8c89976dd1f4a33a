from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from gan_core.evaluation import baselines as module
from gan_core.evaluation import train_classifier
from gan_core.evaluation.baselines import load_reference, real_baseline_images
from gan_core.evaluation.scores import SCORES


def counted_computing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    computed: list[str] = []
    really_compute = module.compute_reference

    def compute_reference(dataset, classifier, data_dir=None):
        computed.append(dataset)
        return really_compute(dataset, classifier, data_dir)

    monkeypatch.setattr(module, "compute_reference", compute_reference)
    return computed


def test_is_computed_once_and_comes_back_the_same(cache: Path, short_training, monkeypatch):
    computed = counted_computing(monkeypatch)
    first, second = load_reference("digits", cache), load_reference("digits", cache)
    assert computed == ["digits"]
    assert (second.real_baseline, second.untrained_baseline) == (
        first.real_baseline,
        first.untrained_baseline,
    )
    assert tuple(first.real_baseline) == tuple(first.untrained_baseline) == SCORES
    assert first.count == 599
    for name in ("features", "radii", "shares"):
        assert torch.equal(getattr(first.real, name), getattr(second.real, name))
    for name in ("first", "second", "third", "own"):
        torch.testing.assert_close(getattr(first.real.moments, name), getattr(second.real.moments, name))
    assert torch.equal(first.real.gaussian.covariance, second.real.gaussian.covariance)


def test_several_at_once_compute_one(cache: Path, short_training, monkeypatch):
    computed = counted_computing(monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        baselines = [found.real_baseline for found in pool.map(load_reference, ["digits"] * 3, [cache] * 3)]
    assert computed == ["digits"]
    assert baselines[0] == baselines[1] == baselines[2]


def test_a_damaged_one_is_computed_again(cache: Path, short_training, monkeypatch):
    computed = counted_computing(monkeypatch)
    first = load_reference("digits", cache)
    (kept,) = cache.glob("reference-digits-*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])
    assert load_reference("digits", cache).real_baseline == first.real_baseline
    assert len(computed) == 2


def test_one_of_other_scores_is_not_used(cache: Path, short_training, monkeypatch):
    computed = counted_computing(monkeypatch)
    load_reference("digits", cache)
    monkeypatch.setattr(module, "SCORES_VERSION", module.SCORES_VERSION + 1)
    load_reference("digits", cache)
    assert len(computed) == 2


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, digits, capsys):
    (tmp_path / "a file").write_text("in the way")
    found = load_reference("digits", tmp_path / "a file")
    assert found.real_baseline == digits.real_baseline
    assert "cannot cache what digits is scored against in" in capsys.readouterr().err


def test_one_of_another_classifier_is_not_used(cache: Path, short_training, monkeypatch):
    computed = counted_computing(monkeypatch)
    first = load_reference("digits", cache)
    monkeypatch.setitem(train_classifier.RECIPE, "epochs", 99)
    monkeypatch.setattr(train_classifier, "LEAST_STEPS", 30)
    second = load_reference("digits", cache)
    assert len(computed) == 2
    assert second.classifier.record.weights_sha256 != first.classifier.record.weights_sha256


def test_the_real_baselines_images_are_training_images_without_repeats():
    one, again, other = (real_baseline_images("digits", 599, draw=draw).flatten(1) for draw in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == (599, 784)
