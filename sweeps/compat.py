"""The private names and formats of Ray and MLflow that sweeps lean on, each with what it is for.

Tried with Ray 2.60 and MLflow 3.17. tests/sweeps/test_compat.py names each one, but for Ray's start: that one is in
tests/sweeps/test_run_grid.py.
"""

import json
import os
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from gan_core import metric_names as names

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# MLflow's prepared view: a tag of the experiment, named in the address. It opens on every run's curves and
# samples, with nothing to unfold and nothing to click.
CURVES = (names.FD, names.LOSS_D, names.LOSS_G)  # in the order shown
VIEW_TAG = "mlflow.sharedViewState."  # and the view's key
MAIN = "Fréchet distance, losses and samples"  # the section that is open
FOLDED = ("loss_std", "quality", "score", "time")  # for the UI's charts of other metrics: what precedes the /
LAYOUT = {"columns": 2, "cardHeight": 290}  # all four, and the slider, on 1600 × 1000 pixels

RAYS_SERVERS = ("start_api_server", "start_monitor", "start_log_monitor")


def view_state(parent_id: str, grouped: bool, sheet_step: int = 0) -> dict[str, Any]:
    """What differs from the UI's own state; it fills in the rest.

    `grouped`: the list of runs, by setting. `sheet_step`: the epoch that the slider of the samples stands at,
    one of which there are samples.
    """
    curves = [{"type": "LINE", "metricKey": key, "xAxisKey": "step", "lineSmoothness": 0} for key in CURVES]
    # With each run's params above its sheet, a sheet would fill the panel.
    sheets = {"type": "IMAGE", "imageKeys": [names.SAMPLES], "step": sheet_step, "showRunParams": False}
    charts = enumerate([*curves, sheets])
    by_setting = [{"mode": "tag", "groupByData": names.SETTING}]
    return {
        "searchFilter": f"tags.`{names.PARENT}` = '{parent_id}'",
        # Sorted by anything but the date, runs are a flat list: no child is folded away. The best come first.
        "orderByKey": f"metrics.`{names.FD}`",
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",  # not the first ten alone
        "groupBy": {"aggregateFunction": "average", "groupByKeys": by_setting} if grouped else None,
        # A curve for each run: a group's own has a colour of the UI's choice, and a group has no samples.
        "useGroupedValuesInCharts": False,
        "hideEmptyCharts": False,  # so that what comes late, such as the distance, moves nothing
        "compareRunCharts": [{**chart, "uuid": f"chart-{n}", "metricSectionId": MAIN} for n, chart in charts],
        "compareRunSections": [
            {"uuid": MAIN, "name": MAIN, "display": True, **LAYOUT},
            *({"uuid": name, "name": name, "display": False} for name in FOLDED),
        ],
        "isAccordionReordered": True,  # else the UI sorts the sections by name
    }


def write_view(client: "MlflowClient", parent: "Run", grouped: bool, sheet_step: int = 0) -> None:
    """Keep the view of a sweep, in place of an earlier one; its key is the parent's run id.

    The UI lists it among the experiment's views, by the sweep's name.
    """
    info = parent.info
    state = json.dumps(view_state(info.run_id, grouped, sheet_step))  # text within text: the UI wants it so
    view = {"name": info.run_name, "createdAt": info.start_time, "state": state}
    client.set_experiment_tag(info.experiment_id, VIEW_TAG + info.run_id, json.dumps(view))


def view_address(server: str, experiment_id: str, parent_id: str) -> str:
    """Where the UI at `server` shows the view, as charts, and not in its part for GenAI."""
    query = {"compareRunsMode": "CHART", "workflowType": "machine_learning", "viewStateShareKey": parent_id}
    return f"{server}/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def let_tune_use_waiting_workers() -> None:
    """Tune asks for workers with variables of its own in their environment, which Ray would start afresh.

    Its own is PL_DISABLE_FORK, for PyTorch Lightning; ours the workers have from Ray itself. Should another
    version of Tune ask for more, the first training step comes some seconds later, and that is all. To be
    called when no other thread is importing Tune: of two that import it at once one can meet half of it.
    """
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS.clear()
    os.environ.pop("RAY_CHDIR_TO_TRIAL_DIR", None)


def leave_out_rays_servers() -> None:
    """A Ray on one machine starts without what nobody asks there: its start takes some seconds less.

    That is its dashboard's server, for which it waits even where nothing is shown, a cluster's autoscaler, and
    what brings the workers' output to the terminal.
    """
    from ray._private.node import Node

    for name in RAYS_SERVERS:
        setattr(Node, name, lambda *_, **__: None)


def keep_keys_from_tune() -> None:
    """Tune puts the keys of AWS into what Ray shows of a worker; ours reach the workers as an object."""
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}


def end_half_started_ray(error: BaseException) -> None:
    """End what Ray had begun on this machine when it raised `error`: it does so itself only once it has started."""
    from ray._private.node import Node

    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(node := frame.f_locals.get("self"), Node):
            node.kill_all_processes(check_alive=False, wait=True)
