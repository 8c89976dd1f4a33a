"""Grids on a Ray cluster of several machines, with an MLflow server on PostgreSQL. Nothing is made up but the
machines: they are network namespaces."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from gan_core.config import RunConfig
from gan_core.data import load_images
from gan_core.machine import kind_of_machine
from gan_core.networks import load_generator
from gan_core.training import train
from sweeps.comparison.compare import compare
from sweeps.comparison.records import find_sweep, read_sweep

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]
DATA = Path(__file__).parents[2] / "data"
CELLS = [(optimizer, z, seed) for optimizer in ("sgd", "adam") for z in (5, 7) for seed in (0, 1)]
RUNS = len(CELLS)


def run_names():
    return sorted(f"{optimizer}_z{z}_s{seed}" for optimizer, z, seed in CELLS)


@pytest.fixture
def in_store(cluster):
    """Of a sweep: name → run id of its runs, all FINISHED, each point of which is there once."""

    def look(sweep, epochs):
        ((parent, status),) = cluster.sql(f"SELECT run_uuid, status FROM runs WHERE name = '{sweep}'")
        assert status == "FINISHED"
        runs = cluster.sql(
            "SELECT name, run_uuid, status FROM runs JOIN tags USING (run_uuid) "
            f"WHERE lifecycle_stage = 'active' AND key = 'mlflow.parentRunId' AND value = '{parent}' "
            "ORDER BY name"
        )
        assert [(name, status) for name, _, status in runs] == [(name, "FINISHED") for name in run_names()]
        ids = ", ".join(f"'{run_id}'" for _, run_id, _ in runs)
        points = cluster.sql(
            "SELECT run_uuid, count(*), count(DISTINCT (key, step)) FROM metrics "
            # Of that metric there is one on each kind of machine that has trained the run.
            f"WHERE run_uuid IN ({ids}) AND key != 'time/floor_ratio' GROUP BY run_uuid"
        )
        assert [points[1:] for points in points] == [[str(epochs * 8 + 10)] * 2] * RUNS
        return {name: run_id for name, run_id, _ in runs}

    return look


@pytest.fixture(scope="module")
def unbroken(digits):
    """The weights of each run's generator, by cell, from unbroken training on this machine."""

    @cache
    def weights(epochs):
        def trained(optimizer, z, seed):
            config = RunConfig(dataset="digits", hidden_dim=16, optimizer=optimizer, z_dim=z, seed=seed, epochs=epochs)
            return list(train(config, digits.images))[-1].generator.state_dict()

        return {cell: trained(*cell) for cell in CELLS}

    return weights


@pytest.fixture
def same_weights(cluster, unbroken, tmp_path):
    """That the generators of the runs, fetched over HTTP, are those of unbroken runs; the machines of each run.

    Only of a kind of machine as this one: the last bits of others differ.
    """

    def compare(runs, epochs):
        client, machines = MlflowClient(cluster.MLFLOW), {}
        for (optimizer, z, seed), weights in unbroken(epochs).items():
            run_id = runs[name := f"{optimizer}_z{z}_s{seed}"]
            machines[name] = client.get_run(run_id).data.tags["machine.kinds"].split("; ")
            if machines[name] != [kind_of_machine()]:
                continue
            file = client.download_artifacts(run_id, "generator.safetensors", str(tmp_path))
            ours = load_generator(file).state_dict()
            assert all(torch.equal(ours[name], weights[name]) for name in weights)
        return machines

    return compare


def until(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)
    return found


def trainers(cluster, name):
    """The processes on a machine that train runs."""
    pids = subprocess.run(
        ["ip", "netns", "pids", cluster.PREFIX + name], capture_output=True, text=True, check=True
    ).stdout.split()
    found = []
    for pid in pids:
        try:
            if b"ray::ImplicitFunc.train" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
        except OSError:
            continue
    return found


@contextmanager
def standing_still(pids):
    """These processes neither end nor go on."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def training(cluster):
    """The ids of the runs that train now."""
    children = "SELECT run_uuid FROM runs JOIN tags USING (run_uuid) WHERE status = 'RUNNING' AND key = "
    return {run_id for (run_id,) in cluster.sql(f"{children} 'mlflow.parentRunId'")}


@pytest.fixture
def checkout(cluster):
    """Code that is on no node and was installed nowhere: it has to come with the run."""
    code = cluster.FOLDER / "checkout"
    for package in ("gan_core", "sweeps", "studies"):
        shutil.copytree(cluster.ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (code / "sweeps" / "worker.py").open("a") as file:
        file.write("\nNEWS = 'of today'\n")
    yield code
    shutil.rmtree(code)


def test_a_grid_on_two_nodes_is_that_of_one_machine(cluster, checkout, grid, begin, in_store, same_weights):
    code = checkout
    (cluster.FOLDER / "tmp").mkdir(exist_ok=True)
    where = {"PYTHONPATH": str(code), "TMPDIR": str(cluster.FOLDER / "tmp")}
    driver = begin(grid("plain", code=code), **where)
    until(lambda: trainers(cluster, "one") and trainers(cluster, "two"), driver)
    assert not trainers(cluster, "head")
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    assert "8 new" in said
    assert list(same_weights(in_store("plain", epochs=5), epochs=5).values()) == [[kind_of_machine()]] * RUNS

    # The same settings race on from what is there.
    words = grid("plain", code=code)
    seeds = words.index("--seeds")
    raced = begin([*words[:seeds], "--max-seeds", 4, *words[seeds + 3 :]], **where)
    said, _ = raced.communicate(timeout=300)
    assert raced.returncode == 0, said
    assert "recorded are 8" in said
    client = MlflowClient(cluster.MLFLOW)
    record = read_sweep(client, find_sweep(client, "gan-grid", "plain")[0])
    race = compare(record).race
    assert not race.asked
    assert client.get_run(record.run_id).data.tags["answer"] == race.answer
    assert {(run.setting, run.seed) for run in record.runs if run.finished or run.dropped} >= race.reached.keys()


def test_a_grid_as_a_job_of_the_cluster(cluster, checkout, grid, in_store):
    done = cluster.run_on(
        "head", cluster.sys.executable, "-m", "ray.scripts.scripts", "job", "submit",
        "--address", "http://127.0.0.1:8265", "--working-dir", checkout,
        "--runtime-env-json", '{"env_vars": {"PYTHONPATH": "."}}', "--",
        *grid("job", code=Path()),  # what is submitted lies in the job's own folder
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    in_store("job", epochs=5)


@pytest.mark.parametrize("where", ["a shared folder", "s3"])
def test_runs_of_a_node_that_dies_go_on_elsewhere(cluster, grid, begin, in_store, same_weights, where):
    epochs, name = 500, where.replace(" ", "-")
    place = {"a shared folder": cluster.FOLDER / "shared" / "mortal", "s3": cluster.S3_URI}[where]
    kept = {"a shared folder": cluster.FOLDER / "shared" / "mortal", "s3": cluster.FOLDER / "s3" / "gan"}[where]
    words = grid(name, "--checkpoint-dir", place, "--checkpoint-every", 100, epochs=epochs)
    driver = begin(words, PYTHONPATH=str(cluster.ROOT))
    try:
        # Every run that trains has kept something, so those of the node that dies have too.
        until(
            lambda: len(training(cluster) & {file.parent.name for file in kept.rglob("epoch_*")}) == 2 * cluster.SLOTS,
            driver,
        )
        cluster.kill_machine("two")
        # However fast this machine is, the runs of the other node are not at their end before a third one trains.
        with standing_still(trainers(cluster, "one")):
            another_kind = {"ATEN_CPU_CAPABILITY": "default"} if where == "s3" else {}
            cluster.start_ray("three", **another_kind)
            until(lambda: trainers(cluster, "three"), driver)
        said, _ = driver.communicate(timeout=400)
    finally:
        cluster.kill_machine("three")
        cluster.kill_machine("two")
        cluster.start_ray("two")
    assert driver.returncode == 0, said
    assert "trying again" in said
    assert "goes on after epoch" in said
    machines = same_weights(in_store(name, epochs), epochs)
    assert ("2 kinds have trained the runs" in said) == bool(another_kind)
    for run, kinds in machines.items():
        assert said.count(f"{run}: now trains on another kind of machine") == len(kinds) - 1, said


def test_ctrl_c_reaches_the_nodes_through_an_object_store(cluster, grid, begin, in_store):
    # Ray still takes this one for alive; it must neither be missed nor be waited for.
    cluster.start_ray("three")
    cluster.kill_machine("three")
    words = grid("stopped", "--checkpoint-dir", cluster.S3_URI, "--checkpoint-every", 10_000, epochs=400)
    driver = begin(words, PYTHONPATH=str(cluster.ROOT))
    until(lambda: trainers(cluster, "one") and trainers(cluster, "two"), driver)
    time.sleep(8)
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, said
    ((parent, status),) = cluster.sql("SELECT run_uuid, status FROM runs WHERE name = 'stopped'")
    assert status == "KILLED"
    states = cluster.sql(
        "SELECT run_uuid, status FROM runs JOIN tags USING (run_uuid) "
        f"WHERE key = 'mlflow.parentRunId' AND value = '{parent}'"
    )
    assert {status for _, status in states} == {"KILLED"}
    bucket = cluster.FOLDER / "s3" / "gan" / "checkpoints"
    assert any(list((bucket / run_id).glob("epoch_*")) for run_id, _ in states)
    assert not list(bucket.rglob("*.stop"))


def test_each_node_receives_the_images_once(cluster, grid, begin):
    images = load_images("mnist", DATA).images.nbytes  # fetched here: no machine of the cluster reaches out
    before = {name: cluster.received(name) for name in ("one", "two")}
    words = grid("large", "--dataset", "mnist", "--data-dir", DATA, "--batch-size", 500, epochs=1)
    driver = begin(words, PYTHONPATH=str(cluster.ROOT))
    said, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    for name, bytes_before in before.items():
        got = cluster.received(name) - bytes_before
        print(f"{name}: {got / images:.2f} times the images, for {cluster.SLOTS} workers")
        assert images < got < 1.5 * images
