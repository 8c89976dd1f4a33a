import dataclasses
from pathlib import Path

import pytest

from gan_core.data import load_images
from gan_core.evaluation import train_classifier
from gan_core.evaluation.baselines import Reference, load_reference


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers that know little but are trained in a second; none comes with the package."""
    short = dataclasses.replace(train_classifier.RECIPE, epochs=1, least_steps=9)
    monkeypatch.setattr(train_classifier, "PACKAGED", {})
    monkeypatch.setattr(train_classifier, "RECIPE", short)


@pytest.fixture(scope="session")
def digits(digits_reference: Reference) -> Reference:
    return digits_reference


@pytest.fixture(scope="session")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """For tests marked slow: needs MNIST on disk or a network."""
    return load_reference(load_images("mnist"), tmp_path_factory.mktemp("mnist"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "not there yet"
