"""The report of a run: what it learned, how good that is, and where it fails, on one page that needs nothing else."""

from training.report.findings import Findings, judged, of_run, with_version
from training.report.page import CURVES_FILE, PAGE_FILE, write

__all__ = ["CURVES_FILE", "PAGE_FILE", "Findings", "judged", "of_run", "with_version", "write"]
