"""The private names of MLflow, PyTorch and Python that this package uses, each with what it is for.

An upgrade can break these without notice: tests/gan_core/test_compat.py tries each, and pyproject.toml bounds
the versions. Tried with MLflow 3.17.2, PyTorch 2.15 and Python 3.11. To import this module imports neither
MLflow nor PyTorch.
"""

import atexit
import logging
import os
import sys
import threading
from typing import Any, NamedTuple, NoReturn

# MLflow's tags, as mlflow.utils.mlflow_tags has them.
LOGGED_IMAGES_TAG = "mlflow.loggedImages"  # shows the image slider of a run
GIT_COMMIT_TAG = "mlflow.source.git.commit"  # among `context_tags`

# The folder of the image slider, and the endings of its two files of a step: the image and a small copy.
SLIDES = "images"
SLIDE_ENDINGS = (".png", "+compressed.webp")


def quiet_mlflow() -> None:
    """Keep MLflow and its database library from writing to the terminal, where errors are one line."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It logs each database error with its traceback. The error is also raised, and its catcher says it.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def open_database(uri: str, artifact_root: str | None = None) -> Any:
    """MLflow's store on a database, whose schema is made if it is not there.

    The client cannot make a schema without its folder of artifacts.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(uri, artifact_root)


def context_tags() -> dict[str, str]:
    """MLflow's tags of who runs what, from which commit: its client does not add them by itself."""
    from mlflow.tracking.context.registry import resolve_tags

    return dict(resolve_tags())


def slide_stem(key: str, step: int, at: int, unique: str) -> str:
    """The path, without an ending, of a step of the image slider `key`; at: milliseconds since 1970.

    MLflow's own `log_image` takes a new name each time, so a step that is logged again has two images.
    """
    return f"{SLIDES}/{key}+step+{step}+timestamp+{at}+{unique}"


class BackwardKernels(NamedTuple):
    """Autograd's own kernels, with an `out` tensor. Each takes the gradient by a function's result.

    leaky_relu(gradient, result, slope, True, grad_input=out); tanh and sigmoid(gradient, result,
    grad_input=out); binary_cross_entropy(gradient, p, target, None, MEAN, grad_input=out).
    """

    leaky_relu: Any
    tanh: Any
    sigmoid: Any
    binary_cross_entropy: Any


MEAN = 1  # the kernel's number for reduction="mean"


def backward_kernels() -> BackwardKernels:
    """PyTorch's kernels of the derivatives, which have no public Python name."""
    from torch import ops

    aten = ops.aten
    return BackwardKernels(
        aten.leaky_relu_backward.grad_input,
        aten.tanh_backward.grad_input,
        aten.sigmoid_backward.grad_input,
        aten.binary_cross_entropy_backward.grad_input,
    )


def optimizer_functions() -> tuple[Any, Any]:
    """The steps of Adam and of RMSprop as functions.

    To make the first optimizer's object imports PyTorch's compiler: seconds, and 80 MB, in each worker.
    """
    from torch.optim.adam import adam
    from torch.optim.rmsprop import rmsprop

    return adam, rmsprop


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
