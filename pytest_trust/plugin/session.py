"""A run that was asked to measure: registered only then. Collects the results that ride on the reports, and writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_trust.errors import TrustError
from pytest_trust.plugin import options
from pytest_trust.plugin.collection import SuiteCollection

if TYPE_CHECKING:
    from pytest_trust.plugin.progress import WorkersProgress


class TrustRun:
    """The controller's part, and in a worker the worker's: one object per process, on the run's own hooks."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.trust = options.of(config)
        self.records: list[dict[str, Any]] = []
        self.failed_report = ""
        self.interrupted = False
        self.workers: WorkersProgress | None = None
        self.worker = getattr(config, "workerinput", None)
        if self.worker is not None:
            from pytest_trust.plugin.xdist import claim_resources

            claim_resources(self.worker["workerid"], int(self.worker["workercount"]), spread=self.trust.spread)
        try:
            collection = SuiteCollection(self.trust)
        except TrustError as error:
            raise pytest.UsageError(str(error)) from None
        collection.modules()
        config.pluginmanager.register(collection, "trust-collection")
        if collection.finds_public():
            from pytest_trust.plugin.public_selection import PublicSelection

            config.pluginmanager.register(PublicSelection(self.trust), "trust-public")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """xdist's, in the controller, for each worker before it starts."""
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
        """`--trust-plan`, `--trust-mutants` and `--trust-record` run no tests."""
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

        audit = Audit(self.trust)
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
            document = run_mutants(audit_of(self.config), self.trust.baseline, suites, self.trust.mutants)
            if self.trust.report is not None:
                write_mutants(self.trust.report, document)
        except TrustError as error:
            raise pytest.UsageError(str(error)) from None
        self._write(mutant_lines(document, width=self._width()))
        session.testsfailed += not document["passed"]  # exit code 1

    def _record(self, session: pytest.Session) -> None:
        from pytest_trust.audit.record_file import write_recording
        from pytest_trust.plugin.fixtures import audit_of, suites_of

        reference = self.trust.baseline or self.trust.candidate
        assert reference is not None and self.trust.record is not None
        try:
            audit = audit_of(self.config)
            jobs = [audit.job(suite) for suite in suites_of(session.items)]
            write_recording(self.trust.record, audit.executor, reference, jobs, topk=self.trust.record_topk)
        except TrustError as error:
            raise pytest.UsageError(str(error)) from None
        size = self.trust.record.stat().st_size
        answers = sum(len(job.probes) * job.repeats() for job in jobs)
        self._write(
            [
                (
                    f"trust: recorded {reference.label}: {answers} responses of {len(jobs)} suites in {self.trust.record} ({size / 1e6:.1f} MB)",
                    {},
                )
            ]
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.worker is None:
            self.records += getattr(report, "trust_records", [])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.workers is not None:
            self.workers.stop()
        if self.worker is not None or not self.trust.compares or session.config.option.collectonly:
            return
        if self.trust.report is not None and self.records:
            from pytest_trust.report.json_report import write_report

            try:
                write_report(self.trust.report, self.records_without_run(), self.meta(), redact=self.trust.redact)
            except TrustError as error:
                self.failed_report = str(error)
                session.exitstatus = pytest.ExitCode.USAGE_ERROR
        if exitstatus == pytest.ExitCode.OK and not any(record["verdict"] != "not measured" for record in self.records):
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

        self._write(summary_lines(self.records, self.meta(), width=self._width()))

    def records_without_run(self) -> list[dict[str, Any]]:
        """The records as they are reported, with Holm's p-values over each family of gates."""
        from pytest_trust.stats.corrections import holm

        inner = ("run", "dimension_drift", "drift_by_flip")
        kept = [{key: value for key, value in record.items() if key not in inner} for record in self.records]
        tested = [record for record in kept if not record["control"] and record["p_value"] is not None]
        for record in kept:
            record["p_holm"] = None

        def of(record: dict[str, Any]) -> tuple[str, int]:
            """A candidate's gates of the policy, or its public ones."""
            return record["candidate"]["model"], record["family"]

        for group in {of(record) for record in tested}:
            family, members = group[1], [record for record in tested if of(record) == group]
            adjusted = holm([record["p_value"] for record in members], family).tolist()
            for record, value in zip(members, adjusted, strict=True):
                record["p_holm"] = value
        return kept

    def meta(self) -> dict[str, Any]:
        """What all gates have in common, from the records: the controller loads nothing."""
        candidates = self._candidates()
        first = candidates[0]
        return {
            "baseline": self.records[0]["run"]["baseline"],
            "candidate": first,
            "candidates": candidates,
            "warnings": sorted(
                {note for record in self.records for note in (*record["run"]["warnings"], *record.get("notes", ()))}
            ),
            "profile": self.trust.profile,
            "policy": self.trust.policy.name if self.trust.policy else "bundled",
            "drift": first["drift"],
            "identical": all(candidate["identical"] for candidate in candidates),
            "report": str(self.trust.report) if self.trust.report and not self.failed_report else None,
            "store": str(self.trust.store),
        }

    def _candidates(self) -> list[dict[str, Any]]:
        """What is known of each candidate, in the order of the options."""
        from pytest_trust.audit.drift_flips import flip_auc
        from pytest_trust.report.trust_tax import trust_tax

        given = [candidate.label for candidate in self.trust.candidates]
        by_label: dict[str, list[dict[str, Any]]] = {}
        for record in self.records:
            by_label.setdefault(record["candidate"]["model"], []).append(record)
        found = []
        for label in sorted(by_label, key=lambda label: given.index(label) if label in given else len(given)):
            records = by_label[label]
            drift = {record["dimension"]: record["dimension_drift"] for record in records if record["dimension_drift"]}
            identical = bool(drift) and all(one["identical"] for one in drift.values())
            tax = trust_tax(sorted(records, key=lambda record: (record["gate"], record["nodeid"])))
            for dimension, row in tax["dimensions"].items():
                own = [
                    record["drift_by_flip"]
                    for record in records
                    if record["dimension"] == dimension and not record["control"]
                ]
                row["drift_auc"] = flip_auc(
                    {side: [value for one in own for value in one[side]] for side in ("flipped", "unflipped")}
                )
            found.append({**records[0]["run"]["candidate"], "drift": drift, "identical": identical, "tax": tax})
        return found

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
