"""Ray as a sweep starts it: in processes of their own, because Ray reads its settings when it is imported."""

import json
import os

import pytest

from sweeps.ray_session import set_ray_environment

WAITING = """
import json, psutil, sys
from sweeps.ray_session import ray_session, set_ray_environment
from sweeps.compat import let_tune_use_waiting_workers
set_ray_environment(None)
with ray_session(None, 1):
    let_tune_use_waiting_workers()
    from ray import tune

    def trial(config):
        needed = ("torch", "mlflow", "sweeps.worker")
        tune.report({"there": [name for name in needed if name in sys.modules]})

    result = tune.Tuner(trial, run_config=tune.RunConfig(verbose=0, storage_path=sys.argv[1])).fit()
    processes = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    servers = [name for name in ("gcs_server", "dashboard.py", "monitor.py") if any(name in one for one in processes)]
    print(json.dumps([*result[0].metrics["there"], *servers]))
"""


GIVEN = """
import json
from sweeps.trials import AsAsked
from sweeps.worker import Trial
trials = [Trial("a", {}, "1"), None, Trial("b", {}, "2", until=5)]
queue = AsAsked(iter(trials), 3)
print(json.dumps([queue.suggest(str(n)) for n in range(4)]))
"""

TOGETHER = """
import json, sys, time
from pathlib import Path
from sweeps.ray_session import ray_session, set_ray_environment
from sweeps.compat import let_tune_use_waiting_workers
set_ray_environment(None)
folder = Path(sys.argv[1])
with ray_session(None, 3):
    let_tune_use_waiting_workers()
    from ray import tune
    from sweeps.trials import AsAsked
    from sweeps.worker import Trial

    def trial(config):
        # Asked for one by one, the first worker would wait in vain.
        (folder / f"here_{config['name']}").touch()
        until = time.monotonic() + 90
        while len(list(folder.glob("here_*"))) < 3 and time.monotonic() < until:
            time.sleep(0.1)
        tune.report({"together": len(list(folder.glob("here_*")))})

    trials = [Trial(str(number), {}, "") for number in range(3)]
    results = tune.Tuner(
        trial,
        tune_config=tune.TuneConfig(search_alg=AsAsked(iter(trials), 3), num_samples=3, reuse_actors=True),
        run_config=tune.RunConfig(verbose=0, storage_path=str(folder / "tune")),
    ).fit()
    print(json.dumps([result.metrics["together"] for result in results]))
"""


@pytest.mark.slow
def test_a_trial_finds_a_worker_that_has_imported_all_it_needs_on_a_ray_with_no_more_than_it_needs(command, tmp_path):
    done = command("-c", WAITING, tmp_path / "tune")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["torch", "mlflow", "sweeps.worker", "gcs_server"]


@pytest.mark.slow
def test_each_trial_is_given_once_and_in_order_and_some_later(command):
    done = command("-c", GIVEN)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        {"name": "a", "config": {}, "run_id": "1", "until": None},
        None,  # not now
        {"name": "b", "config": {}, "run_id": "2", "until": 5},
        "FINISHED",
    ]


@pytest.mark.slow
def test_runs_go_side_by_side(command, tmp_path):
    done = command("-c", TOGETHER, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [3, 3, 3]


@pytest.mark.parametrize(
    ("address", "token", "variables", "mode"),
    [
        ("head:6379", "", {}, None),
        ("head:6379", ".ray/auth_token", {}, "token"),
        ("head:6379", "elsewhere", {"RAY_AUTH_TOKEN_PATH": "elsewhere"}, "token"),
        ("head:6379", ".ray/auth_token", {"RAY_AUTH_MODE": "disabled"}, "disabled"),
        (None, "", {}, "token"),  # of this machine: nobody else is to have a say in the workers
    ],
)
def test_where_there_is_a_token_it_is_sent(monkeypatch, tmp_path, address, token, variables, mode):
    monkeypatch.chdir(tmp_path)
    if token:
        (tmp_path / token).parent.mkdir(exist_ok=True)
        (tmp_path / token).write_text("secret")
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), **variables})
    set_ray_environment(address)
    assert os.environ.get("RAY_AUTH_MODE") == mode
