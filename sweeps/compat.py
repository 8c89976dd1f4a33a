"""The private names of Ray that this project leans on, each with what it is for. Tried with Ray 2.60."""

import os


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
