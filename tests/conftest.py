import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan_core.data import ImageSet, load_images

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return load_images("digits")


@pytest.fixture
def command(tmp_path):
    """Run one of the project's commands in a folder of the test's own; the finished process."""

    def run(*words, cwd=tmp_path, timeout=300, **environment):
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=cwd,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
