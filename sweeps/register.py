"""The best generator of a sweep as a registered model, which MLflow serves without this project."""

import hashlib
import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from mlflow.entities import LoggedModelOutput, Run
from mlflow.exceptions import MlflowException

from gan_core.errors import UserError
from gan_core.metric_names import GENERATOR_FILE
from gan_core.networks import SIDE, load_generator
from gan_core.tracking.queries import MlflowClient
from gan_core.tracking.store import redact
from gan_core.training import fixed_noise
from sweeps.comparison.records import FD
from sweeps.runs import Sweep, children

CODE = Path(__file__).with_name("served_generator.py")
SERVED_WITH = ("mlflow", "numpy", "safetensors")  # all that CODE imports
DIGEST_TAG = "generator.sha256"
MODEL_TYPE = "generator"
EXAMPLES = 2  # rows of z in the input example


class Registered(NamedTuple):
    """A version of a registered model, and where it comes from."""

    name: str
    version: str
    run: Run
    of: int  # runs that it is the best of
    new: bool

    @property
    def uri(self) -> str:
        """How MLflow names it."""
        return f"models:/{self.name}/{self.version}"

    def __str__(self) -> str:
        """In words, for the terminal."""
        run, fd = self.run.info.run_name, self.run.data.metrics[FD]
        runs = f"{self.of} finished runs" if self.of > 1 else "the one finished run"
        which = f"the generator of {run}, of least fd ({fd:.1f}) among {runs}"
        health = self.run.data.tags.get("health", "ok")
        caution = "" if health == "ok" else f"; mind its health: {health}"
        there = "" if self.new else ", there already"
        return f"{self.name} version {self.version}{there}: {which}{caution}"


def register_best(client: MlflowClient, sweep: Sweep, name: str) -> Registered:
    """Make the best generator of the sweep the newest version of the model `name`, in the sweep's own store.

    A generator that is one of its versions already, by the digest of its file, is not registered again.
    Raises UserError if no run has a generator and a score, MlflowException or OSError if the store fails.
    """
    scored = scored_runs(children(client, sweep))
    best = min(scored, key=lambda run: run.data.metrics[FD])
    # The registry's own address could be set apart by an environment variable: the model goes beside its run.
    client = MlflowClient(client.tracking_uri, registry_uri=client.tracking_uri)
    with tempfile.TemporaryDirectory(prefix="gan-model-") as scratch:
        file = Path(client.download_artifacts(best.info.run_id, GENERATOR_FILE, scratch))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        for there in client.search_model_versions(f"name = '{name}'"):
            if there.tags.get(DIGEST_TAG) == digest:
                return Registered(name, str(there.version), best, len(scored), new=False)
        tags = {**_origin(sweep, best), DIGEST_TAG: digest}
        model_id = _log_model(client, best, file, Path(scratch) / "model", tags)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name,
        client.get_logged_model(model_id).artifact_location,
        best.info.run_id,
        tags,
        description=f"G of {best.info.run_name}, the least fd of sweep {sweep.name}.",
        model_id=model_id,
    )
    return Registered(name, str(made.version), best, len(scored), new=True)


def serve_command(uri: str, registered: Registered) -> str:
    """What to type to serve it, in an environment that has SERVED_WITH."""
    address = f"MLFLOW_TRACKING_URI={quote(redact(uri))}"
    return f"{address} mlflow models serve -m {registered.uri} --env-manager local --port 5001"


def scored_runs(runs: Sequence[Run]) -> list[Run]:
    """The finished runs whose generator has a Fréchet distance. Raises UserError if it cannot rank them."""
    finished = [run for run in runs if run.info.status == "FINISHED"]
    scored = [run for run in finished if math.isfinite(run.data.metrics.get(FD, math.nan))]
    if not scored:
        lack = "no run of the sweep has finished" if not finished else f"no finished run has a {FD}"
        raise UserError(f"{lack}, so none is the best")
    classifiers = {
        (run.data.tags.get("quality.classifier"), run.data.tags.get("quality.n")) for run in scored
    }
    if len(classifiers) > 1:
        raise UserError("its runs were scored by different classifiers, and such scores cannot be compared")
    return scored


def _origin(sweep: Sweep, run: Run) -> dict[str, str]:
    """The tags that lead back to where a generator comes from."""
    tags = run.data.tags
    return {
        "sweep.name": sweep.name,
        "sweep.run_id": sweep.parent_id,
        "run.name": run.info.run_name,
        "run.id": run.info.run_id,
        "config_hash": tags.get("config_hash", ""),
        FD: repr(run.data.metrics[FD]),
        **{name: tags[name] for name in ("quality.classifier", "quality.n", "health") if name in tags},
    }


def _log_model(client: MlflowClient, run: Run, file: Path, folder: Path, tags: dict[str, str]) -> str:
    """Log the generator as a model that the run has made; the model's id.

    The model is no part of the run's own files: it outlives the run.
    """
    from mlflow.models import Model

    z_dim = load_generator(file).z_dim
    logged = client.create_logged_model(
        run.info.experiment_id,
        f"{MODEL_TYPE}-{run.info.run_name}",
        run.info.run_id,
        tags=tags,
        params=dict(run.data.params),
        model_type=MODEL_TYPE,
    )
    model_id = str(logged.model_id)
    try:
        about = Model(
            artifact_path=logged.artifact_location,
            run_id=run.info.run_id,
            model_uuid=model_id,
            model_id=model_id,
        )
        save_model(file, z_dim, folder, about)
        client.log_model_artifacts(model_id, str(folder))
        client.finalize_logged_model(model_id, "READY")
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step=0)])
    except BaseException:
        with suppress(MlflowException):
            client.finalize_logged_model(model_id, "FAILED")
        raise
    return model_id


def save_model(file: Path, z_dim: int, folder: Path, about: object = None) -> None:
    """Write the generator as an MLflow model to `folder`: weights, code to read them, requirements."""
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    number = np.dtype(np.float32)
    mlflow.pyfunc.save_model(
        path=folder,
        python_model=CODE,
        artifacts={"generator": str(file)},
        signature=ModelSignature(
            Schema([TensorSpec(number, (-1, z_dim))]),
            Schema([TensorSpec(number, (-1, 1, SIDE, SIDE))]),
        ),
        input_example=fixed_noise(z_dim)[:EXAMPLES].numpy(),
        pip_requirements=[f"{package}=={version(package)}" for package in SERVED_WITH],
        metadata={"input": "z, standard normal", "output": "images, -1 (black) to 1 (white)"},
        mlflow_model=about,
    )
