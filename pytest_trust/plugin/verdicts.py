"""Verdicts as pytest outcomes: held passes, regressed fails, inconclusive is skipped, not measured is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_trust.records import ComparisonRecord

RECORDS: pytest.StashKey[list[ComparisonRecord]] = pytest.StashKey()


class Regression(AssertionError):
    """The candidate regressed on a gate; the message is the drift diff."""


class NotMeasured(Exception):
    """A gate could not be measured; the message says why and what to do."""


class Inconclusive(AssertionError):
    """There are too few probes to tell, and the run is strict."""


# Tracebacks print a class with its module unless it is a builtin. Only the message counts here.
for _class in (Regression, NotMeasured, Inconclusive):
    _class.__module__ = "builtins"

_GATE_ERRORS = (Regression, NotMeasured, Inconclusive)


def annotate(report: pytest.TestReport, item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """Put the gates' records on the report in built-in types. Reports carry them to the controller under xdist."""
    if call.when != "call" and not report.failed:
        return
    from pytest_trust.records import to_json

    records = item.stash.get(RECORDS, [])
    report.trust_records = [to_json(record) for record in records]  # type: ignore[attr-defined]
    for record in records:
        for key in ("gate", "verdict", "delta", "lower", "upper", "margin"):
            item.user_properties.append((f"trust_{key}", getattr(record.gate, key)))  # JUnit reads them at teardown
    error = call.excinfo.value if call.excinfo else None
    report.trust_not_measured = isinstance(error, NotMeasured)  # type: ignore[attr-defined]
    crash = getattr(report.longrepr, "reprcrash", None)
    if isinstance(error, _GATE_ERRORS) and crash is not None:
        crash.message = str(error)  # the short summary shows its first line, without the exception's name
