"""The objects that the `trust` fixture gives to a test, and the functions behind the fixtures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_trust.errors import InvalidInput, TrustError
from pytest_trust.models.reference import Pair, Reference, parse_reference
from pytest_trust.plugin import options
from pytest_trust.plugin.verdicts import RECORDS, Inconclusive, NotMeasured, Regression

if TYPE_CHECKING:
    from pytest_trust.audit.audit import Audit
    from pytest_trust.audit.config import TrustConfig
    from pytest_trust.audit.policy import Policy
    from pytest_trust.drift.summary import Drift
    from pytest_trust.plugin.progress import ProgressLine, WorkerProgress
    from pytest_trust.probes import Suite
    from pytest_trust.records import GateRecord

_AUDIT: pytest.StashKey[Audit] = pytest.StashKey()
POLICY: pytest.StashKey[Policy] = pytest.StashKey()
"""The run's policy, once it is read."""
_PROGRESS: pytest.StashKey[ProgressLine | WorkerProgress | None] = pytest.StashKey()
_SUITES: pytest.StashKey[dict[tuple[str, str | None, str], Suite]] = pytest.StashKey()
_FAILURES: pytest.StashKey[dict[Pair, tuple[str, str]]] = pytest.StashKey()
_MARKER_KEYS = ("dimension", "margin", "ceiling", "never")


@dataclass(frozen=True, slots=True)
class Result:
    """One gate's verdict. `assert result.held` ends the test as the verdict says; to branch, read `verdict`.

    record: the gate's record, as in the JSON report. diff: the drift diff as text.
    strict: whether inconclusive gates fail (`--trust-strict`).
    """

    record: GateRecord
    diff: str
    strict: bool = False

    @property
    def verdict(self) -> str:
        """`held`, `regressed`, `inconclusive` or `not measured`."""
        return self.record.verdict

    @property
    def delta(self) -> float | None:
        """candidate - baseline, larger is worse."""
        return self.record.delta

    @property
    def measured(self) -> bool:
        """True when both sides were measured, whatever the verdict. Otherwise the test ends as an error."""
        __tracebackhide__ = True
        if self.verdict == "not measured":
            raise NotMeasured(_line("not measured", self.record))
        return True

    @property
    def held(self) -> bool:
        """True when a regression beyond the margin is ruled out. Otherwise it ends the test.

        A regressed gate fails with the drift diff. An inconclusive gate is skipped with the number of probes it would
        take; under --trust-strict it fails. A gate that is not measured is an error.
        """
        __tracebackhide__ = True
        if self.verdict == "regressed":
            raise Regression(self.diff)
        if self.verdict == "inconclusive":
            from pytest_trust.report.drift_diff import inconclusive_reason

            if self.strict:
                raise Inconclusive(f"{inconclusive_reason(self.record)} (--trust-strict)\n{self.diff}")
            pytest.skip(inconclusive_reason(self.record))
        return self.measured


def _line(verdict: str, record: GateRecord) -> str:
    from pytest_trust.report.drift_diff import not_measured_reason

    line = not_measured_reason(record)
    return line if line.startswith(verdict) else f"{verdict}: {line}"


class Trust:
    """Compares the pair in one test. Every comparison becomes a record of the run's report."""

    def __init__(self, audit: Audit, pair: Pair, item: pytest.Item, trust: TrustConfig) -> None:
        self.pair = pair
        self._audit = audit
        self._item = item
        self._trust = trust

    def compare(
        self,
        suite: str | Path,
        gate: str | None = None,
        *,
        judge: str | Callable[..., Any] | None = None,
        margin: float | None = None,
    ) -> Result:
        """Compare the two models on one gate of a suite.

        suite: the name of a bundled suite, or the path of a YAML or JSONL probe file, relative to the test's file.
        gate: the gate's name; may be left out where the suite has only one.
        judge: a judge's name, or a function (response, probe) that returns a bool (True is bad), a score in [0, 1], an
        outcome, or None where it cannot tell. By default the suite's own judge.
        margin: the non-inferiority margin in the metric's unit; by default the marker's, else the policy's.

        Raises InvalidInput for a wrong argument, and TrustError for a model that cannot run.
        """
        __tracebackhide__ = True
        from pytest_trust.report.drift_diff import drift_diff

        marks = marker_arguments(self._item)
        loaded = self._load(suite, judge if isinstance(judge, str) else None, marks.get("dimension", "custom"))
        compared = self._audit.compare(
            self.pair,
            loaded,
            loaded.gate(gate),
            judge=judge,
            margin=margin if margin is not None else marks.get("margin"),
            ceiling=marks.get("ceiling"),
            never=tuple(marks.get("never", ())),
            nodeid=self._item.nodeid,
        )
        self._item.stash.setdefault(RECORDS, []).append(compared)
        lineage = compared.pair.candidate.lineage
        diff = drift_diff(compared.gate, lineage=lineage, redact=self._trust.redact)
        return Result(compared.gate, diff, self._trust.strict)

    def kl(self, suite: str | Path) -> Drift:
        """KL(candidate || baseline) in nats per token, on the candidate's own responses, as in the audit's paper."""
        __tracebackhide__ = True
        return self.drift(suite, direction="candidate_baseline")

    def drift(
        self, suite: str | Path | Sequence[str], *, direction: str = "candidate_baseline", on: str = "responses"
    ) -> Drift:
        """Drift in nats per token, in one direction.

        direction:
        `candidate_baseline` is KL(candidate || baseline) on the candidate's responses.
        `baseline_candidate` is KL(baseline || candidate) on the baseline's responses. It shows what was forgotten.
        `answer_without_trace` is KL(candidate || baseline) on the candidate's answers after a trace. The candidate has
        read the trace, the baseline has not: this is how far the answer after reasoning is from the baseline's
        immediate answer.

        suite: a suite as for `compare`, or a list of texts, which both models read without a template.
        on: `responses`, or `prompts`, which are read alone and without a template. Texts longer than the context are
        read in overlapping windows; `windowed` counts them.

        Raises InvalidInput for another argument, and TrustError with the reason where there is no KL.
        """
        __tracebackhide__ = True
        if direction not in ("candidate_baseline", "baseline_candidate", "answer_without_trace"):
            raise InvalidInput(
                f"direction is {direction!r}, expected candidate_baseline, baseline_candidate or answer_without_trace"
            )
        if on not in ("responses", "prompts"):
            raise InvalidInput(f"on is {on!r}, expected responses or prompts")
        own = not isinstance(suite, (str, Path))
        if direction == "answer_without_trace" and (own or on == "prompts"):
            raise InvalidInput(
                f"direction is {direction!r} on {'texts' if own else 'prompts'}, which hold no answer after a trace: "
                "give a suite and on='responses', or the direction candidate_baseline or baseline_candidate"
            )
        if not isinstance(suite, (str, Path)):
            return self._audit.drifts.of_texts(self.pair, suite, None, direction, "texts")
        loaded = self._load(suite, None, "custom")
        if on == "prompts":
            probes = [probe for probe in loaded.probes if probe.prompt.strip()]
            clusters = [probe.cluster for probe in probes]
            return self._audit.drifts.of_texts(
                self.pair, [probe.prompt for probe in probes], clusters, direction, "prompts"
            )
        return self._audit.drifts.of_suite(self.pair, self._audit.way(loaded), direction)

    def _load(self, suite: str | Path, judge: str | None, dimension: str) -> Suite:
        path = Path(suite)
        if path.suffix in (".jsonl", ".yaml", ".yml") and not path.is_absolute():
            here = self._item.path.parent / path
            path = here if here.exists() else self._item.config.invocation_params.dir / path
            return _read_once(self._item.config, path, judge=judge, dimension=dimension)
        return _read_once(self._item.config, suite, judge=judge, dimension=dimension)


def marker_arguments(item: pytest.Item) -> dict[str, Any]:
    """The keyword arguments of the item's `trust` markers. The closest marker wins."""
    arguments: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("trust"))):
        arguments |= marker.kwargs
    return arguments


def check_markers(items: list[pytest.Item]) -> None:
    """Refuse wrong `trust` markers at collection. Raises pytest.UsageError that names the test and the fix."""
    for item in items:
        for marker in item.iter_markers("trust"):
            unknown = sorted(set(marker.kwargs) - set(_MARKER_KEYS))
            if unknown or len(marker.args) > 1:
                raise pytest.UsageError(
                    f"{item.nodeid}: @pytest.mark.trust takes a suite and {', '.join(_MARKER_KEYS)}, "
                    f"not {', '.join(unknown) or marker.args[1:]}"
                )
            for key in ("margin", "ceiling"):
                value = marker.kwargs.get(key, 1.0)
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                    raise pytest.UsageError(
                        f"{item.nodeid}: @pytest.mark.trust({key}={value!r}): "
                        "expected a positive number in the metric's unit"
                    )


def make_pair(baseline: Reference | str | None, candidate: Reference | str | None) -> Pair:
    if candidate is None or baseline is None:
        missing = "candidate" if candidate is None else "baseline"
        pytest.skip(f"no {missing} to compare: give --trust-baseline=MODEL and --trust-candidate=MODEL")
    return Pair(*(parse_reference(side) if isinstance(side, str) else side for side in (baseline, candidate)))


def audit_of(config: pytest.Config) -> Audit:
    """The audit of this process. It is made when the first test needs it."""
    if _AUDIT not in config.stash:
        from pytest_trust.audit.audit import Audit
        from pytest_trust.plugin.progress import note_line, progress_line

        workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
        config.stash[_PROGRESS] = progress = progress_line(config)
        audit = Audit(
            options.of(config),
            progress=progress,
            note=note_line(config),
            workers=workers,
            policy=config.stash.get(POLICY, None),
        )
        config.stash[_AUDIT] = audit
        config.add_cleanup(audit.close)
    return config.stash[_AUDIT]


def make_trust(request: pytest.FixtureRequest, pair: Pair) -> Trust:
    """The `trust` fixture's value, after the work of all selected tests is done.

    Doing all work at once fills the batches and loads each model once. Workers of xdist share the work: each computes
    what no other has claimed. An error (a model that cannot load) is reported once: the first test of the pair is an
    error, and the others are skipped with a reference to it.
    """
    __tracebackhide__ = True
    config = request.config
    failures = config.stash.setdefault(_FAILURES, {})
    failure = failures.get(pair)
    if failure is not None:
        pytest.skip(f"not measured, as in {failure[0]}: {failure[1]}")
    trust = options.of(config)
    if trust.plan or trust.record:
        pytest.skip("this run compares nothing")
    try:
        audit = audit_of(config)
        audit.acquire(pair, suites_of(request.session.items))
        return Trust(audit, pair, request.node, trust)
    except TrustError as error:
        message = str(error)
    progress = config.stash.get(_PROGRESS, None)
    if progress is not None:
        progress.stop()
    failures[pair] = (request.node.nodeid, message)
    # Inside of the except clause, pytest would print the message twice.
    pytest.fail(message, pytrace=False)


def suites_of(items: list[pytest.Item]) -> list[Suite]:
    names: dict[str | Path, None] = {}
    for item in items:
        for marker in item.iter_markers("trust"):
            if marker.args:
                here = item.path.parent / str(marker.args[0])
                names[here if here.suffix in (".yaml", ".jsonl") else str(marker.args[0])] = None
    if not names:
        return []
    return [_read_once(items[0].config, name) for name in names]


def _read_once(
    config: pytest.Config, suite: str | Path, *, judge: str | None = None, dimension: str = "custom"
) -> Suite:
    """A suite. Many tests use the same one, so the session reads it once."""
    from pytest_trust.catalog.files import load_suite

    found, key = config.stash.setdefault(_SUITES, {}), (str(suite), judge, dimension)
    if key not in found:
        trust = options.of(config)
        found[key] = load_suite(
            suite, judge=judge, dimension=dimension, data=trust.data, accept_data_change=trust.accept_data_change
        )
    return found[key]
