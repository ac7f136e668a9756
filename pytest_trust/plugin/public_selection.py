"""`--trust-profile=public`: public benchmarks whose rows are on this machine run.

The others are listed as not measured, with the way to get their rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_trust.catalog.public.adapter import NotFound
from pytest_trust.errors import TrustError
from pytest_trust.probes import PUBLIC

if TYPE_CHECKING:
    from pytest_trust.audit.config import TrustConfig

_NOT_MEASURED = "not measured: "


class PublicSelection:
    """Skips the tests of benchmarks without rows, before anything is loaded for them. Broken rows stop the run."""

    def __init__(self, trust: TrustConfig) -> None:
        self.trust = trust
        self.missing: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            marker = item.get_closest_marker("trust")
            suite = str(marker.args[0]) if marker and marker.args else ""
            reason = self._reason(suite)
            if reason:
                # With its `trust` marker, the test's suite would be loaded.
                item.own_markers = [own for own in item.own_markers if own is not marker]
                item.add_marker(pytest.mark.skip(reason=f"{_NOT_MEASURED}{reason}"))

    def _reason(self, suite: str) -> str:
        from pytest_trust.catalog.public import load_public

        if not suite.startswith(PUBLIC):
            return ""
        if suite not in self.missing:
            self.missing[suite] = ""
            try:
                load_public(suite, data=self.trust.data, accept_data_change=self.trust.accept_data_change)
            except NotFound as error:
                self.missing[suite] = str(error)
            except TrustError as error:
                raise pytest.UsageError(str(error)) from None
        return self.missing[suite]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        # The reasons are read from the reports, because xdist's workers send reports only.
        reasons = (
            report.longrepr[2]
            for report in terminalreporter.stats.get("skipped", ())
            if isinstance(report.longrepr, tuple)
        )
        found = (reason.partition(_NOT_MEASURED)[2] for reason in reasons)
        lines = list(dict.fromkeys(line for line in found if line.startswith(PUBLIC)))
        if lines:
            terminalreporter.section(f"public benchmarks not measured: {len(lines)}", sep="=")
            for line in lines:
                terminalreporter.write_line(line)
