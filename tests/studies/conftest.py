"""The made-up sweeps of tests/sweeps."""

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("made_up_sweeps", Path(__file__).parents[1] / "sweeps" / "conftest.py")
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
made_up, store_client = _MODULE.made_up, _MODULE.store_client
