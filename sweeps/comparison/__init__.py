"""Which setting of a sweep is better: MLflow → record → comparison → verdict → page, terminal, pictures."""

from sweeps.comparison.compare import Comparison, compare
from sweeps.comparison.page import PAGE, report_files, write_overview
from sweeps.comparison.records import SweepRecord, find_sweep, read_sweep
from sweeps.comparison.render import print_summary, render

__all__ = [
    "PAGE",
    "Comparison",
    "SweepRecord",
    "compare",
    "find_sweep",
    "print_summary",
    "read_sweep",
    "render",
    "report_files",
    "write_overview",
]
