"""Ray, started and ended: its workers ready early, quiet, and none of them left behind."""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
        os.environ[PRELOAD] = "sweeps.preload"


@contextmanager
def ray_session(address: str | None, workers: int | None) -> Iterator[None]:
    """Ray, quietly: started on this machine with a slot for each worker, or the cluster at `address` joined.

    What was started is ended with all its workers, however the block is left. `set_ray_environment` comes
    first. Raises UserError if the cluster does not let us in.
    """
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    scratch = Path(tempfile.mkdtemp(prefix="gan-ray-", dir="/tmp"))
    try:
        if address is None:
            # "local", even where RAY_ADDRESS names a cluster: that is what --address is for.
            ray.init("local", num_cpus=workers, include_dashboard=False, _temp_dir=str(scratch), **quiet)
        else:
            from sweeps.cluster import join

            join(address, **quiet)
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set one that aborts the process
        yield
    finally:
        with uninterrupted():
            ray.shutdown()
            shutil.rmtree(scratch, ignore_errors=True)


def let_tune_use_waiting_workers() -> None:
    """Tune asks for workers with variables of its own in their environment, which Ray would start afresh.

    Its own is PL_DISABLE_FORK, for PyTorch Lightning; ours the workers have from Ray itself. Should another
    version of Tune ask for more, the first training step comes some seconds later, and that is all. To be
    called when no other thread is importing Tune: of two that import it at once one can meet half of it.
    """
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS.clear()
    os.environ.pop("RAY_CHDIR_TO_TRIAL_DIR", None)


def keep_keys_from_tune() -> None:
    """Tune puts the keys of AWS into what Ray shows of a worker; ours reach the workers as an object."""
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE -= {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")
    }


@contextmanager
def uninterrupted() -> Iterator[None]:
    """The end of a grid takes seconds, and a second Ctrl-C there must not leave runs that look alive."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
