from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gan_core.config import RunConfig
from gan_core.run import Job, Outcome, run
from gan_core.storage import StoragePath, storage_path
from gan_core.tracking.store import create_run, prepare_store
from gan_core.tracking.tracker import MlflowTracker
from tests.servers import object_store


@pytest.fixture(scope="session")
def object_store_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with object_store(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def experiment(uri: str) -> str:
    return prepare_store(uri, "grid")


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


@pytest.fixture
def new_run(client: MlflowClient, experiment: str) -> Callable[[RunConfig], str]:
    """Create an MLflow run of a config; its id."""
    return lambda config: create_run(client, experiment, "a", config)


@pytest.fixture
def track(uri: str, watcher) -> Callable[..., Outcome]:
    """Train a job, logged to an MLflow run that is there."""

    def log(job: Job, run_id: str, observer=None) -> Outcome:
        return run(job, MlflowTracker(uri, run_id, job.config, job.data, job.name), observer or watcher())

    return log


@pytest.fixture
def bucket(object_store_environment, monkeypatch: pytest.MonkeyPatch, request) -> StoragePath:
    """A path of the test's own in a real S3 server, whose keys are in the environment."""
    for name, value in object_store_environment.items():
        monkeypatch.setenv(name, value)
    # A * and a [ in the path must not be taken for a pattern.
    return storage_path(f"s3://gan/{request.node.originalname}/*[x]")


@pytest.fixture(params=["folder", "object store"])
def storage(request, tmp_path: Path) -> StoragePath:
    """A path of the test's own in each kind of storage."""
    return tmp_path / "*[x]" if request.param == "folder" else request.getfixturevalue("bucket")
