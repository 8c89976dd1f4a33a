import json

import pytest

WAITING = """
import json, sys
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
    print(json.dumps(result[0].metrics["there"]))
"""


@pytest.mark.slow
def test_a_trial_finds_a_worker_that_has_imported_all_it_needs(command, tmp_path):
    done = command("-c", WAITING, tmp_path / "tune")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["torch", "mlflow", "sweeps.worker"]
