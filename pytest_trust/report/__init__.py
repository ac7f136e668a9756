"""Renders a comparison: a renderer reads a record of `pytest_trust.records` and returns text or a JSON document.

Nothing here computes a number or a verdict. Nothing here imports pytest, torch or NumPy.
"""

from pytest_trust.report.drift_diff import drift_diff, held_note, inconclusive_reason, not_measured_reason
from pytest_trust.report.json_report import comparable, read_report, write_report
from pytest_trust.report.plan import plan_lines
from pytest_trust.report.terminal import summary_lines

__all__ = [
    "comparable",
    "drift_diff",
    "held_note",
    "inconclusive_reason",
    "not_measured_reason",
    "plan_lines",
    "read_report",
    "summary_lines",
    "write_report",
]
