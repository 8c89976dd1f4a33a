"""Each private name that gan_core uses is there and does what is needed: an upgrade that breaks one fails here."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from mlflow.utils import mlflow_tags

from gan_core import compat, metric_names
from gan_core.config import RunConfig


def test_tags_are_mlflows():
    assert compat.LOGGED_IMAGES_TAG == mlflow_tags.MLFLOW_LOGGED_IMAGES
    assert compat.GIT_COMMIT_TAG == mlflow_tags.MLFLOW_GIT_COMMIT
    assert metric_names.PARENT == mlflow_tags.MLFLOW_PARENT_RUN_ID


def test_context_tags_say_who_and_from_which_commit():
    tags = compat.context_tags()
    assert tags["mlflow.user"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    assert tags.get(compat.GIT_COMMIT_TAG, "") in (head.strip(), "")


def test_a_database_gives_the_histories_of_many_runs(uri, client, new_run, tmp_path):
    store = compat.open_database(uri, str(tmp_path / "mlruns"))
    runs = [new_run(RunConfig()) for _ in range(2)]
    for run_id in runs:
        client.log_metric(run_id, "loss/generator", 0.5, timestamp=1, step=3)
    points = store.get_metric_history_bulk(runs, "loss/generator", 100)
    assert {(point.run_id, point.step, point.value) for point in points} == {(id_, 3, 0.5) for id_ in runs}
    store.engine.dispose()
    assert not (tmp_path / "mlruns").exists()


def test_the_names_of_slides_are_those_that_mlflow_gives(client, new_run):
    run_id = new_run(RunConfig())
    client.log_image(run_id, np.zeros((4, 4), np.uint8), key="samples", step=7, timestamp=12, synchronous=True)
    theirs = sorted(file.path for file in client.list_artifacts(run_id, compat.SLIDES))
    unique = theirs[0].split("+")[5].removesuffix(".png")
    stem = compat.slide_stem("samples", 7, 12, unique)
    assert theirs == sorted(stem + ending for ending in compat.SLIDE_ENDINGS)
    assert client.get_run(run_id).data.tags[compat.LOGGED_IMAGES_TAG] == "True"


def test_a_database_error_of_mlflow_is_not_printed_as_well(command, tmp_path):
    code = (
        "import sys, gan_core.tracking\nfrom mlflow import MlflowClient\n"
        "try: MlflowClient(sys.argv[1]).search_experiments()\nexcept Exception as error: print('raised')"
    )
    (tmp_path / "mlflow.db").write_text("no database")
    done = command("-c", code, f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "raised\n", "")
    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        assert logging.getLogger(name).level >= logging.WARNING


ENDING = """
import atexit, gc, sys, tempfile, threading, time
from pathlib import Path
from gan_core.cli import run_command
from gan_core.errors import UserError
seen = Path({seen!r})
def at_exit():
    with seen.open("a") as file: file.write("exit handler\\n")
def late():
    time.sleep(0.5)
    with seen.open("a") as file: file.write("thread\\n")
atexit.register(at_exit)
def command():
    {imports}
    gc.freeze()
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
