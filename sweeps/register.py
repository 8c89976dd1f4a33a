"""The best generator of a sweep as a registered model, which MLflow can serve without this project."""

import hashlib
import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Run
from mlflow.exceptions import MlflowException

from gan_core import metric_names as names
from gan_core.errors import UserError
from gan_core.networks import Generator, load_generator
from gan_core.tracking.store import children_of, redact
from gan_core.training import fixed_noise

CODE = Path(__file__).with_name("served_generator.py")
SERVED_WITH = ("mlflow", "numpy", "safetensors")  # the packages that CODE imports
SERVED = ("mlp", "dcgan")  # the networks that CODE computes
DIGEST_TAG = "generator.sha256"
MODEL_TYPE = "generator"
EXAMPLES = 2  # rows of z in the input example


class Registered(NamedTuple):
    """A version of a registered model, and the run that trained it."""

    name: str
    version: str
    run: Run
    of: int  # scored runs, of which this is the best
    new: bool

    @property
    def fd(self) -> float:
        """The run's Fréchet distance."""
        return float(self.run.data.metrics[names.FD])

    @property
    def health(self) -> str:
        """The run's health."""
        return str(self.run.data.tags.get(names.HEALTH, "ok"))


def register_best(client: MlflowClient, parent: Run, name: str) -> Registered:
    """Make the best generator of the sweep the newest version of the model `name`, in the sweep's own store.

    The best has the least Fréchet distance. A generator whose file, by its digest, is a version already is
    not registered again. Raises UserError if no run has finished with a score, MlflowException or OSError if
    the store fails.
    """
    scored = scored_runs(children_of(client, parent.info.experiment_id, parent.info.run_id))
    best = min(scored, key=lambda run: run.data.metrics[names.FD])
    # An environment variable can name another registry, but the model belongs beside its run.
    client = MlflowClient(client.tracking_uri, registry_uri=client.tracking_uri)
    with tempfile.TemporaryDirectory(prefix="gan-model-") as scratch:
        file = Path(client.download_artifacts(best.info.run_id, names.GENERATOR_FILE, scratch))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if there := client.search_model_versions(f"name = '{name}' AND tags.`{DIGEST_TAG}` = '{digest}'"):
            return Registered(name, str(there[0].version), best, len(scored), new=False)
        tags = {**_origin(parent, best), DIGEST_TAG: digest}
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
        description=f"G of {best.info.run_name}, the least Fréchet distance of sweep {parent.info.run_name}.",
        model_id=model_id,
    )
    return Registered(name, str(made.version), best, len(scored), new=True)


def serve_command(uri: str, registered: Registered) -> str:
    """The command that serves the model in an environment with the packages SERVED_WITH."""
    model = f"models:/{registered.name}/{registered.version}"
    address = f"MLFLOW_TRACKING_URI={quote(redact(uri))}"
    return f"{address} mlflow models serve -m {model} --env-manager local --port 5001"


def scored_runs(runs: Sequence[Run]) -> list[Run]:
    """The finished runs with a Fréchet distance. Raises UserError if there are none or they do not compare."""
    finished = [run for run in runs if run.info.status == "FINISHED" and names.DROPPED not in run.data.tags]
    scored = [run for run in finished if math.isfinite(run.data.metrics.get(names.FD, math.nan))]
    if not scored:
        lack = f"no finished run has a {names.FD}" if finished else "no run of the sweep has finished"
        raise UserError(f"{lack}, so none is the best")
    by = {(run.data.tags.get(names.CLASSIFIER), run.data.tags.get(names.EVALUATION_IMAGES)) for run in scored}
    if len(by) > 1:
        raise UserError(
            "the sweep's runs were scored with different classifiers or numbers of images, and such scores "
            "cannot be compared"
        )
    return scored


def _origin(parent: Run, run: Run) -> dict[str, str]:
    """The tags that say which run of which sweep trained a generator."""
    tags = run.data.tags
    kept = (names.CLASSIFIER, names.EVALUATION_IMAGES, names.HEALTH)
    return {
        "sweep.name": parent.info.run_name,
        "sweep.run_id": parent.info.run_id,
        "run.name": run.info.run_name,
        "run.id": run.info.run_id,
        names.CONFIG_HASH: tags.get(names.CONFIG_HASH, ""),
        names.FD: repr(run.data.metrics[names.FD]),
        **{name: tags[name] for name in kept if name in tags},
    }


def _log_model(client: MlflowClient, run: Run, file: Path, folder: Path, tags: dict[str, str]) -> str:
    """Log the generator as a model that the run has made; the model's id.

    The model is not among the run's artifacts, so it stays when the run is deleted.
    """
    from mlflow.models import Model

    G = load_generator(file)
    if G.network not in SERVED:
        raise UserError(
            f"only generators of the networks {' and '.join(SERVED)} can be registered (served_generator.py computes "
            f"these), {run.info.run_name} has {G.network}"
        )
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
        save_model(file, G, folder, about)
        client.log_model_artifacts(model_id, str(folder))
        client.finalize_logged_model(model_id, "READY")
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step=0)])
    except BaseException:
        with suppress(MlflowException):
            client.finalize_logged_model(model_id, "FAILED")
        raise
    return model_id


def save_model(file: Path, G: Generator, folder: Path, about: object) -> None:
    """Write the generator as an MLflow model to `folder`: weights, the code to read them, requirements."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    z = fixed_noise(G.z_dim)[:EXAMPLES]
    mlflow.pyfunc.save_model(
        path=folder,
        python_model=CODE,
        artifacts={"generator": str(file)},
        signature=infer_signature(z.numpy(), G(z).detach().numpy()),
        input_example=z.numpy(),
        pip_requirements=[f"{package}=={version(package)}" for package in SERVED_WITH],
        metadata={"input": "z, standard normal", "output": "images, -1 (black) to 1 (white)"},
        mlflow_model=about,
    )
