"""The driver of a sweep of thousands of runs: `python -m benchmarks.scale`.

The command's own code from the plan to the report, on a real local Ray and an SQLite store, but in place of a
training a stub that logs its params, an epoch of metrics and a score, and is done: some milliseconds. So what
is left is what the driver costs. For each number of runs, in a process of its own: the driver's memory at
most, seconds until the first run began, the time by the clock and of the driver's processor for a run, and
the time of each part. --profile FILE writes py-spy's flame graph of the driver.
"""

import argparse
import io
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gan_core.config import RunOptions
from sweeps.compat import let_tune_use_waiting_workers
from sweeps.grid import Grid
from sweeps.plan import Plan, locked
from sweeps.ray_session import ray_session, set_ray_environment

if TYPE_CHECKING:
    from sweeps.worker import Common

# The parts of `sweeps.driver` that are timed. `read_sweep` and what follows it are within `_show`.
PARTS = ("begin_sweep", "train_all", "settle", "_show", "publish_report")


def stub(trial: dict[str, Any], common: "Common", **_: object) -> None:
    """In place of a training: the run in the store, as if it had trained an epoch."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from ray import tune

    client, run_id, at = MlflowClient(common.tracking_uri), trial["run_id"], time.time_ns() // 1_000_000
    names = ("loss/discriminator", "loss/generator", "time/epoch_seconds", "quality/fd")
    metrics = [Metric(name, 1 + hash(run_id) % 97 / 97, at, 1) for name in names]
    params = [Param(name, str(value)) for name, value in trial["config"].items()]
    client.log_batch(run_id, metrics=metrics, params=params)
    client.set_terminated(run_id, "FINISHED")
    tune.report({"status": "FINISHED", "reason": "", "health": "ok"})


def a_plan(runs: int, settings: int, folder: Path, workers: int) -> Plan:
    """A plan of so many runs in about so many settings of two optimizers."""
    seeds = max(1, runs // settings)
    z_dims = tuple(range(1, -(-runs // (2 * seeds)) + 1))
    fixed = {"dataset": "digits", "hidden_dim": 8, "epochs": 1}
    grid = Grid({"optimizer": ("sgd", "adam"), "z_dim": z_dims}, fixed=fixed, seeds=tuple(range(seeds)))
    return Plan(
        name="scale", named=True, again=False, experiment="scale", grid=grid, runs=grid.runs(), notes=[],
        options=RunOptions(evaluate_every=0, checkpoint_every=1), tracking_uri=f"sqlite:///{folder}/mlflow.db",
        checkpoint_dir=folder / "checkpoints", workers=workers, retries=0,
    )  # fmt: skip


def conduct_one(runs: int, settings: int, workers: int) -> None:
    """Conduct a sweep of so many runs, and say as JSON what it took."""
    set_ray_environment(None)
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                seconds[name] = time.perf_counter() - began

        return run

    with tempfile.TemporaryDirectory(prefix="gan-scale-") as scratch, ExitStack() as stack:
        plan = a_plan(runs, settings, Path(scratch), workers)
        stack.enter_context(locked(plan))
        stack.enter_context(ray_session(None, workers))
        from sweeps import driver as sweep
        from sweeps import trials

        prepared = sweep.prepare(plan)
        let_tune_use_waiting_workers()
        trials.run_trial = stub  # type: ignore[assignment]
        for name in PARTS:
            setattr(sweep, name, timed(name, getattr(sweep, name)))
        console = Console(file=io.StringIO(), width=200)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, clock, processor = time.time(), time.perf_counter(), time.process_time()
        code = sweep.conduct(plan, prepared, ExitStack(), console)
        taken, processor = time.perf_counter() - clock, time.process_time() - processor
        with closing(sqlite3.connect(Path(scratch) / "mlflow.db")) as database:
            ((first,),) = database.execute("SELECT min(timestamp) / 1000.0 FROM metrics").fetchall()
            ((finished,),) = database.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchall()
        print(
            json.dumps(
                {
                    "runs": len(plan.runs),
                    "settings": len(plan.grid.settings()),
                    "code": code,
                    "finished": finished - 1,  # less the parent
                    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    "memory_before": memory / 1024,
                    "first": first - wall,
                    "clock": taken,
                    "processor": processor,
                    "parts": seconds,
                }
            )
        )


def show(told: dict[str, Any]) -> None:
    runs = told["runs"]
    print(
        f"{runs:,} runs in {told['settings']:,} settings, {told['finished']:,} FINISHED, exit code {told['code']}\n"
        f"  the driver's memory at most {told['memory']:,.0f} MiB ({told['memory_before']:,.0f} before)\n"
        f"  {told['first']:.1f} s until the first run\n"
        f"  {told['clock']:.0f} s in all; a run {told['clock'] / runs * 1000:.0f} ms by the clock, "
        f"{told['processor'] / runs * 1000:.0f} ms of the driver's processor\n"
        "  " + ", ".join(f"{name} {taken:.1f} s" for name, taken in told["parts"].items()),
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 500, 1000, 2000, 5000])
    parser.add_argument("--settings", type=int, default=40, help="of each sweep; as many as runs: one seed each")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--one", action="store_true", help="be the driver")
    args = parser.parse_args()
    if args.one:
        conduct_one(args.runs[0], args.settings, args.workers)
        sys.exit()
    for runs in args.runs:
        words = [sys.executable, "-m", "benchmarks.scale", "--one", "--runs", str(runs)]
        words += ["--settings", str(min(args.settings, runs)), "--workers", str(args.workers)]
        if args.profile:
            words = ["py-spy", "record", "-o", str(args.profile), "--", *words]
        output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
        show(json.loads(next(line for line in output.splitlines() if line.startswith("{"))))
