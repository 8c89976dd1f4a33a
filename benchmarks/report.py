"""What the report of a sweep takes in a store of many: `python benchmarks/report.py`.

Builds a store of 1,000 runs of 100 epochs (25 sweeps of 8 settings × 5 seeds) in a minute or two, then times
`python sweeps/report.py` as a user starts it, and the ways to read metrics' histories.
"""

import argparse
import dataclasses
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Param, RunTag
from PIL import Image

from gan_core.config import RunConfig
from gan_core.evaluation.scores import SCORES
from gan_core.tracking.store import prepare_store
from sweeps.comparison.records import HISTORIES, _ask_database, _ask_server

ROOT = Path(__file__).parent.parent
EPOCHS = 100
EACH_EPOCH = (
    "loss/discriminator", "loss/generator", "loss_std/discriminator", "loss_std/generator",
    "score/real", "score/fake", "time/epoch_seconds", "time/images_per_second",
)  # fmt: skip
EACH_TENTH = ("quality/fd", "quality/is", "quality/class_kl", "quality/confidence")


def build(uri: str, folder: Path, sweeps: int) -> None:
    """Sweeps with params, tags and every metric; the last one with its files as well."""
    experiment = prepare_store(uri, "gan-grid")
    client = MlflowClient(uri)
    bounds = json.dumps(dict.fromkeys(SCORES, 0.1)), json.dumps(dict.fromkeys(SCORES, 50.0))
    tags = {
        "health": "ok",
        "quality.classifier": "ab" * 32,
        "quality.classifier_accuracy": "0.99",
        "quality.n": "10000",
        "quality.real_baseline": bounds[0],
        "quality.untrained_baseline": bounds[1],
    }
    run_ids = []
    for number in range(sweeps):
        parent = client.create_run(
            experiment,
            run_name=f"sweep {number}",
            tags={"sweep.kind": "grid", "sweep.format": "2", "sweep.axes": "optimizer z_dim"},
        ).info.run_id
        for seed in range(5):
            for optimizer in ("sgd", "adam"):
                for z in (20, 50, 100, 200):
                    setting = f"{optimizer}_z{z}"
                    config = RunConfig(optimizer=optimizer, z_dim=z, seed=seed)
                    run_tags = {**tags, "mlflow.parentRunId": parent, "sweep.setting": setting}
                    run_id = client.create_run(experiment, run_name=f"{setting}_s{seed}").info.run_id
                    params = [Param(name, str(value)) for name, value in dataclasses.asdict(config).items()]
                    client.log_batch(
                        run_id, params=params, tags=[RunTag(key, value) for key, value in run_tags.items()]
                    )
                    client.set_terminated(run_id, "FINISHED")
                    run_ids.append(run_id)
                    if number == sweeps - 1:
                        _files(client, run_id, folder)
        client.set_terminated(parent, "FINISHED")
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        for run_id in run_ids:
            rows = _points(run_id)
            database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, 0)", rows)
            database.executemany(
                "INSERT INTO latest_metrics VALUES (?, ?, ?, ?, 0, ?)",
                [(key, value, at, step, run_id) for key, value, at, _, step in rows if step == EPOCHS],
            )
        database.commit()


def _points(run_id: str) -> list[tuple[str, float, int, str, int]]:
    chance = np.random.default_rng(uuid.UUID(run_id).int % 2**32)
    due = [(name, range(1, EPOCHS + 1)) for name in EACH_EPOCH]
    due += [(name, range(10, EPOCHS + 1, 10)) for name in EACH_TENTH]
    due += [(name, range(EPOCHS, EPOCHS + 1)) for name in SCORES if name not in EACH_TENTH]
    return [(name, chance.uniform(0.5, 5), 1000 + e, run_id, e) for name, epochs in due for e in epochs]


def _files(client: MlflowClient, run_id: str, folder: Path) -> None:
    """What a run of MNIST leaves: 94,000 iterations of two losses, and its sheets."""
    chance = np.random.default_rng(0)
    losses = chance.uniform(0.5, 5, (EPOCHS, 938)).astype(np.float32)
    np.savez_compressed(folder / "losses.npz", discriminator=losses, generator=losses)
    client.log_artifact(run_id, str(folder / "losses.npz"))
    (folder / "samples").mkdir(exist_ok=True)
    sheet = Image.fromarray(chance.integers(0, 255, (241, 241), dtype=np.uint8)).resize((482, 482))
    for epoch in (0, 1, 2, 5, *range(10, EPOCHS + 1, 10)):
        sheet.save(folder / "samples" / f"epoch_{epoch:04d}.png")
    client.log_artifacts(run_id, str(folder / "samples"), "samples")


def measure(uri: str, folder: Path, rounds: int) -> None:
    """The command's wall time; then each way to read the histories of one sweep, on its own."""
    command = [
        sys.executable,
        ROOT / "sweeps" / "report.py",
        "--tracking-uri",
        uri,
        "--output",
        folder / "out",
    ]
    walls, processor = [], []
    for _ in range(rounds):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    size = (folder / "out" / "report.html").stat().st_size
    print(f"python sweeps/report.py, by the clock: {_spread(walls)}; report.html {size / 1e6:.1f} MB")
    print(f"python sweeps/report.py, of the processor: {_spread(processor)}")
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("gan-grid").experiment_id], max_results=42)
    run_ids = [run.info.run_id for run in found if "seed" in run.data.params][:40]
    for name, read in (("all runs at once", _ask_database), ("run by run, 8 threads", _ask_server)):
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            points = sum(1 for _ in read(client, run_ids, HISTORIES))
            times.append(time.perf_counter() - began)
        print(f"{len(HISTORIES)} histories of {len(run_ids)} runs, {points:,} points, {name}: {_spread(times)}")


def _spread(times: list[float]) -> str:
    return f"median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f}, n = {len(times)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=25, help="of 40 runs each")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gan-benchmark-") as scratch:
        store = f"sqlite:///{scratch}/mlflow.db"
        began = time.perf_counter()
        build(store, Path(scratch), args.sweeps)
        print(f"{args.sweeps * 40:,} runs of {EPOCHS} epochs, built in {time.perf_counter() - began:.0f} s")
        measure(store, Path(scratch), args.rounds)
