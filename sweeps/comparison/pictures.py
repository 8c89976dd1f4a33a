"""What is fetched of the runs' files: sample sheets, and the highest losses of the first epoch."""

import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.exceptions import MlflowException
from PIL import Image

from gan_core.metric_names import sheet_name
from gan_core.plots import SHEET_SCALE
from gan_core.tracking.queries import MlflowClient
from sweeps.comparison.loss_claims import Peaks
from sweeps.comparison.records import RunRecord

SHEETS = "samples"
MOST_COLUMNS = 4
THREADS = 8  # a server answers several at once


def sheet_epochs(client: MlflowClient, runs: Sequence[RunRecord]) -> dict[str, list[int]]:
    """The epochs after which each run kept a sheet, by run id."""

    def ask(run: RunRecord) -> list[int]:
        try:
            # By the artifacts' address: the client asks the store for it, which takes as long again.
            found = list_artifacts(f"{run.artifact_uri}/{SHEETS}", tracking_uri=client.tracking_uri)
            return sorted(epoch_of(file.path) for file in found)
        except (MlflowException, OSError, ValueError):
            return []

    with ThreadPoolExecutor(THREADS) as threads:
        return dict(zip((run.run_id for run in runs), threads.map(ask, runs), strict=True))


def columns(epochs: Iterable[Sequence[int]]) -> list[int]:
    """A few epochs that tell the course: the first, the last, and some between that most runs have kept."""
    kept = [set(each) - {0} for each in epochs if each]
    if not kept:
        return []
    common = sorted(set.intersection(*kept) or set.union(*kept))
    if len(common) <= MOST_COLUMNS:
        return common
    # Evenly in the logarithm: early epochs change most.
    wanted = np.geomspace(common[0], common[-1], MOST_COLUMNS)
    nearest = [min(common, key=lambda epoch: abs(np.log(epoch / target))) for target in wanted]
    return sorted(set(nearest))


def fetch_sheets(
    client: MlflowClient, wanted: Sequence[tuple[RunRecord, int]]
) -> dict[tuple[str, int], bytes]:
    """Sheets as PNG by (run id, epoch), a pixel for a pixel of an image; without those that are not there."""

    def fetch(what: tuple[RunRecord, int]) -> bytes | None:
        run, epoch = what
        try:
            with _fetched(client, run, sheet_name(epoch)) as path, Image.open(path) as sheet:
                size = (sheet.width // SHEET_SCALE, sheet.height // SHEET_SCALE)
                small = sheet.convert("L").resize(size, Image.Resampling.NEAREST)
        except (MlflowException, OSError, ValueError):
            return None
        png = io.BytesIO()
        small.save(png, format="png")
        return png.getvalue()

    with ThreadPoolExecutor(THREADS) as threads:
        found = zip(wanted, threads.map(fetch, wanted), strict=True)
        return {(run.run_id, epoch): png for (run, epoch), png in found if png}


def first_epoch_peaks(client: MlflowClient, runs: Sequence[RunRecord]) -> Mapping[str, Peaks]:
    """The highest loss of an iteration in the first epoch, by run id; without the runs that kept none."""
    peaks = {}
    for run in runs:
        try:
            with _fetched(client, run, "losses.npz") as path, np.load(path) as arrays:
                peaks[run.run_id] = Peaks(
                    float(arrays["discriminator"][0].max()), float(arrays["generator"][0].max())
                )
        except (MlflowException, OSError, BadZipFile, KeyError, IndexError, ValueError):
            continue  # the claim says that they are missing
    return peaks


@contextmanager
def _fetched(client: MlflowClient, run: RunRecord, name: str) -> Iterator[Path]:
    """A copy of a run's artifact, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="gan-artifact-") as folder:
        address = f"{run.artifact_uri}/{name}"
        yield Path(download_artifacts(address, dst_path=folder, tracking_uri=client.tracking_uri))


def epoch_of(path: str) -> int:
    """The epoch in a sheet's path."""
    return int(Path(path).stem.removeprefix(Path(sheet_name(0)).stem.rstrip("0")))
