from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_core.storage import StoragePath, storage_path
from tests.servers import object_store


@pytest.fixture(scope="session")
def object_store_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with object_store(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


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
