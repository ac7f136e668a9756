"""The drift of an audit's pairs: read from the engine once, summarised for a suite or a dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pytest_trust.errors import TrustError
from pytest_trust.records import (
    DriftByFlip,
    DriftRecord,
    DriftSummary,
    GateRecord,
    TextDriftRecord,
    TraceDependenceRecord,
)

if TYPE_CHECKING:
    from pytest_trust.audit.executor import Executor
    from pytest_trust.drift.pair_drift import PairDrift
    from pytest_trust.drift.summary import Drift, TokenDrift
    from pytest_trust.drift.trace_dependence import Dependence
    from pytest_trust.models.reference import Pair, Reference
    from pytest_trust.probes import Suite
    from pytest_trust.responses import Job

NO_TOKENS = "no tokens to measure it on"
DIRECTIONS = {
    "candidate_baseline": ("KL(candidate || baseline)", "candidate responses"),
    "baseline_candidate": ("KL(baseline || candidate)", "baseline responses"),
}
#: KL(p_c(y | x, z) || p_b(y | x)): the candidate has read its own trace z, the baseline only the prompt x.
WITHOUT_TRACE = {
    "answer_without_trace": ("KL(candidate || baseline)", "candidate answers, given its trace to the candidate only")
}


class Work(Protocol):
    """The part of an audit that `Drifts` uses: its executor and its jobs."""

    @property
    def executor(self) -> Executor: ...

    def job(self, suite: Suite, pair: Pair | None = None) -> Job: ...


class Drifts:
    """The drift of suites that an audit has acquired.

    `alpha`: error rate of each one-sided limit. `shared_template`: both models read the texts behind the baseline's
    template.
    """

    def __init__(self, work: Work, *, alpha: float, shared_template: bool) -> None:
        self._work = work
        self._alpha = alpha
        self._shared_template = shared_template
        # The keys hold `id(job)`. The values keep the job alive, so that no other job gets this id.
        self._pairs: dict[tuple[Reference, Reference, int], tuple[Job, PairDrift]] = {}
        self._dependences: dict[tuple[Reference, Reference, int], tuple[Job, tuple[Dependence, Dependence]]] = {}
        self._records: dict[tuple[Reference, Reference, tuple[str, ...]], DriftRecord | None] = {}

    def _of_pair(self, pair: Pair, suite: Suite) -> PairDrift:
        """The pair's stored drift on a suite that has been acquired. It is read once."""
        from pytest_trust.drift.measure import stored_drift

        job = self._work.job(suite, pair)
        key = (pair.baseline, pair.candidate, id(job))
        if key not in self._pairs:
            self._pairs[key] = job, stored_drift(self._work.executor.engine, job, pair.baseline, pair.candidate)
        return self._pairs[key][1]

    def of_tokens(self, pair: Pair, suites: Sequence[Suite], direction: str) -> tuple[list[TokenDrift], str]:
        """Token drifts of the suites in one direction, in a fixed order; beside them the reason if there are none."""
        drifts: list[TokenDrift] = []
        reasons = []
        for suite in sorted(suites, key=lambda suite: suite.key):
            found = self._of_pair(pair, suite)
            by_probe: Mapping[str, TokenDrift] = getattr(found, direction)
            drifts += [by_probe[probe] for probe in sorted(by_probe)]
            reasons.append(getattr(found, f"{direction}_reason"))
        return drifts, next(filter(None, reasons), NO_TOKENS)

    def record(self, pair: Pair, suites: Sequence[Suite]) -> DriftRecord | None:
        """Drift of the suites' responses in both directions, with the noise floor.

        A direction without drift has its reason. None where there was nothing to measure.
        """
        key = (pair.baseline, pair.candidate, tuple(sorted(suite.key for suite in suites)))
        if key not in self._records:
            self._records[key] = self._record(pair, suites)
        return self._records[key]

    def _record(self, pair: Pair, suites: Sequence[Suite]) -> DriftRecord | None:
        forth, forth_reason = self._summary(pair, suites, "candidate_baseline")
        back, back_reason = self._summary(pair, suites, "baseline_candidate")
        without_trace, _ = self._summary(pair, suites, "answer_without_trace")
        measured = [one for one in (forth, back) if one]
        texts = self._texts(pair, suites)
        dependence = self._dependence(pair, suites)
        if not measured and not texts and not dependence and {forth_reason, back_reason} == {NO_TOKENS}:
            return None
        return DriftRecord(
            candidate_baseline=forth,
            candidate_baseline_reason=forth_reason,
            baseline_candidate=back,
            baseline_candidate_reason=back_reason,
            answer_without_trace=without_trace,
            trace_dependence=dependence,
            floor=self._floor(pair, suites) if measured else None,
            identical=bool(measured) and all((one.maximum or 0.0) <= 1e-6 and not one.infinite for one in measured),
            texts=texts,
        )

    def _summary(self, pair: Pair, suites: Sequence[Suite], direction: str) -> tuple[DriftSummary | None, str]:
        """The summary of one direction, or None and the reason."""
        from pytest_trust.drift.summary import summarise

        name, on = (DIRECTIONS | WITHOUT_TRACE)[direction]
        drifts, reason = self.of_tokens(pair, suites, direction)
        if not drifts:
            return None, reason
        if direction in DIRECTIONS and self._shared_template:
            on += ", both behind the baseline's template"
        return summarise(drifts, direction=name, on=on, alpha=self._alpha).as_record(), ""

    def _dependence(self, pair: Pair, suites: Sequence[Suite]) -> TraceDependenceRecord | None:
        """How much each model's answers depend on its own traces; None where that was not measured for any."""
        from pytest_trust.drift.dependence_summary import dependence_record

        found = [self._dependence_on(pair, suite) for suite in sorted(suites, key=lambda suite: suite.name)]
        return dependence_record([one for one, _ in found], [other for _, other in found])

    def _dependence_on(self, pair: Pair, suite: Suite) -> tuple[Dependence, Dependence]:
        """The baseline's and the candidate's stored trace dependence on an acquired suite. It is read once."""
        from pytest_trust.drift.trace_dependence import stored_dependence

        job, engine = self._work.job(suite, pair), self._work.executor.engine
        key = (pair.baseline, pair.candidate, id(job))
        if key not in self._dependences:
            baseline = stored_dependence(engine, job, pair.baseline, pair.candidate, "baseline")
            candidate = stored_dependence(engine, job, pair.candidate, pair.baseline, "candidate")
            self._dependences[key] = job, (baseline, candidate)
        return self._dependences[key][1]

    def _floor(self, pair: Pair, suites: Sequence[Suite]) -> float | None:
        from pytest_trust.drift.summary import summarise

        floor, _ = self.of_tokens(pair, suites, "floor")
        if not floor:
            return None
        return summarise(floor, direction="KL(baseline || baseline)", on="baseline responses").as_record().mean

    def _texts(self, pair: Pair, suites: Sequence[Suite]) -> dict[str, TextDriftRecord]:
        """What replaces KL where the tokenizers differ, by the texts it is measured on."""
        from pytest_trust.drift.cross_tokenizer.responses import WRITERS, summarise_texts

        ordered = sorted(suites, key=lambda suite: suite.key)
        measured = [self._of_pair(pair, suite).texts for suite in ordered]
        found = {}
        for writer in WRITERS:
            drifts = [one for texts in measured for one in texts.get(writer, ())]
            summary = summarise_texts(drifts, writer, alpha=self._alpha)
            if summary:
                found[writer if writer == "options" else f"{writer}_responses"] = summary
        return found

    def by_flip(self, pair: Pair, suite: Suite, job: Job, record: GateRecord) -> DriftByFlip:
        """Drift of the candidate's responses; probes that flipped under the gate apart from the others."""
        from pytest_trust.audit.drift_flips import drift_by_flip

        found, _ = self.of_tokens(pair, [suite], "candidate_baseline")
        drifts = {drift.probe: float(drift.kl_pq.mean()) for drift in found if len(drift)}
        missing = set(record.missing)
        compared = [probe.id for probe in job.probes if probe.id not in missing]
        return drift_by_flip(drifts, [flip.probe for flip in record.flips], compared)

    def of_suite(self, pair: Pair, suite: Suite, direction: str) -> Drift:
        """Drift on every probe of a suite. Raises TrustError with the reason where there is no KL."""
        from pytest_trust.drift.measure import stored_drift
        from pytest_trust.drift.summary import summarise

        job = replace(self._work.job(suite), drift=frozenset(probe.id for probe in self._work.job(suite).probes))
        self._work.executor.acquire([job], pair)
        found = stored_drift(self._work.executor.engine, job, pair.baseline, pair.candidate)
        by_probe = getattr(found, direction)
        name, on = (DIRECTIONS | WITHOUT_TRACE)[direction]
        if not by_probe:
            raise TrustError(f"no {name} on {suite.name}: {getattr(found, f'{direction}_reason') or NO_TOKENS}")
        return summarise([by_probe[probe] for probe in sorted(by_probe)], direction=name, on=on, alpha=self._alpha)

    def of_texts(
        self, pair: Pair, texts: Sequence[str], clusters: Sequence[str] | None, direction: str, on: str
    ) -> Drift:
        """Drift on plain texts, each read by itself without a template. Nothing is stored.

        Raises what `compare_models` raises, and TrustError for a model that is not run here (a recording, a server).
        """
        from pytest_trust.drift.summary import summarise
        from pytest_trust.drift.texts import checked_texts

        given, names = checked_texts(texts, clusters)
        sides = ("candidate", "baseline") if direction == "candidate_baseline" else ("baseline", "candidate")
        executor = self._work.executor
        p, q = (pair.candidate, pair.baseline) if sides[0] == "candidate" else (pair.baseline, pair.candidate)
        for side, reference in zip(sides, (p, q), strict=True):
            model = executor.engine.model(reference)
            if not model.runs:
                raise TrustError(f"no {DIRECTIONS[direction][0]} on {on}: {model.why_unread(side, 'user')}")
        drifts, windowed = executor.drifts_of_texts(p, q, given, names, sides)
        return summarise(drifts, direction=DIRECTIONS[direction][0], on=on, windowed=windowed, alpha=self._alpha)
