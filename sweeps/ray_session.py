"""Ray, started or joined, and ended: its workers ready early, quiet, and none of them left behind."""

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gan_core.errors import UserError
from sweeps.cluster import CODE, last_line
from sweeps.compat import end_half_started_ray, leave_out_rays_servers

STARTS = 3  # so often Ray may take too long to start, on a busy machine
NOT_SENT = ("__pycache__", "*.pyc")
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in what `ray job submit` starts
PRELOAD = "RAY_preload_python_modules"  # Ray writes the variables of its own settings so


def set_ray_environment(address: str | None) -> None:
    """Set what Ray reads from the environment, in part when it is imported: to be called before that."""
    os.environ.update(
        RAY_AIR_NEW_OUTPUT="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        RAY_USAGE_STATS_ENABLED="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_MAX_PENDING_TRIALS_PG="200",  # workers asked for at once; of a searcher's trials it would be one
        TUNE_DISABLE_SIGINT_HANDLER="1",  # Ctrl-C ends the grid at once, by an exception; Tune would wait
        TUNE_PRINT_ALL_TRIAL_ERRORS="0",
    )
    if address is None:
        # Whoever else is on this machine gets no say in the workers. For a cluster, its own user knows.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # Workers import what a run needs while the driver is still busy.
        os.environ[PRELOAD] = "sweeps.worker"
        # Where other work keeps the machine busy, Ray's own processes get more time before they are taken for dead.
        os.environ.setdefault("RAY_worker_register_timeout_seconds", "600")
        os.environ.setdefault("RAY_health_check_failure_threshold", "60")
        # Where memory is short, the system kills the largest process. Ray would kill all workers, whoever has taken
        # it, and Tune does not retry what Ray has killed.
        os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
        # Each run has threads of its own, and each thread would keep memory of its own: with these, a worker stays
        # as large as it is after its first run (docs/performance.md).
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")
    elif Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").is_file():
        # A cluster that one starts asks for this machine's token, and a client sends it only if it is told to.
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def ray_session(address: str | None, workers: int | None) -> Iterator[None]:
    """Ray, quietly: started on this machine with a slot for each worker, or the cluster at `address` joined.

    What was started is ended with all its workers, however the block is left. `set_ray_environment` comes
    first. Raises UserError if Ray does not start, or the cluster does not let us in.
    """
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    scratch = Path(tempfile.mkdtemp(prefix="gan-ray-", dir="/tmp"))
    try:
        if address is None:
            _start(num_cpus=workers, _temp_dir=str(scratch), **quiet)
        else:
            join(address, **quiet)
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set one that aborts the process
        yield
    finally:
        with uninterrupted():
            ray.shutdown()
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """The end of a grid takes seconds, and a second Ctrl-C there must not leave runs that look alive."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(**options: Any) -> None:
    """Start Ray on this machine, again where that took too long. Raises UserError if it does not start."""
    import ray

    leave_out_rays_servers()
    for left in reversed(range(STARTS)):
        try:
            # "local", even where RAY_ADDRESS names a cluster: that is what --address is for.
            ray.init("local", include_dashboard=False, **options)
        except Exception as error:  # Ray raises a plain one where its processes are not up within 30 seconds
            end_half_started_ray(error)
            reason = last_line(error).rstrip(".")
            if not left or isinstance(error, ValueError):  # what Ray refuses stays refused
                busy = "If this machine is busy, try again when it is not"
                raise UserError(f"Ray did not start: {reason}. {busy}") from error
            print(f"Ray did not start: {reason}. Trying again", file=sys.stderr)
        else:
            return


def join(address: str, **quiet: Any) -> None:
    """Join the cluster, and bring it this program's code. Raises UserError if it does not let us in."""
    import ray
    from ray.exceptions import RayError

    packages = Path(__file__).resolve().parent.parent
    sent: dict[str, Any] = {
        "py_modules": [str(packages / name) for name in CODE],
        "excludes": list(NOT_SENT),
    }
    try:
        with tempfile.TemporaryDirectory(prefix="gan-sent-") as empty:
            if "working_dir" not in json.loads(os.environ.get(JOB, "{}")).get("runtime_env", {}):
                # Without a folder of its own a worker looks for modules in the folder where this command was
                # started, as it is on that node, before it looks into what is sent.
                (Path(empty) / "README").write_text("The folder in which gan-grid's workers run.\n")
                sent["working_dir"] = empty
            with _silenced():
                ray.init(address, runtime_env=sent, **quiet)
    except (RayError, ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"cannot use the Ray cluster at {address}: {last_line(error)}. Ray has to run there, and to know the "
            "token of this machine (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)"
        ) from error


@contextmanager
def _silenced() -> Iterator[None]:
    """Drop what is written to the standard error meanwhile.

    That a cluster does not let us in, which is in the exception, Ray's native code says there twenty times
    more; its log level does not reach that code, and neither does `sys.stderr`.
    """
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
