"""The drift of an audit's pairs: read from the engine once, summarised by suite, dimension and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_trust.errors import TrustError
from pytest_trust.records import DriftByFlip, DriftRecord, DriftSummary, GateRecord, TextDriftRecord

if TYPE_CHECKING:
    from pytest_trust.audit.audit import Audit, ReferencePair
    from pytest_trust.drift.pair_drift import PairDrift
    from pytest_trust.drift.summary import Drift, TokenDrift
    from pytest_trust.models.reference import Reference
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


class Drifts:
    """The drift part of an audit's records, for suites that it has acquired."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        # by the job's number, and with the job, so that it stays its own
        self._pairs: dict[tuple[Reference, Reference, int], tuple[Job, PairDrift]] = {}
        self._records: dict[tuple[Reference, Reference, tuple[str, ...]], DriftRecord | None] = {}

    def _of_pair(self, pair: ReferencePair, suite: Suite) -> PairDrift:
        """What `Engine.drift` gives of a suite that has been acquired, read once."""
        job = self._audit.job(suite, pair)
        key = (pair.baseline, pair.candidate, id(job))
        if key not in self._pairs:
            self._pairs[key] = job, self._audit.engine.drift(job, pair.baseline, pair.candidate)
        return self._pairs[key][1]

    def of_tokens(self, pair: ReferencePair, suites: Sequence[Suite], direction: str) -> tuple[list[TokenDrift], str]:
        """Token drifts of the suites in one direction, in a fixed order, and why there are none if so."""
        drifts: list[TokenDrift] = []
        reasons = []
        for suite in sorted(suites, key=lambda suite: suite.name):
            found = self._of_pair(pair, suite)
            by_probe: Mapping[str, TokenDrift] = getattr(found, direction)
            drifts += [by_probe[probe] for probe in sorted(by_probe)]
            reasons.append(getattr(found, f"{direction}_reason"))
        return drifts, next(filter(None, reasons), NO_TOKENS)

    def record(self, pair: ReferencePair, suites: Sequence[Suite]) -> DriftRecord | None:
        """Drift of the suites' responses in both directions with the noise floor, or why there is none; None where there was nothing to measure."""
        key = (pair.baseline, pair.candidate, tuple(sorted(suite.name for suite in suites)))
        if key not in self._records:
            self._records[key] = self._record(pair, suites)
        return self._records[key]

    def _record(self, pair: ReferencePair, suites: Sequence[Suite]) -> DriftRecord | None:
        forth, forth_reason = self._summary(pair, suites, "candidate_baseline")
        back, back_reason = self._summary(pair, suites, "baseline_candidate")
        without_trace, _ = self._summary(pair, suites, "answer_without_trace")
        measured = [one for one in (forth, back) if one]
        texts = self._texts(pair, suites)
        if not measured and not texts and {forth_reason, back_reason} == {NO_TOKENS}:
            return None
        return DriftRecord(
            candidate_baseline=forth,
            candidate_baseline_reason=forth_reason,
            baseline_candidate=back,
            baseline_candidate_reason=back_reason,
            answer_without_trace=without_trace,
            floor=self._floor(pair, suites) if measured else None,
            identical=bool(measured) and all((one.maximum or 0.0) <= 1e-6 and not one.infinite for one in measured),
            texts=texts,
        )

    def _summary(self, pair: ReferencePair, suites: Sequence[Suite], direction: str) -> tuple[DriftSummary | None, str]:
        """One direction, or None and why there is none."""
        from pytest_trust.drift.summary import summarise

        name, on = (DIRECTIONS | WITHOUT_TRACE)[direction]
        drifts, reason = self.of_tokens(pair, suites, direction)
        if not drifts:
            return None, reason
        if direction in DIRECTIONS and self._audit.trust.template == "shared":
            on += ", both behind the baseline's template"
        return summarise(drifts, direction=name, on=on, alpha=self._audit.policy.alpha).as_record(), ""

    def _floor(self, pair: ReferencePair, suites: Sequence[Suite]) -> float | None:
        from pytest_trust.drift.summary import summarise

        floor, _ = self.of_tokens(pair, suites, "floor")
        if not floor:
            return None
        return summarise(floor, direction="KL(baseline || baseline)", on="baseline responses").as_record().mean

    def _texts(self, pair: ReferencePair, suites: Sequence[Suite]) -> dict[str, TextDriftRecord]:
        """What there is in place of KL where the tokenizers differ, by the responses it is on."""
        from pytest_trust.drift.cross_tokenizer.responses import WRITERS, summarise_texts

        ordered = sorted(suites, key=lambda suite: suite.name)
        measured = [self._of_pair(pair, suite).texts for suite in ordered]
        found = {}
        for writer in WRITERS:
            drifts = [one for texts in measured for one in texts.get(writer, ())]
            summary = summarise_texts(drifts, writer, alpha=self._audit.policy.alpha)
            if summary:
                found[writer if writer == "options" else f"{writer}_responses"] = summary
        return found

    def by_flip(self, pair: ReferencePair, suite: Suite, job: Job, record: GateRecord) -> DriftByFlip:
        """Drift of the candidate's responses, apart for probes that flipped under a gate."""
        from pytest_trust.audit.drift_flips import drift_by_flip

        found, _ = self.of_tokens(pair, [suite], "candidate_baseline")
        drifts = {drift.probe: float(drift.kl_pq.mean()) for drift in found if len(drift)}
        missing = set(record.missing)
        compared = [probe.id for probe in job.probes if probe.id not in missing]
        return drift_by_flip(drifts, [flip.probe for flip in record.flips], compared)

    def of_suite(self, pair: ReferencePair, suite: Suite, direction: str) -> Drift:
        """Drift on every probe of a suite. Raises TrustError where no KL can be claimed, saying why."""
        from pytest_trust.drift.summary import summarise

        job = replace(self._audit.job(suite), drift=frozenset(probe.id for probe in self._audit.job(suite).probes))
        self._audit.engine.acquire([job], pair.baseline, pair.candidate)
        found = self._audit.engine.drift(job, pair.baseline, pair.candidate)
        by_probe = getattr(found, direction)
        name, on = (DIRECTIONS | WITHOUT_TRACE)[direction]
        if not by_probe:
            raise TrustError(f"no {name} on {suite.name}: {getattr(found, f'{direction}_reason') or NO_TOKENS}")
        return summarise(
            [by_probe[probe] for probe in sorted(by_probe)], direction=name, on=on, alpha=self._audit.policy.alpha
        )

    def of_texts(
        self, pair: ReferencePair, texts: Sequence[str], clusters: Sequence[str] | None, direction: str, on: str
    ) -> Drift:
        """Drift on plain texts, each read by itself without a template. Nothing of it is stored. Raises as `compare_models`, and TrustError
        for a recording."""
        from pytest_trust.drift.compare import drifts_of_texts
        from pytest_trust.drift.summary import summarise
        from pytest_trust.drift.texts import checked_texts

        given, names = checked_texts(texts, clusters)
        sides = ("candidate", "baseline") if direction == "candidate_baseline" else ("baseline", "candidate")
        loaded = []
        for side in sides:
            reference: Reference = getattr(pair, side)
            if reference.kind == "recording":
                raise TrustError(
                    f"no {DIRECTIONS[direction][0]} on {on}: the {side} is a recording, which holds its states on its own responses only"
                )
            model = self._audit.engine.runner(reference).loaded
            loaded.append((model.model, model.tokenizer))
        drifts, windowed = drifts_of_texts(loaded[0], loaded[1], given, names, sides=sides)
        return summarise(
            drifts, direction=DIRECTIONS[direction][0], on=on, windowed=windowed, alpha=self._audit.policy.alpha
        )
