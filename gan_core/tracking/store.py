"""The tracking store: its address checked, its schema and experiment made.

MLflow takes a second to import and is imported only where it is needed: most mistakes are found without it.
"""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus, urlsplit

from filelock import FileLock

from gan_core.compat import open_database
from gan_core.errors import UserError
from gan_core.storage import expanded, project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASES = ("postgresql", "mysql", "mssql")
ANSWER_TIMEOUT = 10  # seconds
SECRET = re.compile(r"(\w*(?:pass|pwd|token|secret)\w*)=([^&]*)", re.IGNORECASE)  # in a URI's query


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
        with _readable(path):
            folder = Path(path).is_dir() or not Path(path).suffix
        if folder:
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


@contextmanager
def _readable(store: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # such as a name that is too long
        raise UserError(f"cannot use the store {store}: {error.strerror}") from error


def redact(uri: str) -> str:
    """The URI with its passwords replaced, to be shown or logged."""
    password = urlsplit(uri).password
    shown = uri.replace(f":{password}@", ":***@", 1) if password else uri
    address, mark, query = shown.partition("?")
    return address + mark + SECRET.sub(r"\1=***", query)


def brief(error: BaseException, uri: str) -> str:
    """The error's first line, shortened, with the URI's passwords replaced, since it may quote the URI."""
    return hide_secrets((str(error) or type(error).__name__).splitlines()[0], uri)[:300]


def hide_secrets(text: str, uri: str) -> str:
    """The text with the URI's passwords replaced, encoded or not."""
    parts = urlsplit(uri)
    for word in (parts.password or "", *(found[2] for found in SECRET.finditer(parts.query))):
        for secret in {word, unquote(word), unquote_plus(word)} - {""}:
            text = text.replace(secret, "***")
    return text


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store, of which `resolve_uri` gave the URI; None for another kind of store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def check_store(uri: str) -> None:
    """Raise UserError if the store is no MLflow database or does not answer. Writes nothing.

    An SQLite file that does not exist passes if it can be made.
    """
    file = sqlite_file(uri)
    if file is not None:
        with _readable(str(file)):
            _check_file(file)
        return
    from gan_core.tracking.queries import MlflowClient

    with _short_timeout():
        try:
            MlflowClient(uri).search_experiments(max_results=1)
        except Exception as error:
            raise UserError(f"cannot use the store {redact(uri)}: {brief(error, uri)}") from error


def prepare_store(uri: str, experiment: str) -> str:
    """Make the store's schema and the experiment if they do not exist; the experiment's id.

    Safe when several processes call it at once, and against a kill. Raises UserError if it fails.
    """
    from mlflow.exceptions import MlflowException

    from gan_core.tracking.queries import MlflowClient

    check_store(uri)
    file = sqlite_file(uri)
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_name(f".{file.name}.lock")):
                if _is_new(file):
                    _create_sqlite(file)
                with closing(sqlite3.connect(file, timeout=5)) as database:
                    # Readers and the writer then do not wait for each other. The file keeps the setting.
                    database.execute("PRAGMA journal_mode=WAL")
        return _find_or_create_experiment(MlflowClient(uri), experiment, _artifact_root(file, uri))
    except (OSError, sqlite3.Error, MlflowException) as error:
        raise UserError(f"cannot make the store {redact(uri)} ready: {brief(error, uri)}") from error


def is_new(uri: str) -> bool:
    """Whether the store is an SQLite file that has yet to be made."""
    file = sqlite_file(uri)
    return file is not None and _is_new(file)


def _is_new(file: Path) -> bool:
    return not file.exists() or (file.is_file() and file.stat().st_size == 0)


def _check_file(file: Path) -> None:
    if not _is_new(file):
        _check_sqlite(file)
        return
    folder = next(folder for folder in file.parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"cannot make the store {file}: {folder} is no folder that can be written to")


def _check_sqlite(file: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    except sqlite3.Error as error:
        raise UserError(f"the store {file} cannot be read as an MLflow database ({error}); name another") from error
    if missing := {"experiments", "runs", "metrics", "alembic_version"} - {row[0] for row in rows}:
        raise UserError(f"the store {file} is a database, but not MLflow's (no table {min(missing)}); name another")


def _create_sqlite(file: Path) -> None:
    """Make an empty MLflow database beside `file`, then rename it: a kill leaves no half-made store."""
    from sqlalchemy.exc import SQLAlchemyError

    beside = file.with_name(f".{file.name}.new")
    beside.unlink(missing_ok=True)
    try:
        with _unsynced():
            open_database(f"sqlite:///{beside}", _artifact_root(file, "")).engine.dispose()
    except SQLAlchemyError as error:  # MLflow does not turn it into an error of its own
        beside.unlink(missing_ok=True)
        raise sqlite3.OperationalError(str(error)) from error
    with beside.open("rb") as written:
        os.fsync(written.fileno())
    beside.replace(file)


@contextmanager
def _unsynced() -> Iterator[None]:
    """Write databases without a sync for each of the schema's many changes: ten times as fast.

    A new file has nothing to lose. It is synced as a whole before it gets its name.
    """
    import sqlalchemy

    def pragma(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", pragma)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", pragma)


def _artifact_root(file: Path | None, uri: str) -> str | None:
    """The folder of artifacts: `mlruns` beside an SQLite file, else in the project; None: the server's own."""
    if uri.startswith("http"):
        return None
    return ((file.parent if file else project_root()) / "mlruns").as_uri()


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


@contextmanager
def _short_timeout() -> Iterator[None]:
    # MLflow repeats a request to a silent server seven times: right in a run, too long at the start.
    settings = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_TIMEOUT)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
