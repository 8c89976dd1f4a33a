"""What a sweep costs beside its training: `python benchmarks/sweep.py`.

By default: the 8 cells of the default grid at 20 epochs, as a user starts them, into a store of their own;
the wall time against the sum of the runs' training seconds, and the time to the first training step.
--tracking: one run tracked in MLflow and untracked, in turn; the ratio of their times.
"""

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch

from gan_core import RunConfig, load_images, train
from gan_core.mlflow_client import MlflowClient
from gan_core.run import run
from gan_core.store import prepare_store
from gan_core.tracking import MlflowTracker, create_run

ROOT = Path(__file__).parent.parent


def grid(epochs: int, workers: int, store: Path) -> None:
    if store.exists():
        sys.exit(f"{store} is there already; name another with --store")
    words = ["--epochs", epochs, "--workers", workers, "--tracking-uri", f"sqlite:///{store}"]
    began = time.time()
    subprocess.run([sys.executable, ROOT / "sweeps" / "run_grid.py", *map(str, words)], check=True)
    wall = time.time() - began
    with closing(sqlite3.connect(store)) as database:
        seconds = dict(
            database.execute(
                "SELECT name, sum(value) FROM metrics JOIN runs USING (run_uuid) "
                "WHERE key = 'time/epoch_seconds' GROUP BY name"
            ).fetchall()
        )
        (first_epoch,) = database.execute("SELECT min(timestamp) / 1000.0 FROM metrics").fetchone()
        (shortest,) = database.execute(
            "SELECT min(value) FROM metrics WHERE key = 'time/epoch_seconds' AND step = 1"
        ).fetchone()
    training = sum(seconds.values()) / workers
    print(
        json.dumps(
            {
                "wall_seconds": round(wall, 1),
                "training_seconds_a_worker": round(training, 1),
                "ratio": round(wall / training, 3),
                "seconds_beside_1.08_x_training": round(wall - 1.08 * training, 1),
                "seconds_to_first_step": round(first_epoch - shortest - began, 1),
                "runs": len(seconds),
            },
            indent=2,
        )
    )


def tracking(epochs: int, rounds: int) -> None:
    torch.set_num_threads(1)
    data = load_images("mnist")
    config = RunConfig(epochs=epochs)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        experiment = prepare_store(uri, "benchmark")
        for number in range(rounds):
            tracked, untracked = _tracked(uri, experiment, config, data), _untracked(config, data)
            ratios.append(tracked / untracked)
            print(f"round {number + 1}: tracked {tracked:.1f} s, untracked {untracked:.1f} s", flush=True)
    print(
        f"tracked / untracked, {epochs} epochs of MNIST, {rounds} rounds: "
        f"median {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}"
    )


def _tracked(uri, experiment, config, data):
    began = time.perf_counter()
    run_id = create_run(MlflowClient(uri), experiment, "benchmark", config)
    outcome = run(
        "benchmark", config, data, MlflowTracker(uri, run_id, config, data, "benchmark"), lambda _: None
    )
    assert outcome.status == "FINISHED", outcome
    return time.perf_counter() - began


def _untracked(config, data):
    began = time.perf_counter()
    for _ in train(config, data.images):
        pass
    return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tracking", action="store_true")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", type=Path, help="keep the grid's store here")
    args = parser.parse_args()
    if args.tracking:
        tracking(args.epochs, args.rounds)
    else:
        with tempfile.TemporaryDirectory() as folder:
            grid(args.epochs, args.workers, args.store or Path(folder) / "mlflow.db")
