"""A run recorded on an MLflow server that asks who one is, and what everybody else gets."""

import base64
import re
import secrets
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from gan_core.networks import load_generator
from tests.servers import LOOPBACK, mlflow_server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("server")]

PASSWORD = secrets.token_urlsafe(12)
PROTECTED = ("--app-name", "basic-auth", "--allowed-hosts", f"{LOOPBACK}:*,mlflow.example.org")
RUN = ("-m", "gan_core", "--dataset", "digits", "--hidden-dim", 16, "--z-dim", 5, "--epochs", 1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """With one user, admin; the address with which it is called as itself."""
    folder = tmp_path_factory.mktemp("server")
    settings = {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD, "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex()}
    store = f"sqlite:///{folder / 'mlflow.db'}"
    with mlflow_server(store, folder, PROTECTED, **settings) as running:
        yield running


def status(server, path, user=None, password="", **headers):
    """The HTTP status of a request, and what it said."""
    request = urllib.request.Request(f"{server.uri}{path}", headers=headers)
    if user:
        word = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=10"


def test_an_outsider_gets_nothing(server):
    assert status(server, EXPERIMENTS)[0] == 401
    assert status(server, EXPERIMENTS, "admin", "guessed")[0] == 401
    assert status(server, "/")[0] == 401
    assert status(server, "/api/2.0/mlflow-artifacts/artifacts/1")[0] == 401
    assert status(server, EXPERIMENTS, "admin", PASSWORD)[0] == 200
    # A page of another site that a browser here is made to call by that site's name.
    code, said = status(server, EXPERIMENTS, "admin", PASSWORD, Host="evil.example.com")
    assert (code, "Invalid Host header" in said) == (403, True)
    assert status(server, EXPERIMENTS, "admin", PASSWORD, Host="mlflow.example.org")[0] == 200


def test_it_listens_on_loopback_alone(server):
    family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    listening = {
        connection.laddr.ip
        for process in family
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {LOOPBACK}


def test_the_command_works_with_the_password_and_says_in_one_line_what_it_lacks(server, command, tmp_path):
    words = (*RUN, "--tracking-uri", server.uri)
    for user in ({}, {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "guessed"}):
        refused = command(*words, **user)
        assert refused.returncode == 2
        assert re.fullmatch(r"python -m gan_core: cannot use the store http://\S+: .*401.*\n", refused.stderr)
        assert "guessed" not in refused.stderr

    user = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    done = command(*words, **user)
    assert (done.returncode, done.stderr) == (0, "")
    assert PASSWORD not in done.stdout
    fetched = command(
        "-c",
        "import sys, mlflow\n"
        "(run,) = mlflow.MlflowClient().search_runs(['1'])\n"
        "print(run.info.status, mlflow.MlflowClient().download_artifacts(run.info.run_id, '', sys.argv[1]))",
        tmp_path, MLFLOW_TRACKING_URI=server.uri, **user,
    )  # fmt: skip
    ended, folder = fetched.stdout.split()
    assert ended == "FINISHED"
    assert load_generator(Path(folder) / "generator.safetensors").z_dim == 5
