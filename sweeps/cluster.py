"""A Ray cluster, joined with this program's code, and each of its nodes looked at before any training."""

import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from gan_core.errors import UserError
from gan_core.place import write_whole
from sweeps import nodes
from sweeps.plan import Plan

ANSWER_TIMEOUT = 180.0  # seconds: a node unpacks the code and starts a worker for the first time
NOTICED_TIMEOUT = 60.0  # seconds: Ray takes a node that has died for alive for up to half as long
NOT_SENT = ("__pycache__", "*.pyc")
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in what `ray job submit` starts


def join(address: str, **quiet: Any) -> None:
    """Join the cluster, and bring it this program's code. Raises UserError if it does not let us in."""
    import ray
    from ray.exceptions import RayError

    packages = Path(__file__).resolve().parent.parent
    sent: dict[str, Any] = {
        "py_modules": [str(packages / name) for name in nodes.CODE],
        "excludes": list(NOT_SENT),
    }
    try:
        with tempfile.TemporaryDirectory(prefix="gan-sent-") as empty:
            if "working_dir" not in json.loads(os.environ.get(JOB, "{}")).get("runtime_env", {}):
                # Without a folder of its own a worker looks for modules in the folder where this command was
                # started, as it is on that node, before it looks into what is sent.
                (Path(empty) / "README").write_text("The folder in which gan-grid's workers run.\n")
                sent["working_dir"] = empty
            with _silenced():
                ray.init(address, runtime_env=sent, **quiet)
    except (RayError, ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"cannot use the Ray cluster at {address}: {_said(error)}. Ray has to run there, and to know the "
            "token of this machine (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)"
        ) from error


@contextmanager
def _silenced() -> Iterator[None]:
    """Drop what is written to the standard error meanwhile.

    That a cluster does not let us in, which is in the exception, Ray's native code says there twenty times
    more; its log level does not reach that code, and neither does `sys.stderr`.
    """
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def checked(plan: Plan) -> Iterator[nodes.Needs]:
    """What every node needs, once it is known that each has it; valid within the block.

    Raises UserError that names each node which lacks something; nothing has been trained then.
    """
    token = uuid4().hex
    file = plan.checkpoint_dir / plan.lock.replace(".lock", ".token")
    try:
        write_whole(file, token.encode())
    except OSError as error:
        raise UserError(f"cannot keep checkpoints in {plan.checkpoint_dir}: {error}") from error
    try:
        needs = nodes.needs(plan.tracking_uri, str(file), token)
        _check(plan, needs)
        yield needs
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def training_nodes() -> dict[str, str]:
    """Address by id, of the nodes on which runs can be trained."""
    import ray

    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    }


def ask(needs: nodes.Needs, ids: Iterable[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """By id: what those of these nodes lack that lack something; why others were not reached."""
    import ray
    from ray.exceptions import LocalRayletDiedError, NodeDiedError, TaskUnschedulableError, WorkerCrashedError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(nodes.lacks)
    reference = ray.put(needs)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            reference
        ): node
        for node in ids
    }
    if not asked:
        return {}, {}
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_TIMEOUT)
    found = {asked[one]: [f"it has not answered for {ANSWER_TIMEOUT:.0f} seconds"] for one in silent}
    unreached = {}
    for one in answered:
        try:
            found[asked[one]] = ray.get(one)
        except (LocalRayletDiedError, NodeDiedError, TaskUnschedulableError, WorkerCrashedError) as error:
            unreached[asked[one]] = f"it was not reached ({type(error).__name__})"
        except Exception as error:  # whatever keeps a task from running there
            found[asked[one]] = [_said(error)]
    return {node: what for node, what in found.items() if what}, unreached


def _check(plan: Plan, needs: nodes.Needs) -> None:
    lacking, unreached = ask(needs, training_nodes())
    if unreached:  # perhaps they have just died, and then they are not missed
        end = time.monotonic() + NOTICED_TIMEOUT
        while unreached.keys() & training_nodes().keys() and time.monotonic() < end:
            time.sleep(0.5)
        again, unreached = ask(needs, unreached.keys() & training_nodes().keys())
        lacking |= again | {node: [why] for node, why in unreached.items()}
    there = training_nodes()
    if not there:
        raise UserError(
            f"the Ray cluster at {plan.address} has no training slots: no node with a CPU; start one with "
            f"`ray start --address={plan.address} --num-cpus N` on another machine"
        )
    lacking = {node: what for node, what in lacking.items() if node in there}
    if lacking:
        each = "; ".join(sorted(f"node {there[node]}: {', '.join(what)}" for node, what in lacking.items()))
        raise UserError(
            f"{len(lacking)} of {len(there)} nodes cannot train, so nothing was: {each}. Mend them, or take "
            "them out with `ray stop`"
        )


def _said(error: BaseException) -> str:
    """The error's last line that says something: Ray quotes whole tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:400]
