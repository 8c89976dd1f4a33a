"""The tracking store: its address checked, its schema and experiment made; runs in it found, created and ended.

MLflow takes a second to import and is imported only where it is needed: most mistakes are found without it.
"""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus, urlsplit

from filelock import FileLock

from gan_core.compat import context_tags, open_database
from gan_core.config import RunConfig
from gan_core.errors import UserError
from gan_core.locks import liveness
from gan_core.metric_names import CONFIG_HASH, FAILURE_REASON, LOCK, PARENT
from gan_core.storage import StoragePath, expanded, project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DATABASES = ("postgresql", "mysql", "mssql")
# MLflow's settings while it is found out whether a server answers; in a run it is given more time.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # seconds
SECRET = re.compile(r"(\w*(?:pass|pwd|token|secret)\w*)=([^&]*)", re.IGNORECASE)  # in a URI's query
UNFINISHED = ("SCHEDULED", "RUNNING")
GONE = "interrupted: its process is gone"


def resolve_uri(given: str | None) -> str:
    """The store's absolute URI: `given`, else MLFLOW_TRACKING_URI, else mlflow.db beside pyproject.toml.

    A path names an SQLite file. A relative one is made absolute here, because workers have another current
    folder. Raises UserError for a kind of store that cannot be used.
    """
    text = given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"
    try:
        urlsplit(text)
    except ValueError as error:
        raise UserError(f"the store's address is not valid: {error}") from error
    scheme = text.split(":", 1)[0].split("+")[0] if ":" in text else ""
    if scheme in ("http", "https", *DATABASES):
        return text
    if scheme == "sqlite":
        path = text.partition(":///")[2].partition("?")[0]
        if path in ("", ":memory:"):
            raise UserError(f"the store {text} names no file; give sqlite:////absolute/path.db")
    elif scheme in ("", "file") or (Path(text).suffix == ".db" and "://" not in text):
        path = unquote(text.removeprefix("file://").removeprefix("file:"))
        if not Path(path).suffix or os.path.isdir(path):  # noqa: PTH112 (no error for a name that is too long)
            raise UserError(
                f"the store {text} is a folder; MLflow keeps runs in a database: give a file such as "
                "sqlite:///mlflow.db, or a server's http:// address"
            )
    else:
        raise UserError(
            f"the store {redact(text)} is of no known kind; give sqlite:///FILE, http(s)://HOST:PORT "
            f"or {', '.join(name + '://' for name in DATABASES)}"
        )
    return f"sqlite:///{expanded(Path(path))}"


def redact(uri: str) -> str:
    """The URI with its passwords replaced, to be shown or logged."""
    password = urlsplit(uri).password
    shown = uri.replace(f":{password}@", ":***@", 1) if password else uri
    address, mark, query = shown.partition("?")
    return address + mark + SECRET.sub(r"\1=***", query)


def brief(error: BaseException, uri: str) -> str:
    """The error's first line, shortened, with the URI's passwords replaced, since it may quote the URI."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    parts = urlsplit(uri)
    for word in (parts.password or "", *(found[2] for found in SECRET.finditer(parts.query))):
        for secret in {word, unquote(word), unquote_plus(word)} - {""}:
            text = text.replace(secret, "***")
    return text[:300]


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store, of which `resolve_uri` gave the URI; None for another kind of store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def is_new(uri: str) -> bool:
    """Whether the store is an SQLite file that has yet to be made. Raises OSError."""
    file = sqlite_file(uri)
    return file is not None and (not file.exists() or (file.is_file() and file.stat().st_size == 0))


def check_store(uri: str) -> None:
    """Raise UserError if the store is no MLflow database or does not answer. Writes nothing.

    An SQLite file that does not exist passes if it can be made.
    """
    file = sqlite_file(uri)
    if file is None:
        from mlflow import MlflowClient

        before = {name: os.environ[name] for name in IMPATIENT}
        os.environ.update(IMPATIENT)
        try:
            MlflowClient(uri).search_experiments(max_results=1)
        except Exception as error:
            raise UserError(f"cannot use the store {redact(uri)}: {brief(error, uri)}") from error
        finally:
            os.environ.update(before)
        return
    try:
        if is_new(uri):
            folder = next(folder for folder in file.parents if folder.exists())
            if not folder.is_dir() or not os.access(folder, os.W_OK):
                raise UserError(f"cannot make the store {file}: {folder} is no folder that can be written to")
        else:
            _check_sqlite(file)
    except OSError as error:  # such as a name that is too long
        raise UserError(f"cannot use the store {file}: {error.strerror}") from error


def _check_sqlite(file: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    except sqlite3.Error as error:
        raise UserError(f"the store {file} cannot be read as an MLflow database ({error}); name another") from error
    if missing := {"experiments", "runs", "metrics", "alembic_version"} - {row[0] for row in rows}:
        raise UserError(f"the store {file} is a database, but not MLflow's (no table {min(missing)}); name another")


def prepare_store(uri: str, experiment: str) -> str:
    """Make the store's schema and the experiment if they do not exist; the experiment's id.

    Safe when several processes call it at once, and against a kill. Raises UserError if it fails.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    check_store(uri)
    file = sqlite_file(uri)
    # Of artifacts: beside an SQLite file, else in the project; a server has its own.
    folder = None if uri.startswith("http") else ((file.parent if file else project_root()) / "mlruns").as_uri()
    try:
        if file is not None:
            with FileLock(file.with_name(f".{file.name}.lock")):
                if is_new(uri):
                    _create_sqlite(file, folder)
                with closing(sqlite3.connect(file, timeout=5)) as database:
                    # Readers and the writer then do not wait for each other. The file keeps the setting.
                    database.execute("PRAGMA journal_mode=WAL")
        return _find_or_create_experiment(MlflowClient(uri), experiment, folder)
    except (OSError, sqlite3.Error, MlflowException) as error:
        raise UserError(f"cannot make the store {redact(uri)} ready: {brief(error, uri)}") from error


def _create_sqlite(file: Path, artifact_root: str | None) -> None:
    """Make an empty MLflow database in memory, write it beside `file`, and rename it.

    A kill leaves no half-made store, and the schema's many changes are not synced to the disk one by one.
    """
    beside = file.with_name(f".{file.name}.new")
    beside.write_bytes(b"")
    engine = open_database("sqlite://", artifact_root).engine
    with closing(engine.raw_connection()) as database:
        database.execute("VACUUM INTO ?", [str(beside)])
    engine.dispose()
    with beside.open("rb") as written:
        os.fsync(written.fileno())
    beside.replace(file)


def _find_or_create_experiment(client: "MlflowClient", name: str, artifact_root: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_root))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process may have made it
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"the experiment {name!r} is deleted; restore it with `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`, or choose another with --experiment"
        )
    return str(found.experiment_id)


def newest(client: "MlflowClient", experiment_id: str, condition: str, page: int = 50) -> "Iterator[Run]":
    """The experiment's runs that fulfil the condition, a filter of MLflow's search; newest first.

    They are read from the store as they are asked for, `page` at a time.
    """
    order, token = ["attributes.start_time DESC"], None
    while True:
        found = client.search_runs([experiment_id], condition, max_results=page, order_by=order, page_token=token)
        yield from found
        token = found.token
        if not token:
            return


def children_of(client: "MlflowClient", experiment_id: str, parent_id: str) -> "list[Run]":
    """The child runs of a parent, oldest first."""
    return list(newest(client, experiment_id, f"tags.`{PARENT}` = '{parent_id}'", page=1000))[::-1]


def settle_stale(client: "MlflowClient", experiment_id: str, checkpoint_dir: StoragePath, ours: str = "") -> list[str]:
    """Mark as KILLED every unfinished run and sweep of the experiment whose process is dead; their names.

    A process is alive if it holds its lock. Runs whose locks lie outside `checkpoint_dir` are left as they
    are. `ours`: the tag of a lock that this process itself holds; what it has left unfinished is ended too.
    """
    unfinished = [
        run for each in UNFINISHED for run in newest(client, experiment_id, f"attributes.status = '{each}'", 1000)
    ]
    ended = []
    for run in unfinished:
        tag = run.data.tags.get(LOCK)
        if PARENT in run.data.tags or (tag != ours and liveness(checkpoint_dir, tag) != "dead"):
            continue
        children = children_of(client, experiment_id, run.info.run_id)
        for one in [*(child for child in children if child.info.status in UNFINISHED), run]:
            end_run(client, one.info.run_id, "KILLED", GONE)
            ended.append(one.info.run_name)
    return ended


def find_cut_off(client: "MlflowClient", experiment_id: str, name: str, config: RunConfig) -> "Run | None":
    """The newest run of this name and config, outside sweeps; None if it has finished or does not exist."""
    for run in newest(client, experiment_id, f"tags.{CONFIG_HASH} = '{config.config_hash}'"):
        # A run that has no params has not begun: its number of epochs is still open.
        as_long = run.data.params.get("epochs", str(config.epochs)) == str(config.epochs)
        if run.info.run_name == name and as_long and PARENT not in run.data.tags:
            return run if run.info.status in ("KILLED", "FAILED") else None
    return None


def create_run(
    client: "MlflowClient", experiment_id: str, name: str, config: RunConfig, tags: dict[str, str] | None = None
) -> str:
    """Create an MLflow run for `config`, with status SCHEDULED; its id."""
    every = {**context_tags(), CONFIG_HASH: config.config_hash, **(tags or {})}
    run_id = str(client.create_run(experiment_id, run_name=name, tags=every).info.run_id)
    client.update_run(run_id, status="SCHEDULED")
    return run_id


def end_run(client: "MlflowClient", run_id: str, status: str, reason: str = "") -> None:
    """End the run with a status, and with the reason, if there is one, as a tag. PAUSED: it waits, SCHEDULED."""
    if reason:
        client.set_tag(run_id, FAILURE_REASON, reason[:5000])
    if status == "PAUSED":
        client.update_run(run_id, status="SCHEDULED")
    else:
        client.set_terminated(run_id, status)
