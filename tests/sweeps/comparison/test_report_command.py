"""The command on a real store, written through MLflow's client."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Metric, Param, RunTag
from PIL import Image
from sweeps.comparison.reading import HISTORIES, ask_database, ask_server

from gan_core.cli import exit_code
from gan_core.config import RunConfig
from gan_core.evaluation.scores import SCORES
from gan_core.tracking.queries import MlflowClient
from gan_core.tracking.store import prepare_store
from sweeps.report import main, make_report

EPOCHS = 4


def log_run(client, experiment_id, parent_id, optimizer, seed, classifier, folder):
    config = RunConfig(optimizer=optimizer, z_dim=20, seed=seed, epochs=EPOCHS, dataset="digits")
    tags = {"mlflow.parentRunId": parent_id, "sweep.cell": f"{optimizer}_z20"}
    run_id = client.create_run(experiment_id, run_name=f"{optimizer}_z20_s{seed}", tags=tags).info.run_id
    fd = (5.0 if optimizer == "sgd" else 25.0) * (1 + 0.03 * seed)
    names = ("loss/discriminator", "loss/generator", "loss_std/discriminator", "loss_std/generator",
             "time/epoch_seconds", "time/images_per_second")  # fmt: skip
    points = [Metric(name, 1.0 + epoch, 1000, epoch) for epoch in range(1, EPOCHS + 1) for name in names]
    points += [Metric("quality/fd", fd * (EPOCHS + 1 - epoch), 1000, epoch) for epoch in (2, EPOCHS)]
    points += [Metric(name, 0.5, 1000, EPOCHS) for name in SCORES[1:]]
    points.append(Metric("loss/generator", 99.0, 500, 1))  # an earlier try of epoch 1, before the run went on
    client.log_batch(
        run_id,
        metrics=points,
        params=[Param(name, str(value)) for name, value in dataclasses.asdict(config).items()],
        tags=[
            RunTag(key, value)
            for key, value in {**classifier, "health": "ok", "health_reason": "fine"}.items()
        ],
    )
    (folder / "samples").mkdir(exist_ok=True)
    for epoch in (0, 1, EPOCHS):
        path = folder / "samples" / f"epoch_{epoch:04d}.png"
        Image.new("L", (482, 482), 40 * epoch + seed).save(path)
        client.log_artifact(run_id, str(path), "samples")
    losses = np.linspace(6, 1, EPOCHS * 5, dtype=np.float32).reshape(EPOCHS, 5)
    np.savez(folder / "losses.npz", discriminator=losses - 1, generator=losses)
    client.log_artifact(run_id, str(folder / "losses.npz"))
    client.set_terminated(run_id, "FINISHED")


def log_sweep(uri, folder, name, seeds=(0, 1, 2), experiment="gan-grid"):
    experiment_id = prepare_store(uri, experiment)
    client = MlflowClient(uri)
    folder.mkdir(exist_ok=True)
    parent = client.create_run(experiment_id, run_name=name, tags={"sweep.kind": "grid"}).info.run_id
    params = {
        "optimizers": "sgd adam",
        "z_dims": "20",
        "seeds": " ".join(map(str, seeds)),
        "learning_rates": "each optimizer's own",
        "epochs": str(EPOCHS),
        "dataset": "digits",
    }
    client.log_batch(parent, params=[Param(key, value) for key, value in params.items()])
    scores = json.dumps(dict.fromkeys(SCORES, 0.4))
    classifier = {"quality.classifier": "ab" * 32, "quality.classifier_accuracy": "0.98", "quality.n": "599",
             "quality.real_baseline": scores, "quality.untrained_baseline": scores}  # fmt: skip
    for seed in seeds:
        for optimizer in ("sgd", "adam"):
            log_run(client, experiment_id, parent, optimizer, seed, classifier, folder)
    client.set_terminated(parent, "FINISHED")
    return parent


def run(*words):
    return exit_code("report.py", lambda: main([str(word) for word in words]))


def test_the_report_of_a_store(uri, tmp_path, capsys, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    parent = log_sweep(uri, tmp_path / "files", "a/b: <b>")
    assert run("--tracking-uri", uri) == 0
    out, err = capsys.readouterr()
    assert not err
    (folder,) = (tmp_path / "reports").iterdir()
    assert folder.name.startswith("a-b-b-")
    assert out == f"{folder / 'report.html'}\n"
    assert not list((tmp_path / "elsewhere").iterdir())

    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"report.html", "report.md", "cells.csv", "runs.csv", "losses_G.png", "fd.png"} <= written
    sheets = sorted(name for name in written if name.startswith("sheets/"))
    assert [name.rsplit("/")[-1] for name in sheets] == [
        "adam_z20_s0_epoch_0001.png", "adam_z20_s0_epoch_0004.png",
        "sgd_z20_s0_epoch_0001.png", "sgd_z20_s0_epoch_0004.png",
    ]  # fmt: skip
    with Image.open(folder / sheets[1]) as sheet:
        assert sheet.size == (241, 241)
        assert sheet.getpixel((0, 0)) == 160

    html = (folder / "report.html").read_text()
    assert "Use sgd_z20: the seeds tell it from every other cell." in html
    assert "5.00 times (5.00 to 5.00)" in html  # fd of Adam / SGD, paired
    assert "99.0" not in html  # of two points of an epoch the later counts
    assert "6.00 (6.00 to 6.00), 3 seeds" in html  # the peak, out of losses.npz

    client = MlflowClient(uri)
    artifacts = {file.path for file in client.list_artifacts(parent)}
    assert artifacts == {"report"}
    kept = {file.path.removeprefix("report/") for file in client.list_artifacts(parent, "report")}
    assert kept == {path.split("/")[0] for path in written}
    page = client.download_artifacts(parent, "report/report.html", str(tmp_path))
    assert Path(page).read_text() == html


@pytest.mark.slow
def test_which_sweep(uri, tmp_path, capsys):
    first = log_sweep(uri, tmp_path / "files", "twice", seeds=(0,))
    second = log_sweep(uri, tmp_path / "files", "twice", seeds=(0,))
    log_sweep(uri, tmp_path / "files", "last", seeds=(0,))
    log_sweep(uri, tmp_path / "files", "hidden", seeds=(0,), experiment="other")
    assert make_report(uri, "gan-grid", output=tmp_path / "a")[0].parent == tmp_path / "a"
    assert "Sweep last<" in (tmp_path / "a" / "report.html").read_text()
    assert run("--tracking-uri", uri, "--sweep", "twice", "--output", tmp_path / "b") == 0
    assert second in (tmp_path / "b" / "report.html").read_text()
    assert "1 other sweep of this name" in (tmp_path / "b" / "report.html").read_text()
    assert (
        f"2 sweeps are called 'twice'; this is the report of {second}, the latest" in capsys.readouterr().err
    )
    assert run("--tracking-uri", uri, "--sweep", first, "--output", tmp_path / "c") == 0
    assert first in (tmp_path / "c" / "report.html").read_text()
    assert "named by its run id" in capsys.readouterr().err
    assert run("--tracking-uri", uri, "--experiment", "other", "--output", tmp_path / "d") == 0


def test_mistakes_are_one_line(uri, tmp_path, capsys):
    def said(*words):
        assert run(*words) == 2
        out, err = capsys.readouterr()
        assert not out
        assert len(err.splitlines()) == 1
        return err

    assert "there is no store" in said("--tracking-uri", tmp_path / "none.db")
    (tmp_path / "empty.db").touch()
    assert "there is no store" in said("--tracking-uri", tmp_path / "empty.db")
    assert not (tmp_path / "none.db").exists()
    assert "there is no experiment 'gan-grid'" in said("--tracking-uri", uri)
    prepare_store(uri, "gan-grid")
    assert "there is no sweep in experiment 'gan-grid'" in said("--tracking-uri", uri)
    log_sweep(uri, tmp_path / "files", "one", seeds=(0,))
    for name in ("two", "'; DROP TABLE runs; --", "0" * 32):
        assert "there is no sweep" in said("--tracking-uri", uri, "--sweep", name)
    assert "cannot make the folder" in said("--tracking-uri", uri, "--output", "/proc/none")
    (tmp_path / "file").touch()
    assert "cannot make the folder" in said("--tracking-uri", uri, "--output", tmp_path / "file")
    assert "unrecognized arguments" in said("--sweeps", "x")


def test_a_broken_picture_is_left_out(uri, tmp_path):
    parent = log_sweep(uri, tmp_path / "files", "one", seeds=(0, 1))
    root = tmp_path / "mlruns"
    for sheet in root.rglob("epoch_0004.png"):
        sheet.write_bytes(b"no picture")
    for losses in root.rglob("losses.npz"):
        losses.write_bytes(io.BytesIO(b"nothing").getvalue())
    page, _ = make_report(uri, "gan-grid", parent)
    html = page.read_text()
    assert "no sheet kept" in html
    assert "no losses of single iterations are kept" in html


def test_both_ways_to_read_histories_read_the_same(uri, tmp_path):
    log_sweep(uri, tmp_path / "files", "one", seeds=(0, 1))
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("gan-grid").experiment_id
    run_ids = [run.info.run_id for run in client.search_runs([experiment]) if "seed" in run.data.params]
    points = [
        sorted(
            (run_id, point.key, point.step, point.value) for run_id, point in ask(client, run_ids, HISTORIES)
        )
        for ask in (ask_database, ask_server)
    ]
    assert len(points[0]) == 4 * (5 * EPOCHS + 1 + 2)
    assert points[0] == points[1]
