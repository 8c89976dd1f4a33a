"""A tracking store under many workers that log: `python -m benchmarks.server`.

--workers simulated workers in --processes processes: the real MlflowTracker of each is given the events of a
run at --speed times the pace at which a worker's come (an epoch of the default network takes 1.8 s), runs of
--epochs epochs, --runs of them one after another. Stores, in turn: SQLite, written directly; an `mlflow
server` on PostgreSQL as it comes; the same with larger pools of connections and without MLflow's jobs. Needs
PostgreSQL's programs.

Says for each: rows a second, what a call takes, calls that had to be repeated, runs that did not end
FINISHED, rows that are not in the database (counted in SQL), and the server's processes, memory, processor,
and the errors in its log.
"""

import argparse
import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import sqlalchemy
import torch
from mlflow import MlflowClient

from gan_core.config import RunConfig
from gan_core.data import ImageSet
from gan_core.errors import TrackingError
from gan_core.evaluation.scores import SCORES
from gan_core.events import Baselines, Diagnosis, EpochEnd, Evaluated, Event, Samples, Trained
from gan_core.networks import build_models
from gan_core.tracking import tracker as tracking
from gan_core.tracking.store import create_run, prepare_store
from gan_core.tracking.tracker import WRITE_INTERVAL, MlflowTracker
from gan_core.training import sample_epochs
from tests.servers import mlflow_server, postgres

EPOCH = 1.8  # seconds, as a worker of two on two cores takes
ITERATIONS = 938
EVALUATE_EVERY = 10
CALLS = ("log_batch", "log_artifact", "log_inputs", "update_run", "set_terminated", "get_run")
ERROR = re.compile(r"^[\w.]+(?:Error|Violation|Exception)\b.{0,90}", re.MULTILINE)
Ask = Callable[[str], list[Any]]
SET = {
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "10",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "10",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


class Watch:
    """What each call to the store took, and how many failed."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in CALLS}
        self.failed: Counter[str] = Counter()

    def client(self, uri: str) -> MlflowClient:
        """A client whose calls are watched."""
        client = MlflowClient(uri)
        for name in CALLS:
            setattr(client, name, self._watched(name, getattr(client, name)))
        return client

    def _watched(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def watched(*args: Any, **kwargs: Any) -> object:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            except Exception as error:
                # Of what MLflow says of a request, the cause comes last.
                text = " ".join(str(error).split())
                self.failed[f"{name}: {text[:60]} … {text[-120:]}"] += 1
                raise
            finally:
                self.seconds[name].append(time.perf_counter() - began)

        return watched


def events(config: RunConfig) -> Iterator[Event]:
    """Those of one run, as the trainer and its assessment would give them."""
    chance = np.random.default_rng(config.seed)
    G = build_models(config)[0]
    scores = dict.fromkeys(SCORES, 1.0)
    sheets = sample_epochs(config.epochs)
    pixels = torch.from_numpy(chance.integers(0, 255, (64, 1, 28, 28), dtype=np.uint8))
    losses = chance.uniform(0.5, 5, (4, ITERATIONS)).astype(np.float32)
    yield Baselines("mnist", "ab" * 32, 0.99, 10_000, scores, scores)
    yield Samples(0, pixels)
    for epoch in range(1, config.epochs + 1):
        yield EpochEnd(epoch, *(losses + np.float32(epoch)), images=60_000, seconds=EPOCH)
        if epoch in sheets:
            yield Samples(epoch, pixels)
        if epoch % EVALUATE_EVERY == 0:
            yield Evaluated(epoch, scores, np.full(10, 0.1), 1.0)
    yield Diagnosis("ok", "", config.epochs)
    yield Trained(G)


def work(args: argparse.Namespace) -> None:
    """So many workers as threads; says as JSON what they gave, and what became of it."""
    watch = Watch()
    tracking.MlflowClient = watch.client  # type: ignore[misc, assignment]
    print("ready", flush=True)
    sys.stdin.read()  # until all processes are
    with ThreadPoolExecutor(args.workers) as threads:
        numbers = range(args.first, args.first + args.workers)
        done = list(threads.map(lambda number: _one(number, args), numbers))
    told = {
        "rows": sum(rows for rows, _, _ in done),
        "ended": sum((ended for _, ended, _ in done), Counter()),
        "behind": max(behind for _, _, behind in done),
        "seconds": watch.seconds,
        "failed": watch.failed,
    }
    print(json.dumps(told))


def _one(number: int, args: argparse.Namespace) -> tuple[int, Counter[str], float]:
    """One worker, run after run: the rows that it gave, how its runs ended, the longest it was behind."""
    client = MlflowClient(args.uri)
    data = ImageSet("mnist", torch.zeros(1, 1, 28, 28, dtype=torch.uint8), "digest", "source")
    rows, ended, behind = 0, Counter[str](), 0.0
    time.sleep(random.uniform(0, WRITE_INTERVAL))  # workers do not begin all at once
    for run in range(args.runs):
        config = RunConfig(epochs=args.epochs, seed=number * 1000 + run)
        run_id = create_run(client, args.experiment, f"worker {number}, {run}", config)
        tracker = MlflowTracker(args.uri, run_id, config, data, "benchmark")
        try:
            for event in events(config):
                if isinstance(event, EpochEnd):
                    time.sleep(EPOCH / args.speed)
                if isinstance(event, EpochEnd | Evaluated):
                    rows += len(event.metrics())
                tracker.log(event, time.time_ns() // 1_000_000)
                behind = max(behind, tracker.behind())
            tracker.close("FINISHED")
            ended["FINISHED"] += 1
        except TrackingError as error:
            ended[str(error)[:200]] += 1
    return rows, ended, behind


def load(uri: str, servers: Mapping[str, int], ask: Ask, args: argparse.Namespace) -> None:
    """Put the load on the store at `uri`, and say how it took it. `servers`: process ids, by name."""
    experiment = prepare_store(uri, "load")
    each, more = divmod(args.workers, args.processes)
    first, workers = 0, []
    for number in range(args.processes):
        here = each + (number < more)
        words = [
            sys.executable,
            "-m",
            "benchmarks.server",
            "--work",
            "--uri",
            uri,
            "--experiment",
            experiment,
        ]
        for name, value in (("workers", here), ("first", first), ("speed", args.speed)):
            words += [f"--{name}", str(value)]
        words += ["--epochs", str(args.epochs), "--runs", str(args.runs)]
        workers.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        first += here
    for worker in workers:
        worker.stdout.readline()  # it has imported all that it needs
    began = time.monotonic()
    with Footprint(servers) as footprint:
        for worker in workers:
            worker.stdin.close()
        told = [json.loads(worker.stdout.read()) for worker in workers]
    wall = time.monotonic() - began
    rows, ended = sum(one["rows"] for one in told), sum((Counter(one["ended"]) for one in told), Counter())
    ((there,),) = ask("SELECT count(*) FROM metrics")
    statuses = dict(ask("SELECT status, count(*) FROM runs GROUP BY status"))
    calls = {name: sorted(s for one in told for s in one["seconds"][name]) for name in CALLS}
    every = sum(map(len, calls.values()))
    print(f"  rows: {rows:,} given, {there:,} in the database, {rows - there:,} lost; {rows / wall:,.0f} a second")
    print(f"  runs: {dict(ended)}; in the database {statuses}; {wall:.0f} s")
    print(f"  calls: {every:,}, {every / wall:.0f} a second")
    for name, taken in calls.items():
        if taken:
            p50, p99 = (taken[int(share * (len(taken) - 1))] * 1000 for share in (0.5, 0.99))
            print(f"    {name:<15} {len(taken):>6,}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, most {taken[-1]:.1f} s")
    failed = sum((Counter(one["failed"]) for one in told), Counter())
    print(f"  calls repeated: {sum(failed.values())} {dict(failed.most_common(3)) if failed else ''}")
    print(f"  the longest that a worker's record was behind: {max(one['behind'] for one in told):.0f} s")
    print(f"  {footprint}", flush=True)


class Footprint:
    """What servers had at most, looked at each second: processes, memory; and their processor time."""

    def __init__(self, servers: Mapping[str, int]) -> None:
        self._servers = servers
        self._most: dict[str, tuple[int, float]] = {}
        self._processor: dict[tuple[str, int], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Footprint":
        self._look_once()
        self._before = dict(self._processor)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def __str__(self) -> str:
        lines = []
        for name, (processes, memory) in self._most.items():
            spent = sum(s - self._before.get(key, 0) for key, s in self._processor.items() if key[0] == name)
            lines.append(f"{name}: {processes} processes, {memory / 2**20:,.0f} MiB, {spent:.0f} s of the processor")
        return "; ".join(lines) or "no server"

    def _look(self) -> None:
        while not self._over.wait(1):
            self._look_once()

    def _look_once(self) -> None:
        for name, pid in self._servers.items():
            count, memory = 0, 0.0
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    self._processor[name, process.pid] = times.user + times.system
                    memory += process.memory_full_info().pss  # what it shares is counted once
                    count += 1
            most = self._most.get(name, (0, 0.0))
            self._most[name] = (max(count, most[0]), max(memory, most[1]))


def sqlite(args: argparse.Namespace, folder: Path) -> None:
    file = folder / "mlflow.db"

    def ask(query: str) -> list[Any]:
        with closing(sqlite3.connect(file)) as database:
            return database.execute(query).fetchall()

    print("SQLite, written directly", flush=True)
    load(f"sqlite:///{file}", {}, ask, args)


def served(args: argparse.Namespace, folder: Path, is_set: bool) -> None:
    folder.mkdir()
    with postgres() as database:
        engine = sqlalchemy.create_engine(database.uri)

        def ask(query: str) -> list[Any]:
            with engine.connect() as connection:
                return list(connection.execute(sqlalchemy.text(query)))

        options, settings = (["--workers", str(args.server_workers)], SET) if is_set else ([], {})
        words = " ".join([*map("=".join, settings.items()), *options])
        print(f"mlflow server on PostgreSQL, {words or 'as it comes'}", flush=True)
        with mlflow_server(database.uri, folder, options, **settings) as server:
            load(server.uri, {"MLflow": server.process.pid, "PostgreSQL": database.process.pid}, ask, args)
            ((size,),) = ask("SELECT pg_total_relation_size('metrics')")
            print(f"  the metrics table with its indices: {size / 2**20:,.0f} MiB")
            errors = Counter(ERROR.findall(server.log.read_text(errors="replace")))
            print(f"  errors in the server's log: {dict(errors.most_common(3)) or 'none'}", flush=True)
        engine.dispose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stores", nargs="+", default=["sqlite", "server", "set"])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--speed", type=float, default=20)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--runs", type=int, default=1, help="of a worker, one after another")
    parser.add_argument("--server-workers", type=int, default=4)
    parser.add_argument("--work", action="store_true", help="be one of the processes")
    for hidden in ("--uri", "--experiment"):
        parser.add_argument(hidden)
    parser.add_argument("--first", type=int)
    args = parser.parse_args()
    # As Ctrl-C: the servers that were started are to end as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if args.work:
        work(args)
        sys.exit()
    with tempfile.TemporaryDirectory(prefix="gan-load-") as scratch:
        for store in args.stores:
            if store == "sqlite":
                sqlite(args, Path(scratch))
            else:
                served(args, Path(scratch) / store, is_set=store == "set")
