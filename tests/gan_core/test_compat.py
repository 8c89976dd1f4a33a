"""Each private name that gan_core uses is there and does what is needed: an upgrade that breaks one fails here."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from mlflow.utils import mlflow_tags
from torch.nn.functional import binary_cross_entropy, leaky_relu

from gan_core import compat, metric_names
from gan_core.config import RunConfig
from gan_core.tracking.queries import MlflowClient, context_tags, create_run
from gan_core.tracking.store import prepare_store


def test_importing_it_imports_neither_mlflow_nor_pytorch(command):
    code = "import sys, gan_core.compat; assert not {'mlflow', 'torch'} & set(sys.modules)"
    assert command("-c", code).returncode == 0


def test_tags_are_mlflows():
    assert compat.LOGGED_IMAGES_TAG == mlflow_tags.MLFLOW_LOGGED_IMAGES
    assert compat.GIT_COMMIT_TAG == mlflow_tags.MLFLOW_GIT_COMMIT
    assert metric_names.PARENT == mlflow_tags.MLFLOW_PARENT_RUN_ID


def test_context_tags_say_who_and_from_which_commit():
    tags = compat.context_tags()
    assert tags["mlflow.user"]
    assert context_tags() == tags
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    assert tags.get(compat.GIT_COMMIT_TAG, "") in (head.strip(), "")


def test_a_database_has_its_schema_without_a_folder_of_artifacts(tmp_path):
    uri = f"sqlite:///{tmp_path}/new.db"
    compat.open_database(uri, str(tmp_path / "mlruns")).engine.dispose()
    assert [path.name for path in tmp_path.iterdir()] == ["new.db"]
    assert MlflowClient(uri).search_experiments()


def test_the_names_of_slides_are_those_that_mlflow_gives(uri, tmp_path):
    client = MlflowClient(uri)
    run_id = create_run(client, prepare_store(uri, "grid"), "a", RunConfig())
    client.log_image(run_id, np.zeros((4, 4), np.uint8), key="samples", step=7, timestamp=12, synchronous=True)
    theirs = sorted(file.path for file in client.list_artifacts(run_id, compat.SLIDES))
    unique = theirs[0].split("+")[5].removesuffix(".png")
    stem = compat.slide_stem("samples", 7, 12, unique)
    assert theirs == sorted(stem + ending for ending in compat.SLIDE_ENDINGS)
    assert client.get_run(run_id).data.tags[compat.LOGGED_IMAGES_TAG] == "True"


def test_a_database_error_of_mlflow_is_not_printed_as_well(command, tmp_path):
    code = (
        "import sys\nfrom gan_core.tracking.queries import MlflowClient\n"
        "try: MlflowClient(sys.argv[1]).search_experiments()\nexcept Exception as error: print('raised')"
    )
    (tmp_path / "mlflow.db").write_text("no database")
    done = command("-c", code, f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "raised\n", "")
    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        assert logging.getLogger(name).level >= logging.WARNING


@pytest.mark.parametrize("name", ["leaky_relu", "tanh", "sigmoid"])
def test_a_kernel_gives_autograds_gradient(name):
    x = torch.linspace(-200, 200, 101).requires_grad_()
    gradient, out = torch.rand(101), torch.empty(101)
    slope = (0.2,) if name == "leaky_relu" else ()
    result = leaky_relu(x, 0.2) if slope else getattr(torch, name)(x)
    result.backward(gradient)
    also = (*slope, True) if slope else ()
    getattr(compat.backward_kernels(), name)(gradient, result.detach(), *also, grad_input=out)
    assert torch.equal(out, x.grad)


def test_the_kernel_of_the_cross_entropy_gives_autograds_gradient():
    p = torch.tensor([[0.0], [1e-30], [0.3], [1.0]]).requires_grad_()
    target, weight, out = torch.tensor([[1.0], [1.0], [0.0], [0.0]]), torch.tensor(2.0), torch.empty(4, 1)
    (weight * binary_cross_entropy(p, target)).backward()
    kernel = compat.backward_kernels().binary_cross_entropy
    kernel(weight, p.detach(), target, None, compat.MEAN, grad_input=out)
    assert torch.equal(out, p.grad)


@pytest.mark.parametrize(("number", "torch_class"), enumerate(["Adam", "RMSprop"]))
def test_an_optimizers_function_takes_the_optimizers_step(number, torch_class):
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    gradient = theirs.grad = torch.rand(5, generator=torch.Generator().manual_seed(0))
    getattr(torch.optim, torch_class)([theirs], lr=0.1).step()
    also = {
        "Adam": {
            "exp_avgs": [torch.zeros(5)], "exp_avg_sqs": [torch.zeros(5)], "max_exp_avg_sqs": [],
            "amsgrad": False, "maximize": False, "beta1": 0.9, "beta2": 0.999,
        },
        "RMSprop": {
            "square_avgs": [torch.zeros(5)], "grad_avgs": [], "momentum_buffer_list": [], "alpha": 0.99,
            "momentum": 0.0, "centered": False,
        },
    }[torch_class]  # fmt: skip
    compat.optimizer_functions()[number](
        [ours.detach()], [gradient], state_steps=[torch.zeros(())], lr=0.1, eps=1e-8, weight_decay=0.0, **also
    )
    torch.testing.assert_close(ours, theirs)


ENDING = """
import atexit, sys, tempfile, threading, time
from pathlib import Path
from gan_core.cli import run_command, without_garbage_collection
from gan_core.errors import UserError
seen = Path({seen!r})
def at_exit():
    with seen.open("a") as file: file.write("exit handler\\n")
def late():
    time.sleep(0.5)
    with seen.open("a") as file: file.write("thread\\n")
atexit.register(at_exit)
def command():
    with without_garbage_collection():
        {imports}
    threading.Thread(target=late).start()
    print("last words", end="")
    {ending}
run_command("a command", command)
"""
COMPILER = "import torch, torchvision; torch.optim.RMSprop([torch.nn.Parameter(torch.zeros(2))])"


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("return 1", 1, ""),
        ("raise UserError('no\\nway')", 2, "a command: no way\n"),
        ("raise KeyboardInterrupt", 130, "a command: interrupted\n"),
    ],
)
def test_a_command_ends_with_its_own_line_alone(command, tmp_path, ending, code, said):
    """Though PyTorch's compiler has been imported, whose libraries report what is not freed at the end."""
    words = ENDING.format(seen=str(tmp_path / "seen"), imports=COMPILER, ending=ending)
    done = command("-c", words)
    assert (done.returncode, done.stdout, done.stderr) == (code, "last words", said)
    assert (tmp_path / "seen").read_text() == "thread\nexit handler\n"


def test_output_that_cannot_be_written_is_no_success():
    words = ENDING.format(seen="/dev/null", imports="pass", ending="return 0")
    with open("/dev/full", "w") as full:  # noqa: PTH123 (a device)
        done = subprocess.run([sys.executable, "-c", words], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
