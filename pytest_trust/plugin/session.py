"""The hooks of a run that measures; they are registered only then.

Test reports carry the records of comparisons. The controller collects and writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_trust.errors import TrustError
from pytest_trust.plugin import options
from pytest_trust.plugin.collection import SuiteCollection
from pytest_trust.plugin.fixtures import POLICY

if TYPE_CHECKING:
    from pytest_trust.plugin.progress import WorkersProgress
    from pytest_trust.records import ComparisonRecord, RunRecord


class TrustRun:
    """The part of a run in one process: the controller's, or a worker's of xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.trust = options.of(config)
        self.records: list[ComparisonRecord] = []
        self.failed_report = ""
        self.interrupted = False
        self.workers: WorkersProgress | None = None
        self.worker = getattr(config, "workerinput", None)
        if self.worker is not None:
            from pytest_trust.plugin.xdist import claim_resources

            claim_resources(self.worker["workerid"], int(self.worker["workercount"]), spread=self.trust.spread)
        try:
            collection = SuiteCollection(self.trust)
            config.stash[POLICY] = collection.policy
        except TrustError as error:
            raise pytest.UsageError(str(error)) from None
        collection.modules()
        config.pluginmanager.register(collection, "trust-collection")
        if collection.finds_public():
            from pytest_trust.plugin.public_selection import PublicSelection

            config.pluginmanager.register(PublicSelection(self.trust), "trust-public")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """xdist calls this in the controller, for each worker before it starts."""
        from pytest_trust.plugin.progress import DIRECTORY, watch_workers

        if self.workers is None:
            self.workers = watch_workers(self.config)
        if self.workers is not None:
            node.workerinput[DIRECTORY] = str(self.workers.directory)
            self.workers.start()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        if self.workers is not None:
            self.workers.lost(node.gateway.id)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        from pytest_trust.plugin.fixtures import check_markers, suites_of

        check_markers(session.items)
        try:
            suites_of(session.items)  # a wrong probe file is refused before a model is loaded
        except TrustError as error:
            raise pytest.UsageError(str(error)) from None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Do the work of `--trust-plan`, `--trust-mutants` or `--trust-record`, which run no tests."""
        if self.worker is not None or session.testsfailed or session.config.option.collectonly:
            return None
        if self.trust.plan:
            self._print_plan(session)
            return True
        if self.trust.mutants is not None:
            self._run_mutants(session)
            return True
        if self.trust.record is not None:
            self._record(session)
            return True
        return None

    def _print_plan(self, session: pytest.Session) -> None:
        from pytest_trust.audit.audit import Audit
        from pytest_trust.audit.plan import plan_of
        from pytest_trust.plugin.fixtures import suites_of
        from pytest_trust.report.plan import plan_lines

        audit = Audit(self.trust, policy=self.config.stash[POLICY])
        try:
            self._write(plan_lines(plan_of(audit, suites_of(session.items)), width=self._width()))
        except TrustError as error:
            raise pytest.UsageError(str(error)) from None
        finally:
            audit.close()

    def _run_mutants(self, session: pytest.Session) -> None:
        from pytest_trust.audit.mutants import run_mutants
        from pytest_trust.plugin.fixtures import audit_of, suites_of
        from pytest_trust.report.mutants import mutant_lines, write_mutants

        assert self.trust.baseline is not None and self.trust.mutants is not None
        try:
            suites = suites_of(session.items)
            found = run_mutants(audit_of(self.config), self.trust.baseline, suites, self.trust.mutants)
            if self.trust.report is not None:
                write_mutants(self.trust.report, found)
        except TrustError as error:
            raise pytest.UsageError(str(error)) from None
        self._write(mutant_lines(found, width=self._width()))
        session.testsfailed += not found.passed  # exit code 1

    def _record(self, session: pytest.Session) -> None:
        from pytest_trust.audit.record_file import write_recording
        from pytest_trust.plugin.fixtures import audit_of, suites_of

        reference = self.trust.baseline or self.trust.candidate
        assert reference is not None and self.trust.record is not None
        try:
            audit = audit_of(self.config)
            jobs = [audit.job(way) for suite in suites_of(session.items) for way in audit.ways(suite)]
            write_recording(self.trust.record, audit.executor, reference, jobs, topk=self.trust.record_topk)
        except TrustError as error:
            raise pytest.UsageError(str(error)) from None
        size = self.trust.record.stat().st_size
        answers = sum(len(job.probes) * job.repeats() for job in jobs)
        line = (
            f"trust: recorded {reference.label}: {answers} responses of {len(jobs)} suites "
            f"in {self.trust.record} ({size / 1e6:.1f} MB)"
        )
        self._write([(line, {})])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.worker is None and getattr(report, "trust_records", None):
            from pytest_trust.records import ComparisonRecord, from_json

            self.records += [from_json(ComparisonRecord, value) for value in report.trust_records]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.workers is not None:
            self.workers.stop()
        if self.worker is not None or not self.trust.compares or session.config.option.collectonly:
            return
        if self.trust.report is not None and self.records:
            from pytest_trust.report.json_report import write_report

            try:
                write_report(self.trust.report, self.run_record(), redact=self.trust.redact)
            except TrustError as error:
                self.failed_report = str(error)
                session.exitstatus = pytest.ExitCode.USAGE_ERROR
        if exitstatus == pytest.ExitCode.OK and all(one.gate.verdict == "not measured" for one in self.records):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def pytest_keyboard_interrupt(self) -> None:
        self.interrupted = True

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.worker is not None or not self.trust.compares or self.config.option.collectonly:
            return
        terminalreporter.section("trust", sep="=")
        if self.failed_report:
            terminalreporter.write_line(self.failed_report, red=True)
        if self.interrupted:
            terminalreporter.write_line(
                f"interrupted: finished batches are kept in {self.trust.store}, and the same command goes on from there"
            )
        if not self.records:
            if not self.interrupted:
                terminalreporter.write_line("a candidate was given and nothing was compared", red=True)
            return
        from pytest_trust.report.terminal import summary_lines

        self._write(summary_lines(self.run_record(), width=self._width()))

    def run_record(self) -> RunRecord:
        """The run's document, made from the records. The controller loads no model for it."""
        from pytest_trust.audit.summary import run_record

        return run_record(
            self.records,
            labels=[candidate.label for candidate in self.trust.candidates],
            profile=self.trust.profile,
            policy=self.trust.policy.name if self.trust.policy else "bundled",
            store=str(self.trust.store),
            report=str(self.trust.report) if self.trust.report and not self.failed_report else None,
        )

    def _width(self) -> int:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        return max(60, terminal._tw.fullwidth) if terminal else 80

    def _write(self, lines: list[tuple[str, Any]]) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None:
            return
        terminal.ensure_newline()
        for text, markup in lines:
            terminal.write_line(text, **markup)
