"""Imported by Ray's workers while they wait for their first run: all that a run needs."""

from gan_core.garbage import nothing_but_imports

with nothing_but_imports():
    import mlflow.store.tracking.sqlalchemy_store

    import sweeps.trial

__all__ = ["mlflow", "sweeps"]
