"""A sweep decided: what its runs have in common, what tells it from others, who may conduct it."""

import os
import re
import socket
from argparse import Namespace
from contextlib import closing

import pytest

from gan_core.errors import UserError
from sweeps.grid import AxesWhen, Grid
from sweeps.plan import describe_plan, locked, make_plan

RATES = [AxesWhen({"optimizer": "sgd"}, {"learning_rate": (0.1, 0.3)})]


@pytest.fixture
def made(uri, tmp_path):
    """Makes a plan as the command does, of a grid and of what its flags say."""

    def make(grid=None, **flags):
        given = {
            "address": None, "tracking_uri": uri, "name": None, "again": False, "experiment": "grid",
            "checkpoint_dir": str(tmp_path / "kept"), "data_dir": tmp_path / "data", "register": None,
        }  # fmt: skip
        grid = grid or Grid({"optimizer": ("sgd", "adam"), "z_dim": (5, 7)}, fixed={"dataset": "digits"})
        return make_plan(grid, ["a note"], Namespace(**{**given, **flags}))

    return make


def test_what_is_not_said_has_its_default(made, uri, tmp_path):
    plan = made()
    assert (plan.named, plan.again, plan.retries, plan.address, plan.model) == (False, False, 2, None, None)
    assert re.fullmatch(r"grid-\d{8}-\d{6}", plan.name)
    assert plan.workers == min(len(os.sched_getaffinity(0)), 4)
    assert (plan.tracking_uri, plan.checkpoint_dir) == (uri, tmp_path / "kept")
    assert made(checkpoint_dir=None).checkpoint_dir == tmp_path / "checkpoints"  # beside the store
    assert (plan.options.evaluate_every, plan.options.checkpoint_every, plan.options.stop_dead) == (10, 10, False)
    assert (plan.image_keys, plan.device, plan.notes) == ([("digits", 28, 1)], "cpu", ["a note"])


def test_what_is_said_is_taken(made):
    plan = made(name="mine", again=True, experiment="other", workers=3, retries=0, register="best", evaluate_every=0)
    assert (plan.name, plan.named, plan.again, plan.experiment) == ("mine", True, True, "other")
    assert (plan.workers, plan.retries, plan.model, plan.options.evaluate_every) == (3, 0, "best", 0)


def test_no_more_workers_than_runs(made):
    assert made(workers=50).workers == 40  # a race of four settings
    assert made(Grid({"z_dim": (5, 7)}, fixed={"dataset": "digits"}, seeds=(0,)), workers=50).workers == 2
    assert made(Grid(fixed={"dataset": "digits"})).workers == 1


def test_on_a_cluster_as_many_workers_as_it_has_room_for(made):
    with closing(socket.create_server(("127.0.0.1", 0))) as there:
        address = f"127.0.0.1:{there.getsockname()[1]}"
        plan = made(address=address)
        assert (plan.workers, plan.address) == (None, address)
        assert made(address=address, workers=9).workers == 9
    for unknown in (address, "::1:9"):
        with pytest.raises(UserError, match=f"no Ray cluster answers at {unknown}"):
            made(address=unknown)


@pytest.mark.parametrize("address", ["head", ":6379", "head:", "head:port"])
def test_an_address_has_a_host_and_a_port(made, address):
    with pytest.raises(UserError, match=f"--address should be HOST:PORT, got '{address}'"):
        made(address=address)


@pytest.mark.parametrize("name", ["a", "A_1.b-c", "_", "x" * 200])
def test_a_model_can_have_a_name_that_needs_no_quotes(made, name):
    assert made(register=name).model == name


def test_what_all_runs_have_in_common_is_all_but_the_axes_and_the_seed(made):
    common = made().common()
    assert not {"optimizer", "z_dim", "seed"} & common.keys()
    assert "learning_rate" not in common, "it follows from the optimizer"
    assert (common["dataset"], common["hidden_dim"], common["epochs"]) == ("digits", 128, 100)
    grid = Grid({"z_dim": (5, 7)}, fixed={"learning_rate": 0.5, "dataset": "digits"})
    assert made(grid).common()["learning_rate"] == 0.5


def test_a_sweep_is_known_by_what_its_runs_have_in_common_but_the_length(made):
    def key(axes=None, **fixed):
        return made(Grid(axes or {"z_dim": (5,)}, fixed={"dataset": "digits", **fixed})).key

    assert key(epochs=5) == key(epochs=50)
    assert key() == key({"z_dim": (5, 7)})
    assert len({key(), key(hidden_dim=9), key(batch_size=9), key({"z_dim": (5,), "batch_size": (9,)})}) == 4


def test_one_process_at_a_time_conducts_a_sweep(made):
    plan = made(name="mine")
    with locked(plan):
        with pytest.raises(UserError, match="the sweep 'mine' is running already"), locked(made(name="mine")):
            pass
        with locked(made(name="other")), locked(made(name="mine", experiment="other")):
            pass
    with locked(plan):
        pass


def test_an_unnamed_sweep_is_locked_by_its_settings(made):
    assert made().lock == made().lock
    assert re.fullmatch(r"sweep-[0-9a-f]{16}\.lock", made().lock)
    assert made().lock != made(Grid({"z_dim": (5,)}, fixed={"dataset": "digits", "hidden_dim": 9})).lock
    assert made(name="a").lock != made(name="b").lock
    with locked(made()), pytest.raises(UserError, match="a sweep of these settings is running already"), locked(made()):
        pass


def test_a_folder_that_cannot_be_written_to_is_named(made):
    with (
        pytest.raises(UserError, match="cannot keep checkpoints in /proc/none"),
        locked(made(checkpoint_dir="/proc/none")),
    ):
        pass


def test_the_plan_is_described_line_by_line(made, uri, tmp_path):
    axes = {"optimizer": ("sgd", "adam"), "z_dim": (5, 7)}
    grid = Grid(axes, RATES, {"dataset": "digits", "epochs": 3}, seeds=(0, 1))
    plan = made(grid, name="mine", workers=1, checkpoint_every=1, evaluate_every=1, register="best", stop_dead=True)
    assert describe_plan(plan).splitlines() == [
        "a note",
        "sweep          mine, in experiment grid",
        "optimizer      sgd adam",
        "learning_rate  0.1 0.3 where optimizer is sgd",
        "z_dim          5 7",
        "seed           0 1",
        "runs           12 = 6 settings × 2 seeds",
        "each run       objective non-saturating, discriminator_steps 1, network mlp, hidden_dim 128, batch_size 64, epochs 3, device cpu",
        "quality        every epoch and at the end; a collapsed run ends early",
        "workers        1, a thread each",
        "data           digits, comes with scikit-learn",
        f"store          {uri}",
        f"checkpoints    every 1 epoch, in {tmp_path / 'kept'}",
        "model          the best generator becomes a version of best",
    ]
    said = describe_plan(made(Grid({"z_dim": (5,)}, fixed={"dataset": "digits"})))
    assert "runs           1 = 1 setting × 1 seed\n" in said
    assert "quality        every 10 epochs and at the end\n" in said
    mnist = describe_plan(made(Grid({"z_dim": (5,)})))
    assert f"data           mnist, to be fetched into {tmp_path / 'data'}" in mnist
    assert "quality        at the end\n" in describe_plan(made(evaluate_every=0))


def test_a_folder_is_checked_before_any_work_and_images_of_two_kinds_do_not_race(made, shapes, tmp_path):
    folder = {"dataset": f"folder:{shapes}"}
    plan = made(Grid({"image_size": (28, 32)}, fixed=folder))
    assert plan.image_keys == [(f"folder:{shapes}", size, 3) for size in (28, 32)]
    assert plan.notes[-1] == (
        "one seed of each, and no race: image_size is an axis, and distances to different images cannot be compared"
    )
    said = describe_plan(plan)
    for size in (28, 32):
        assert f"data           folder:{shapes}, 200 images of 2 classes, {size}×{size}, in colour\n" in said
    assert not (tmp_path / "data").exists()
    with pytest.raises(UserError, match=r"batch_size should be at most 200, the images of folder:.*, got 201"):
        made(Grid({"batch_size": (64, 201)}, fixed=folder))
    with pytest.raises(UserError, match=r"cannot read the image folder .*/nowhere"):
        made(Grid({"batch_size": (32, 64)}, fixed={"dataset": f"folder:{tmp_path}/nowhere"}))
