"""Renderings of a comparison: plain dictionaries of built-in types in, lines of text or a JSON document out.

Nothing here computes a verdict, and nothing here imports pytest, torch or NumPy: a renderer reads the gate
record that travelled with a test report (see :mod:`pytest_trust.report.json_report` for its keys) and returns
text.
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
