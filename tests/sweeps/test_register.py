"""The best generator of a sweep as a registered model: which one, with what, served, and no pickle in it."""

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.models import Model

from gan_core.architectures import NETWORKS
from gan_core.config import RunConfig
from gan_core.errors import UserError
from gan_core.metric_names import GENERATOR_FILE, PARENT
from gan_core.networks import build_models, load_generator, save_generator
from gan_core.tracking.store import create_run
from sweeps.plan import render
from sweeps.register import register_best
from sweeps.served_generator import ServedGenerator
from tests.servers import model_server

RUN_GRID = Path(__file__).parents[2] / "sweeps" / "run_grid.py"
Z_DIM = 7


@pytest.fixture
def sweep(client, experiment):
    return client.create_run(experiment, run_name="small")


@pytest.fixture
def add_run(client, sweep, tmp_path):
    """A run of the sweep, ended, with its generator; its id."""

    def add(seed, fd, status="FINISHED", classifier="ab", health="ok", network="mlp"):
        config = RunConfig(dataset="digits", network=network, z_dim=Z_DIM, hidden_dim=8, seed=seed)
        tags = {
            PARENT: sweep.info.run_id,
            "quality.classifier": classifier,
            "quality.n": "10",
            "health": health,
        }
        run_id = create_run(client, sweep.info.experiment_id, f"sgd_z7_s{seed}", config, tags)
        metrics = [] if fd is None else [Metric("quality/fd", fd, 1000, 3)]
        client.log_batch(run_id, metrics=metrics, params=[Param("z_dim", str(Z_DIM))])
        save_generator(build_models(config)[0], tmp_path / GENERATOR_FILE)
        client.log_artifact(run_id, str(tmp_path / GENERATOR_FILE))
        client.set_terminated(run_id, status)
        return run_id

    return add


@pytest.fixture
def in_own_process(command, uri):
    """Run Python in a process that has MLflow and not this project, from another folder; what it prints."""

    def run(code, **environment):
        done = command("-c", code, PYTHONPATH="", MLFLOW_TRACKING_URI=uri, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def said_of(registered):
    return render("end", what="model", error="", model=registered, serve="").splitlines()[0]


def test_the_generator_of_the_least_distance_is_registered_once(client, sweep, add_run, rows):
    add_run(0, 300.0)
    best = add_run(1, 200.0)
    add_run(2, 100.0, status="FAILED")
    add_run(3, float("nan"))
    add_run(4, None)
    made = register_best(client, sweep, "digits")
    assert said_of(made) == (
        "Model:    digits version 1: the generator of sgd_z7_s1, with the least Fréchet distance (200.0) "
        "of 2 finished runs"
    )
    there = client.get_model_version("digits", "1")
    config = RunConfig(dataset="digits", z_dim=Z_DIM, hidden_dim=8, seed=1)
    assert there.run_id == best
    assert there.tags["run.name"] == "sgd_z7_s1"
    assert there.tags["config_hash"] == config.config_hash
    assert there.tags["sweep.run_id"] == sweep.info.run_id
    assert there.tags["quality/fd"] == "200.0"
    before = rows("SELECT count(*) FROM logged_models"), rows("SELECT end_time, status FROM runs")

    again = register_best(client, sweep, "digits")
    assert (again.version, again.new) == ("1", False)
    assert "digits version 1, registered before" in said_of(again)
    assert len(client.search_model_versions("name = 'digits'")) == 1
    assert before == (rows("SELECT count(*) FROM logged_models"), rows("SELECT end_time, status FROM runs"))

    add_run(5, 50.0, health="mode-collapsed")
    better = register_best(client, sweep, "digits")
    assert (better.version, better.new) == ("2", True)
    assert said_of(better).endswith("of 3 finished runs; its health: mode-collapsed")
    assert register_best(client, sweep, "other").version == "1"


def test_without_a_score_that_counts_none_is_the_best(client, sweep, add_run):
    with pytest.raises(UserError, match=r"no run of the sweep has finished"):
        register_best(client, sweep, "digits")
    add_run(0, None)
    with pytest.raises(UserError, match=r"no finished run has a quality/fd"):
        register_best(client, sweep, "digits")
    add_run(1, 5.0)
    add_run(2, 5.0, classifier="cd")
    with pytest.raises(UserError, match=r"with different classifiers"):
        register_best(client, sweep, "digits")
    assert not client.search_registered_models()


def test_a_generator_that_the_served_code_does_not_compute_is_refused(client, sweep, add_run, monkeypatch):
    monkeypatch.setitem(NETWORKS, "another", NETWORKS["mlp"])
    add_run(0, 12.0, network="another")
    with pytest.raises(UserError, match=r"of the networks mlp and dcgan can be registered .*, sgd_z7_s0 has another"):
        register_best(client, sweep, "digits-g")
    assert not client.search_registered_models()
    assert not client.search_logged_models([sweep.info.experiment_id])


@pytest.mark.parametrize(("network", "dataset"), [("mlp", "digits"), ("dcgan", "digits")])
def test_what_is_served_is_what_the_generator_makes(network, dataset, tmp_path):
    """Of a G whose normalizations have seen some noise, by the code that is stored beside the weights."""
    G, _ = build_models(RunConfig(dataset=dataset, network=network, z_dim=Z_DIM, hidden_dim=8))
    for _ in range(3):
        G.train()(torch.randn(16, Z_DIM))
    save_generator(G, tmp_path / GENERATOR_FILE)
    model = ServedGenerator()
    model.load_context(SimpleNamespace(artifacts={"generator": str(tmp_path / GENERATOR_FILE)}))
    z = torch.randn(9, Z_DIM)
    with torch.no_grad():
        expected = load_generator(tmp_path / GENERATOR_FILE)(z)
    found = torch.from_numpy(model.predict(None, z.numpy()))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_saved_says_all_that_is_needed_to_use_it(client, sweep, add_run):
    add_run(0, 5.0)
    register_best(client, sweep, "digits")
    source = client.get_model_version("digits", "1").source
    model = Path(source.removeprefix("file://"))
    signature = Model.load(model).signature
    assert [spec.shape for spec in (*signature.inputs, *signature.outputs)] == [(-1, Z_DIM), (-1, 1, 28, 28)]
    assert {spec.type for spec in (*signature.inputs, *signature.outputs)} == {np.dtype(np.float32)}
    needed = (model / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in needed} == {"mlflow", "numpy", "safetensors"}
    assert all("==" in line for line in needed)
    example = json.loads((model / "serving_input_example.json").read_text())
    assert np.array(example["inputs"]).shape == (2, Z_DIM)
    assert not [path for path in model.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]


AUDITED = """
import sys, numpy as np, mlflow.pyfunc, torch
seen = []
sys.addaudithook(lambda event, args: seen.append(args) if event == "pickle.find_class" else None)
load = torch.load
torch.load = lambda *a, **k: seen.append((a, k)) or load(*a, **k)
model = mlflow.pyfunc.load_model("{model}")
images = model.predict(np.zeros((3, {z_dim}), np.float32))
print(images.shape, images.dtype, len(seen), "gan_core" in sys.modules, "sweeps" in sys.modules)
import pickle, collections
pickle.loads(pickle.dumps(collections.OrderedDict()))
print(len(seen))
"""


@pytest.mark.parametrize("network", ["mlp", "dcgan"])
def test_loading_it_executes_no_pickle_and_needs_nothing_of_this_project(
    client, sweep, add_run, in_own_process, network
):
    add_run(0, 5.0, network=network)
    made = register_best(client, sweep, "digits")
    loaded, watched = in_own_process(AUDITED.format(model=f"models:/digits/{made.version}", z_dim=Z_DIM)).splitlines()[
        -2:
    ]
    assert loaded == "(3, 1, 28, 28) float32 0 False False"
    assert watched == "1"  # the hook does see one


def ask(server, z):
    request = urllib.request.Request(
        f"{server.uri}/invocations",
        json.dumps({"inputs": z}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return np.array(json.load(answer)["predictions"], dtype=np.float32)


@pytest.mark.slow
def test_the_command_registers_and_mlflow_serves(command, uri, tmp_path):
    words = [
        RUN_GRID, "--dataset", "digits", "--hidden-dim", 16, "--optimizers", "sgd", "adam", "--z-dims", 5, "--seeds", 0,
        "--epochs", 2, "--name", "small", "--tracking-uri", uri, "--register", "best.digits",
    ]  # fmt: skip
    first, again = command(*words), command(*words)
    for done in (first, again):
        assert (done.returncode, done.stderr) == (0, "")
    (line,) = re.findall(r"^Model: +(.*)$", first.stdout, re.MULTILINE)
    (run, fd) = re.fullmatch(
        r"best\.digits version 1: the generator of (\w+), with the least Fréchet distance \(([\d.]+)\) of 2 finished runs"
        r"(?:; its health: [\w-]+)?",
        line,
    ).groups()
    assert "best.digits version 1, registered before" in again.stdout

    client = MlflowClient(uri)
    run_id = client.get_model_version("best.digits", "1").run_id
    finished = client.search_runs([client.get_run(run_id).info.experiment_id], "metrics.`quality/fd` > 0")
    fds = {one.info.run_name: one.data.metrics["quality/fd"] for one in finished}
    assert min(fds, key=fds.get) == run
    assert f"{fds[run]:.1f}" == fd

    (words,) = re.findall(r"(mlflow models serve .*) serves it", first.stdout)
    assert words == "mlflow models serve -m models:/best.digits/1 --env-manager local --port 5001"
    z = torch.randn(3, 5)
    G = load_generator(client.download_artifacts(run_id, GENERATOR_FILE, str(tmp_path)))
    with torch.no_grad():
        expected = G(z).numpy()
    with model_server("models:/best.digits/1", tmp_path, MLFLOW_TRACKING_URI=uri, PYTHONPATH="") as server:
        np.testing.assert_allclose(ask(server, z.tolist()), expected, atol=1e-5)
        assert ask(server, z[:1].tolist()).shape == (1, 1, 28, 28)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(server, [[0.0] * 6])
        assert refused.value.code == 400


@pytest.mark.parametrize("name", ["", "a/b", "models:/x", "-x", "a b", "it's", "x" * 201, "é"])
def test_a_name_that_cannot_be_served_is_refused_before_any_work(command, uri, tmp_path, name):
    done = command(RUN_GRID, "--dataset", "digits", "--tracking-uri", uri, f"--register={name}")
    assert done.returncode == 2
    assert done.stderr.startswith("run_grid.py: --register should be 1 to 200 letters")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
def test_what_is_served_are_the_generators_images_in_their_size_and_colours(tmp_path, size, channels):
    G, _ = build_models(RunConfig(dataset="folder:/x", image_size=size, channels=channels, z_dim=5, hidden_dim=8))
    save_generator(G, tmp_path / "G.safetensors")
    served = ServedGenerator()
    served.load_context(SimpleNamespace(artifacts={"generator": str(tmp_path / "G.safetensors")}))
    z = torch.randn(3, 5)
    images = served.predict(None, z.numpy())
    assert images.shape == (3, channels, size, size)
    np.testing.assert_allclose(images, G(z).detach().numpy(), atol=1e-6)
