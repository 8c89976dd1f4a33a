import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.config import make_config
from gan_core.data import ImageKey, load_images
from gan_core.evaluation import baselines as module
from gan_core.evaluation import train_classifier
from gan_core.evaluation.baselines import evaluate, load_reference, real_baseline_images
from gan_core.evaluation.scores import SCORES
from gan_core.networks import build_models


@pytest.fixture
def computed(short_training, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data sets whose reference has been computed, one entry each time."""
    computed: list[str] = []
    really_compute = module.compute_reference

    def compute_reference(data, classifier):
        computed.append(data.name)
        return really_compute(data, classifier)

    monkeypatch.setattr(module, "compute_reference", compute_reference)
    return computed


def test_is_computed_once_and_comes_back_the_same(cache: Path, computed):
    first, second = load_reference(load_images("digits"), cache), load_reference(load_images("digits"), cache)
    assert computed == ["digits"]
    assert second.baselines == first.baselines
    assert tuple(first.baselines.real_baseline) == tuple(first.baselines.untrained_baseline) == SCORES
    assert first.baselines.n == 599
    one, other = ([*side[:3], *side.gaussian, *side.moments] for side in (first.real, second.real))
    assert len(one) == 10
    assert all(map(torch.equal, one, other))


def test_several_at_once_compute_one(cache: Path, computed):
    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(load_reference, [load_images("digits")] * 3, [cache] * 3)
    assert computed == ["digits"]
    assert all(each.baselines == first.baselines for each in others)


def damage(cache: Path, monkeypatch) -> None:
    (kept,) = cache.glob("reference-digits-*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])


def other_scores(cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "SCORES_VERSION", module.SCORES_VERSION + 1)


def other_classifier(cache: Path, monkeypatch) -> None:
    other = dataclasses.replace(train_classifier.RECIPE, least_steps=30)
    monkeypatch.setattr(train_classifier, "RECIPE", other)


@pytest.mark.parametrize("change", [damage, other_scores, other_classifier])
def test_what_does_not_fit_is_computed_again(cache: Path, computed, monkeypatch, change):
    first = load_reference(load_images("digits"), cache)
    change(cache, monkeypatch)
    second = load_reference(load_images("digits"), cache)
    assert len(computed) == 2
    assert (second.baselines == first.baselines) == (change != other_classifier)
    assert second.baselines.classifier == second.classifier.record["weights_sha256"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, digits, capsys):
    (tmp_path / "a file").write_text("in the way")
    found = load_reference(load_images("digits"), tmp_path / "a file")
    assert found.baselines == digits.baselines
    assert "cannot cache what digits is scored against in" in capsys.readouterr().err


def test_the_real_baselines_images_are_training_images_without_repeats():
    data = load_images("digits")
    one, again, other = (real_baseline_images(data, 599, draw=draw).flatten(1) for draw in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    train = {bytes(image) for image in data.splits["train"].images.flatten(1).numpy()}
    assert {bytes(image) for image in one.numpy()} <= train
    assert (
        real_baseline_images(data, 1198)
        .flatten(1)
        .sort(0)
        .values.equal(data.splits["train"].images.flatten(1).sort(0).values)
    )


def test_its_bits_do_not_depend_on_the_threads_of_who_computes_it(tmp_path: Path):
    torch.set_num_threads(1)
    one = load_reference(load_images("digits"), tmp_path / "one")
    torch.set_num_threads(3)
    three = load_reference(load_images("digits"), tmp_path / "three")
    assert torch.get_num_threads() == 3
    assert one.baselines == three.baselines
    for ours, theirs in zip(one.real, three.real, strict=True):
        parts = ours if isinstance(ours, tuple) else (ours,), theirs if isinstance(theirs, tuple) else (theirs,)
        assert all(torch.equal(a, b) for a, b in zip(*parts, strict=True))


@pytest.mark.parametrize(("size", "channels"), [(28, 3), (32, 1)])
def test_a_folders_reference_is_of_its_size_and_colours(tmp_path, shapes, short_training, size, channels):
    data = load_images(ImageKey(f"folder:{shapes}", size, channels), tmp_path)
    reference = load_reference(data, tmp_path)
    assert reference.baselines.n == len(data.splits["test"].labels)
    assert reference.real.shares.shape == (2,)
    G, _ = build_models(make_config(dataset=data.name, image_size=size, channels=channels))
    found = evaluate(G, reference)
    assert found.class_shares.shape == (2,)
    assert 1 <= found.scores["quality/is"] <= 2
    assert all(np.isfinite(list(found.scores.values())))
    assert found.scores["quality/fd"] > reference.baselines.real_baseline["quality/fd"]
    assert {path.name.rpartition("-")[0] for path in tmp_path.glob("*.safetensors")} == {
        "classifier-my shapes", "reference-my shapes",
    }  # fmt: skip
