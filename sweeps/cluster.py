"""A Ray cluster whose nodes are checked before any training: whether each has all that a run needs.

`lacks` runs on the nodes. Nothing but the standard library is imported before it is known to be there.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from gan_core.errors import UserError

if TYPE_CHECKING:
    from sweeps.plan import Plan

# What a run's figures and its record depend on: the same version everywhere.
SAME = ("ray", "torch", "numpy", "scipy", "mlflow")
# What a run needs beside these.
NEEDED = ("filelock", "matplotlib", "pillow", "pydantic", "rich", "safetensors", "tenacity")
CODE = ("gan_core", "sweeps")
# Of the driver's environment, what lets one into the tracking server and the stores behind it.
ACCESS = ("MLFLOW_TRACKING_", "MLFLOW_S3_", "AWS_", "AZURE_", "GOOGLE_")
ANSWER_TIMEOUT = 180.0  # seconds: a node unpacks the code and starts a worker for the first time
NOTICED_TIMEOUT = 60.0  # seconds: Ray takes a node that has died for alive for up to half as long


@dataclass(frozen=True)
class Needs:
    """What every node must have, as the driver has it. It goes to them as an object, never into a file."""

    versions: Mapping[str, str]
    code: str  # digest
    tracking_uri: str = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)  # variables that let one into the stores
    token_at: str  # a file where checkpoints are kept, path or URI …
    token: str  # … and what is in it


@contextmanager
def nodes_checked(plan: "Plan") -> Iterator[Needs]:
    """What every node needs, once it is known that each has it; valid within the block.

    Raises UserError that names each node which lacks something; nothing has been trained then.
    """
    from gan_core.storage import write_whole

    versions = {name: installed for name in SAME if (installed := _version(name))}
    environment = {name: value for name, value in os.environ.items() if name.startswith(ACCESS)}
    environment.pop("MLFLOW_TRACKING_URI", None)  # it is the plan's
    token = uuid4().hex
    file = plan.checkpoint_dir / plan.lock.replace(".lock", ".token")
    try:
        write_whole(file, token.encode())
    except OSError as error:
        raise UserError(f"cannot keep checkpoints in {plan.checkpoint_dir}: {error}") from error
    try:
        needs = Needs(versions, code_digest(), plan.tracking_uri, environment, str(file), token)
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


def ask(needs: Needs, ids: Iterable[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """By id: what those of these nodes lack that lack something; why others were not reached."""
    import ray
    from ray.exceptions import LocalRayletDiedError, NodeDiedError, TaskUnschedulableError, WorkerCrashedError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(lacks)
    reference = ray.put(needs)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(reference): node
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
            found[asked[one]] = [last_line(error)]
    return {node: what for node, what in found.items() if what}, unreached


def _check(plan: "Plan", needs: Needs) -> None:
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


def last_line(error: BaseException) -> str:
    """The error's last line that says something: Ray quotes whole tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:400]


def grant(environment: Mapping[str, str]) -> None:
    """Let this process in as the driver is let in; a file that is named but not here is left out."""
    for name, value in environment.items():
        if not value.startswith("/") or Path(value).exists():
            os.environ[name] = value


def lacks(needs: Needs) -> list[str]:
    """What this node lacks, a sentence each; nothing if runs can be trained here.

    Later questions are asked only where the earlier ones are answered well.
    """
    grant(needs.environment)
    for look in (_packages, _code, _checkpoints, _store):
        if found := list(look(needs)):
            return found
    return []


def code_digest() -> str:
    """What tells this program's code, as it is imported here, from any other version of it."""
    digest = hashlib.sha256()
    for package in CODE:
        spec = find_spec(package)
        (root,) = spec.submodule_search_locations if spec and spec.submodule_search_locations else ("",)
        for file in sorted(Path(root).rglob("*.py")):
            digest.update(f"{package}/{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _packages(needs: Needs) -> Iterator[str]:
    for name, wanted in needs.versions.items():
        found = _version(name)
        if not found:
            yield f"{name} is not installed (needed: {wanted})"
        # What comes after a + says for what it was built (torch 2.15.0+cpu), not what it is.
        elif found.partition("+")[0] != wanted.partition("+")[0]:
            yield f"{name} {found} is installed, the sweep's machine has {wanted}"
    yield from (f"{name} is not installed" for name in NEEDED if not _version(name))


def _code(needs: Needs) -> Iterator[str]:
    if code_digest() != needs.code:
        spec = find_spec("gan_core")
        where = Path(spec.origin).parent.parent if spec and spec.origin else "?"
        yield f"another version of this program comes first there, in {where}: remove or update it"


def _checkpoints(needs: Needs) -> Iterator[str]:
    from gan_core.storage import storage_path

    try:
        file = storage_path(needs.token_at)
    except UserError as error:  # the package that reaches such a store is missing
        yield str(error)
        return
    try:
        there = file.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        there = ""
    except Exception as error:
        yield f"{file.parent}, where checkpoints are kept, cannot be read ({last_line(error)})"
        return
    if there != needs.token:
        yield (
            f"{file.parent}, where checkpoints are kept, is not the same folder there: name one that all "
            "nodes share, or a URI such as s3://BUCKET/PATH, with --checkpoint-dir"
        )
    elif isinstance(file, Path) and not os.access(file.parent, os.W_OK):
        yield f"{file.parent}, where checkpoints are kept, cannot be written to"


def _store(needs: Needs) -> Iterator[str]:
    from gan_core.tracking.store import check_store

    try:
        check_store(needs.tracking_uri)
    except UserError as error:
        yield str(error)
    except ImportError as error:
        yield f"the store cannot be reached: {error}"


def _version(name: str) -> str:
    """Empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
