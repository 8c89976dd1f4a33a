"""What a sweep costs beside its training: `python benchmarks/sweep.py`.

By default: the 8 settings of the default grid, one seed of each, at 20 epochs, as a user starts them, into a
store of their own; the wall time against the sum of the runs' training seconds, and the time to the first
training step.
--start: the time to the first training step alone, with a new store and with one that is there, in turn.
--tracking: the processor time of tracking one run, its events given to the tracker at the pace at which
they came, against that of its training.
--beside: an epoch of one run alone, and of each of two runs at once, in turn; the ratio of their times.
--memory: the private memory of the workers while each trains eight short runs, one after another.
"""

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import torch
from mlflow import MlflowClient

from gan_core import EpochEnd, RunConfig, load_images, train
from gan_core.tracking.store import create_run, prepare_store
from gan_core.tracking.tracker import MlflowTracker

ROOT = Path(__file__).parent.parent


def start(rounds: int, workers: int) -> None:
    seconds: dict[str, list[float]] = {"new store": [], "store there": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for kind, taken in seconds.items():
                taken.append(_seconds_to_first_step(Path(folder) / f"{number}.db", workers))
                print(f"round {number + 1}, {kind}: {taken[-1]:.1f} s", flush=True)
    for kind, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"{kind}: median {middle:.1f} s, {min(taken):.1f} to {max(taken):.1f}, n = {rounds}")


def _seconds_to_first_step(store: Path, workers: int) -> float:
    words = [sys.executable, ROOT / "sweeps" / "run_grid.py", "--epochs", "1", "--optimizers", "sgd", "--seeds", "0"]
    words += ["--workers", str(workers), "--tracking-uri", f"sqlite:///{store}", "--again"]
    began = time.time()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    with closing(sqlite3.connect(store)) as database:
        # An epoch is logged at its end.
        (first,) = database.execute(
            "SELECT min(timestamp / 1000.0 - value) FROM metrics "
            "WHERE key = 'time/epoch_seconds' AND timestamp / 1000.0 > ?",
            (began,),
        ).fetchone()
    return float(first - began)


def grid(epochs: int, workers: int, store: Path) -> None:
    if store.exists():
        sys.exit(f"{store} is there already; name another with --store")
    words = ["--seeds", 0, "--epochs", epochs, "--workers", workers, "--tracking-uri", f"sqlite:///{store}"]
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


def memory(workers: int) -> None:
    z_dims = [str(z_dim) for z_dim in range(10, 10 + 4 * workers)]
    words = ["--epochs", "1", "--seeds", "0", "--workers", str(workers), "--z-dims", *z_dims, "--tracking-uri"]
    seen: dict[int, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sweep = subprocess.Popen(
            [sys.executable, ROOT / "sweeps" / "run_grid.py", *words, f"sqlite:///{folder}/mlflow.db"],
            stdout=subprocess.DEVNULL,
        )
        while sweep.poll() is None:
            for process in psutil.Process(sweep.pid).children(recursive=True):
                with suppress(psutil.Error, OSError):
                    if "ray::ImplicitFunc" in " ".join(process.cmdline()):  # a worker that has a run
                        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                        seen.setdefault(process.pid, []).append(int(rollup.split("Private_Dirty:")[1].split()[0]))
            time.sleep(0.5)
    if sweep.returncode:
        sys.exit("the sweep failed")
    for found in seen.values():
        print(f"a worker: at most {max(found) / 1024:.0f} MiB, {found[-1] / 1024:.0f} at its end")


def tracking(epochs: int, rounds: int) -> None:
    torch.set_num_threads(1)
    data = load_images("mnist")
    config = RunConfig(epochs=epochs)
    began = time.process_time()
    events = list(train(config, data.images))
    training = time.process_time() - began
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        experiment = prepare_store(uri, "benchmark")
        for number in range(rounds):
            run_id = create_run(MlflowClient(uri), experiment, "benchmark", config)
            began = time.process_time()
            tracker = MlflowTracker(uri, run_id, config, data, "benchmark")
            for event in events:
                if isinstance(event, EpochEnd):
                    time.sleep(event.seconds)  # as many writes as there would be in a run
                tracker.log(event, time.time_ns() // 1_000_000)
            tracker.close("FINISHED")
            taken = time.process_time() - began
            shares.append(taken / training)
            print(f"round {number + 1}: tracking {taken:.2f} s, training {training:.1f} s", flush=True)
    print(
        f"{epochs} epochs of MNIST, {rounds} rounds: tracking takes {statistics.median(shares):.2%} of the "
        f"training's processor time, {min(shares):.2%} to {max(shares):.2%}"
    )


ONE_RUN = """
import sys, torch
from gan_core import EpochEnd, RunConfig, load_images, train
torch.set_num_threads(1)
events = train(RunConfig(epochs=int(sys.argv[1])), load_images("mnist").images)
epochs = [event for event in events if isinstance(event, EpochEnd)]
print(min(epoch.seconds for epoch in epochs))
"""


def beside(epochs: int, rounds: int) -> None:
    ratios = []
    for number in range(rounds):
        (alone,) = _at_once(1, epochs)
        both = statistics.fmean(_at_once(2, epochs))
        ratios.append(both / alone)
        print(f"round {number + 1}: alone {alone:.2f} s, two at once {both:.2f} s each", flush=True)
    print(f"median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}, n = {rounds}")


def _at_once(count: int, epochs: int) -> list[float]:
    """The quickest epoch of each of so many runs at once, in seconds."""
    words = [sys.executable, "-c", ONE_RUN, str(epochs)]
    runs = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [float(run.communicate()[0]) for run in runs]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tracking", action="store_true")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", type=Path, help="keep the grid's store here")
    args = parser.parse_args()
    if args.tracking:
        tracking(args.epochs, args.rounds)
    elif args.memory:
        memory(args.workers)
    elif args.beside:
        beside(args.epochs, args.rounds)
    elif args.start:
        start(args.rounds, args.workers)
    else:
        with tempfile.TemporaryDirectory() as folder:
            grid(args.epochs, args.workers, args.store or Path(folder) / "mlflow.db")
