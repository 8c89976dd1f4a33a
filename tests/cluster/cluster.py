"""A cluster on one machine, for the tests and by hand. Needs root, `ip`, and Debian's PostgreSQL.

    python tests/cluster/cluster.py start      # prints how to use it
    python tests/cluster/cluster.py stop

Each machine of it is a network namespace with an address of its own on a bridge that leads nowhere else:

    store  10.87.0.3   PostgreSQL (on loopback), an MLflow server, an S3 server (rclone)
    head   10.87.0.2   Ray's head, without training slots; here the commands are started
    one, two, three    10.87.0.11 to 13, Ray's workers, two slots each

All of them share this machine's disk, but for OWN, a folder that is another one on each. What is started is
ended by `stop` or the next `start`: no process leaves the namespace that it was started in.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = Path("/tmp/gan-cluster")
OWN = FOLDER / "own"
PREFIX, BRIDGE, HERE = "gan-", "gan-bridge", "10.87.0.1"
ADDRESSES = {"store": "10.87.0.3", "head": "10.87.0.2"} | {
    name: f"10.87.0.{11 + number}" for number, name in enumerate(("one", "two", "three"))
}
RAY = f"{ADDRESSES['head']}:6379"
MLFLOW = f"http://{ADDRESSES['store']}:5000"
S3 = f"{ADDRESSES['store']}:9000"
S3_URI = "s3://gan/checkpoints"
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql"))
RCLONE = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
SLOTS = 2  # of a worker
# `ray start` gives its processes 30 seconds: little where all machines are one, and that one is busy.
TRIES, STARTED, TOO_SLOW = 5, "Ray runtime started", "timed out during startup"


def missing() -> str:
    """What this machine lacks for a cluster; empty if it has all."""
    if os.geteuid() != 0:
        return "root is needed to make network namespaces"
    if not shutil.which("ip"):
        return "the command ip is not there: apt-get install iproute2"
    probe = f"{PREFIX}probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "network namespaces cannot be made here"
    _ip("netns", "del", probe)
    if not (POSTGRES / "initdb").exists():
        return "PostgreSQL is not there: apt-get install postgresql"
    if not RCLONE:
        return "rclone is not there: pip install -e .[test]"
    return ""


def start(workers: tuple[str, ...] = ("one", "two")) -> None:
    """Start all of it afresh. Raises RuntimeError, CalledProcessError."""
    stop()
    # Others than root get no further than here: PostgreSQL runs as its own user.
    FOLDER.mkdir(mode=0o711)
    for name in ("own", "shared", "artifacts", "s3/gan"):
        (FOLDER / name).mkdir(parents=True)
    _write_secret("ray_token", secrets.token_hex(16))
    _write_secret("passwords.json", json.dumps({name: secrets.token_hex(12) for name in ("sql", "mlflow", "s3")}))
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{HERE}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    for name in ADDRESSES:
        make_machine(name)
    start_ray("head")
    with ThreadPoolExecutor() as at_once:
        store = at_once.submit(start_store)
        list(at_once.map(start_ray, workers))
        store.result()


def stop() -> None:
    """End and remove all of it, also what an earlier process has left."""
    for line in subprocess.run(
        ["ip", "netns", "list"], capture_output=True, text=True, check=False
    ).stdout.splitlines():
        if line.startswith(PREFIX):
            remove_machine(line.split()[0].removeprefix(PREFIX))
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)
    shutil.rmtree(FOLDER, ignore_errors=True)


def make_machine(name: str) -> None:
    """A network namespace on the bridge."""
    space = PREFIX + name
    _ip("netns", "add", space)
    _ip("link", "add", space, "type", "veth", "peer", "name", "eth0", "netns", space)
    _ip("link", "set", space, "master", BRIDGE, "up")
    _ip("-n", space, "addr", "add", f"{ADDRESSES[name]}/24", "dev", "eth0")
    _ip("-n", space, "link", "set", "eth0", "up")
    _ip("-n", space, "link", "set", "lo", "up")


def remove_machine(name: str) -> None:
    """As if its power had been cut."""
    kill_machine(name)
    # Before the namespace: with it, but some time later, the cable would go too.
    subprocess.run(["ip", "link", "del", PREFIX + name], capture_output=True, check=False)
    _ip("netns", "del", PREFIX + name)


def kill_machine(name: str) -> None:
    """SIGKILL every process on it; its address stays, and can be used again."""
    end = time.monotonic() + 20
    while pids := subprocess.run(
        ["ip", "netns", "pids", PREFIX + name], capture_output=True, text=True, check=True
    ).stdout.split():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if time.monotonic() > end:
            raise RuntimeError(f"processes of {name} cannot be killed: {pids}")
        time.sleep(0.05)


def words_on(name: str, *words: object) -> list[str]:
    """A command, to be run on a machine."""
    mounted = f'mount -t tmpfs -o size=64m none {OWN} && exec "$@"'
    return ["ip", "netns", "exec", PREFIX + name, "sh", "-c", mounted, "sh", *map(str, words)]


def environment(**more: str) -> dict[str, str]:
    """What a user of the cluster has set; nothing of where this program lies."""
    password = passwords()
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "PROXY" not in name.upper()},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(FOLDER / "ray_token"),
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": password["mlflow"],
        "AWS_ENDPOINT_URL": f"http://{S3}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "gan",
        "AWS_SECRET_ACCESS_KEY": password["s3"],
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # rclone knows none of the newer checksums
        **more,
    }


def run_on(name: str, *words: object, timeout: float = 300, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a machine to its end."""
    return subprocess.run(
        words_on(name, *words),
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start_ray(name: str, **more: str) -> None:
    """Ray's head, or a worker that joins it; `more`: variables of its environment."""
    where = [f"--address={RAY}", f"--num-cpus={SLOTS}"]
    if name == "head":
        where = ["--head", "--port=6379", "--num-cpus=0", "--dashboard-host=127.0.0.1"]
    words = [
        sys.executable, "-m", "ray.scripts.scripts", "start", *where, f"--node-ip-address={ADDRESSES[name]}",
        f"--temp-dir={FOLDER / name}", "--object-store-memory=200000000", "--disable-usage-stats", "--block",
    ]  # fmt: skip
    # A worker has nothing but what lets it join: what a run needs comes with the run.
    theirs = {key: value for key, value in environment().items() if not key.startswith(("MLFLOW_", "AWS_"))}
    log = FOLDER / f"{name}-ray.log"

    def says(*what: str) -> bool:
        return any(each in log.read_text(errors="replace") for each in what)

    for _ in range(TRIES):
        _start(name, "ray", words, {**theirs, **more})
        _until(lambda: says(STARTED, TOO_SLOW), f"Ray on {name}", log)
        if says(STARTED):
            return
        kill_machine(name)
    raise RuntimeError(f"Ray has not started on {name}: this machine is too busy")


def wait_for_nodes(count: int) -> None:
    """Until Ray knows of so many machines: it takes some seconds to notice that one is gone."""
    # By its address: "auto" might find the Ray of another test, on this machine itself.
    ask = f"import ray; ray.init('{RAY}', log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    end = time.monotonic() + 120
    while (said := run_on("head", sys.executable, "-c", ask).stdout.split()[-1:]) != [str(count)]:
        if time.monotonic() > end:
            raise RuntimeError(f"Ray knows of {said} machines, not of {count}")


def start_store() -> None:
    """PostgreSQL, the MLflow server and the S3 server."""
    password = passwords()
    data = FOLDER / "postgres"
    data.mkdir(mode=0o700)
    shutil.chown(data, "postgres", "postgres")
    _write_secret("sql_password", password["sql"], owner="postgres")
    as_postgres = ["runuser", "-u", "postgres", "--"]
    subprocess.run(
        [*as_postgres, POSTGRES / "initdb", "-D", data, "-U", "mlflow", "--auth=scram-sha-256", "--no-sync",
         f"--pwfile={FOLDER / 'sql_password'}"],
        check=True, capture_output=True, cwd=FOLDER,
    )  # fmt: skip
    words = [*as_postgres, POSTGRES / "postgres", "-D", data, "-c", "listen_addresses=127.0.0.1",
             "-c", f"unix_socket_directories={data}", "-c", "fsync=off"]  # fmt: skip
    log, _ = _start("store", "postgres", words, environment())
    _until(lambda: "ready to accept connections" in log.read_text(), "PostgreSQL", log)
    sql("CREATE DATABASE mlflow", "postgres")
    sql("CREATE DATABASE logins", "postgres")
    start_mlflow(5000)
    password = passwords()["s3"]
    log, _ = _start(
        "store", "s3", [RCLONE, "serve", "s3", "--addr", S3, FOLDER / "s3"],
        environment(RCLONE_AUTH_KEY=f'"gan,{password}"'),
    )  # fmt: skip
    _until(lambda: _listens(S3), "the S3 server", log)


@contextlib.contextmanager
def mlflow_on(port: int, database: str) -> Iterator[str]:
    """The address of an MLflow server on a database of its own, which is made if it is not there."""
    if not sql(f"SELECT 1 FROM pg_database WHERE datname = '{database}'", "postgres"):
        sql(f"CREATE DATABASE {database}", "postgres")
    server = start_mlflow(port, database)
    try:
        yield f"http://{ADDRESSES['store']}:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def start_mlflow(port: int, database: str = "mlflow", logins: bool = False) -> subprocess.Popen[bytes]:
    """An MLflow server at the store; with `logins`, nobody gets anything from it without one."""
    address = f"{ADDRESSES['store']}:{port}"
    # Secrets are in the environment and in files, not among the words: those are shown by ps.
    server = {
        "MLFLOW_BACKEND_STORE_URI": sql_uri(database),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    words: list[object] = []
    if logins:
        content = (
            "[mlflow]\ndefault_permission = NO_PERMISSIONS\nadmin_username = admin\n"
            f"admin_password = {passwords()['mlflow']}\ndatabase_uri = {sql_uri('logins')}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        _write_secret("logins.ini", content)
        server["MLFLOW_AUTH_CONFIG_PATH"] = str(FOLDER / "logins.ini")
        server["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_hex(16)
        words = ["--app-name", "basic-auth"]
    words = [
        sys.executable, "-m", "mlflow", "server", "--host", ADDRESSES["store"], "--port", port,
        "--allowed-hosts", address, "--serve-artifacts", "--artifacts-destination", FOLDER / "artifacts",
        "--workers", 2, "--uvicorn-opts", "--timeout-worker-healthcheck 120", *words,
    ]  # fmt: skip
    log, process = _start("store", f"mlflow-{port}", words, environment(**server))
    _until(lambda: _healthy(address), "the MLflow server", log)
    return process


def sql(query: str, database: str = "mlflow") -> list[list[str]]:
    """Ask PostgreSQL; every value as text."""
    asked = subprocess.run(
        words_on("store", "psql", "-X", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-c", query,
                 "-h", "127.0.0.1", "-U", "mlflow", "-d", database),
        env=environment(PGPASSWORD=passwords()["sql"]), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if asked.returncode:
        raise RuntimeError(asked.stderr)
    return [line.split("\t") for line in asked.stdout.splitlines()]


def sql_uri(database: str) -> str:
    """The address of a database, with its password, as the store's machine sees it."""
    return f"postgresql+psycopg://mlflow:{passwords()['sql']}@127.0.0.1:5432/{database}"


def passwords() -> dict[str, str]:
    """Of sql, mlflow and s3; new ones with each start."""
    found: dict[str, str] = json.loads((FOLDER / "passwords.json").read_text())
    return found


def received(name: str) -> int:
    """Bytes that a machine has received so far."""
    # What its end of the cable receives is what the bridge's end sends.
    return int(Path(f"/sys/class/net/{PREFIX}{name}/statistics/tx_bytes").read_text())


def _start(name: str, what: str, words: list[Any], env: Mapping[str, str]) -> tuple[Path, subprocess.Popen[bytes]]:
    log = FOLDER / f"{name}-{what}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            words_on(name, *words), env=env, cwd=FOLDER, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    return log, process


def _until(ready: Any, what: str, log: Path, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} has not started:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.2)


def _healthy(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return bool(opener.open(f"http://{address}/health", timeout=5).status == 200)
    except OSError:
        return False


def _listens(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _write_secret(name: str, content: str, owner: str = "root") -> None:
    file = FOLDER / name
    file.touch(mode=0o600)
    file.write_text(content)
    shutil.chown(file, owner)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _how_to_use() -> str:
    show = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    lines = [f"export {name}={environment()[name]}" for name in show]
    command = (
        f"ip netns exec {PREFIX}head {sys.executable} {ROOT}/sweeps/run_grid.py --address {RAY} "
        f"--tracking-uri {MLFLOW} --checkpoint-dir {FOLDER}/shared --dataset digits --epochs 5"
    )
    return "\n".join([*lines, command])


if __name__ == "__main__":
    if missing():
        sys.exit(f"cluster.py: {missing()}")
    match sys.argv[1:]:
        case ["start"]:
            start()
            print(_how_to_use())
        case ["stop"]:
            stop()
        case _:
            sys.exit(__doc__)
