"""The private names of MLflow and Python that this package uses, each with what it is for.

An upgrade can break these without notice: tests/gan_core/test_compat.py tries each, and pyproject.toml bounds
the versions. Tried with MLflow 3.17.2 and Python 3.11. To import this module does not import MLflow.
"""

import atexit
import os
import sys
import threading
from functools import cache
from typing import Any, NoReturn

# MLflow's tags, as mlflow.utils.mlflow_tags has them.
LOGGED_IMAGES_TAG = "mlflow.loggedImages"  # shows the image slider of a run
GIT_COMMIT_TAG = "mlflow.source.git.commit"  # among `context_tags`

# The folder of the image slider, and the endings of its two files of a step: the image and a small copy.
SLIDES = "images"
SLIDE_ENDINGS = (".png", "+compressed.webp")


def open_database(uri: str, artifact_root: str | None = None) -> Any:
    """MLflow's store on a database, whose schema is made if it is not there.

    The client cannot do two things: make a schema without its folder of artifacts, and read a metric's
    history of many runs at once (`get_metric_history_bulk`).
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(uri, artifact_root)


@cache
def context_tags() -> dict[str, str]:
    """MLflow's tags of who runs what, from which commit; looked up once. Its client does not add them by itself."""
    from mlflow.tracking.context.registry import resolve_tags

    return dict(resolve_tags())


def slide_stem(key: str, step: int, at: int, unique: str) -> str:
    """The path, without an ending, of a step of the image slider `key`; at: milliseconds since 1970.

    MLflow's own `log_image` takes a new name each time, so a step that is logged again has two images.
    """
    return f"{SLIDES}/{key}+step+{step}+timestamp+{at}+{unique}"


def end_process(code: int) -> NoReturn:
    """End the process as Python does, but without freeing its objects.

    Freeing all of PyTorch, Ray and MLflow takes 3 to 5 seconds. To freeze the objects instead, so that they
    are not looked at (`gc.freeze`), makes a library in PyTorch (nanobind in triton) report each of its own
    as leaked, in twenty lines on stderr.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that are not daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a full disk, a closed pipe, a closed stream
            code = code or 1
    os._exit(code)
