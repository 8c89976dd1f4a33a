"""One cluster for all tests here: to start it takes half a minute."""

import importlib.util
import os
import subprocess
import warnings
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("cluster", Path(__file__).with_name("cluster.py"))
cluster_module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cluster_module)


@pytest.fixture(scope="session")
def cluster():
    """The module cluster.py, with its cluster started; ended and removed after the last test."""
    if what := cluster_module.missing():
        warnings.warn(f"THE CLUSTER IS NOT TESTED: {what}", stacklevel=1)
        pytest.skip(what)
    if os.environ.get("GAN_CLUSTER") == "started":  # by hand, and left as it is
        yield cluster_module
        return
    try:
        cluster_module.start()
        yield cluster_module
    finally:
        cluster_module.stop()


@pytest.fixture
def grid(cluster):
    """The words of a small grid on the cluster: 2 × 2 × 2 runs of the digits; `more` words are added."""

    def words(name, *more, uri=cluster.MLFLOW, epochs=5, code=cluster.ROOT):
        return [
            cluster.sys.executable, code / "sweeps" / "run_grid.py", "--address", cluster.RAY,
            "--tracking-uri", uri, "--checkpoint-dir", cluster.FOLDER / "shared", "--dataset", "digits",
            "--hidden-dim", 16, "--optimizers", "sgd", "adam", "--z-dims", 5, 7, "--seeds", 0, 1,
            "--epochs", epochs, "--evaluate-every", 0, "--name", name, *more,
        ]  # fmt: skip

    return words


@pytest.fixture
def begin(cluster):
    """Start a command on the head; at the test's end it is gone."""
    processes = []

    def start(words, **more):
        processes.append(
            subprocess.Popen(
                cluster.words_on("head", *words), env=cluster.environment(**more), text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )
        )  # fmt: skip
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
