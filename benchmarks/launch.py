"""How much longer a launch takes with many finished runs in the store: `python benchmarks/launch.py`.

A launch is all from the command's start to the first training step. It is timed in an empty store and in one
of 10,000 finished runs, in turn. The runs are those of a real sweep, copied in SQL: sweeps of its own
settings, so that each could be the one that it goes on with. Ray's start alone takes a second more or less
from one time to the next; so --dry-run, which asks the store the same and starts no Ray, is timed as well.
"""

import argparse
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from gan_core.tracking.store import prepare_store

RUN_GRID = Path(__file__).parent.parent / "sweeps" / "run_grid.py"
SWEEP = ("--dataset", "digits", "--evaluate-every", "0", "--workers", "2")
HOUR = 3_600_000  # milliseconds, from one copy to the one before it


def command(store: Path, *words: str) -> float:
    """Seconds that the command takes."""
    began = time.monotonic()
    uri = f"sqlite:///{store}"
    subprocess.run(
        [sys.executable, RUN_GRID, *SWEEP, "--tracking-uri", uri, *words],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - began


def launch(store: Path, *words: str) -> float:
    """Seconds from the command's start to the beginning of the first epoch that it trains."""
    began = time.time()
    command(store, *words)
    with closing(sqlite3.connect(store)) as database:
        # An epoch is logged at its end.
        (first,) = database.execute(
            "SELECT min(timestamp / 1000.0 - value) FROM metrics "
            "WHERE key = 'time/epoch_seconds' AND timestamp / 1000.0 > ?",
            (began,),
        ).fetchone()
    return float(first - began)


def fill(store: Path, runs: int) -> None:
    """Copy the one sweep of the store until it has so many runs."""
    with closing(sqlite3.connect(store)) as database:
        there = [run_id for (run_id,) in database.execute("SELECT run_uuid FROM runs")]
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {table: [row[1] for row in database.execute(f"PRAGMA table_info({table})")] for table in tables}
        database.execute("CREATE TEMP TABLE renamed (old TEXT PRIMARY KEY, new TEXT)")
        for number in range(1, runs // len(there)):
            database.execute("DELETE FROM renamed")
            database.executemany("INSERT INTO renamed VALUES (?, ?)", [(run_id, uuid4().hex) for run_id in there])
            for table, names in columns.items():
                if "run_uuid" in names:
                    _copy(database, table, names, number)
        database.commit()


def _copy(database: sqlite3.Connection, table: str, names: list[str], number: int) -> None:
    changed = {
        "run_uuid": "renamed.new",
        "value": "coalesce((SELECT new FROM renamed WHERE old = it.value), it.value)",  # a child's parent
        "start_time": f"it.start_time - {number * HOUR}",
        "end_time": f"it.end_time - {number * HOUR}",
    }
    values = ", ".join(changed.get(name, f"it.{name}") for name in names)
    database.execute(
        f"INSERT INTO {table} ({', '.join(names)}) "
        f"SELECT {values} FROM renamed CROSS JOIN {table} it ON it.run_uuid = renamed.old"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20, help="of each of these runs")
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        full, empty = Path(scratch) / "full" / "mlflow.db", Path(scratch) / "empty" / "mlflow.db"
        launch(full, "--epochs", str(args.epochs), "--seeds", "0")
        fill(full, args.runs)
        with closing(sqlite3.connect(full)) as database:
            ((runs,), (points,)) = (
                database.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("runs", "metrics")
            )
        print(f"{runs:,} runs, {points:,} points, {full.stat().st_size / 1e6:.0f} MB", flush=True)
        os.sync()  # the copies are not to be written while anything is timed
        taken: dict[tuple[str, str], list[float]] = {}
        for number in range(args.rounds):
            shutil.rmtree(empty.parent, ignore_errors=True)
            prepare_store(f"sqlite:///{empty}", "gan-grid")
            for kind, store in (("empty", empty), ("full", full))[:: 1 if number % 2 else -1]:
                # Another seed each time, else there would be nothing left to train.
                words = ("--optimizers", "sgd", "--z-dims", "20", "--seeds", str(1000 + number))
                words = (*words, "--epochs", str(args.epochs))
                for what, seconds in (
                    ("dry run", command(store, *words, "--dry-run")),
                    ("launch", launch(store, *words)),
                ):
                    taken.setdefault((what, kind), []).append(seconds)
                    print(f"round {number + 1}, {what}, {kind}: {seconds:.2f} s", flush=True)
    for what in ("dry run", "launch"):
        pairs = zip(taken[what, "full"], taken[what, "empty"], strict=True)
        longer = [full - empty for full, empty in pairs]
        for kind, times in (*((kind, taken[what, kind]) for kind in ("empty", "full")), ("longer", longer)):
            low, middle, high = statistics.quantiles(times, n=4)
            print(f"{what}, {kind}: median {middle:.2f} s, quartiles {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
