"""One process's audit: suites become jobs, their results are acquired and judged, and the gates become records.

Nothing here imports pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_trust.audit.drift_record import Drifts
from pytest_trust.audit.policy import Policy, Profile, Threshold, load_policy
from pytest_trust.errors import InvalidInput
from pytest_trust.judges import get_judge
from pytest_trust.models.decoding import GREEDY, Decoding, in_words
from pytest_trust.probes import Gate, Suite, select
from pytest_trust.reasoning import DEFAULT_TAGS
from pytest_trust.records import ComparisonRecord, GateRecord, ModelRecord, PairRecord
from pytest_trust.responses import Generation, Job, Progress, Response

if TYPE_CHECKING:
    from pytest_trust.audit.config import TrustConfig
    from pytest_trust.audit.executor import Executor
    from pytest_trust.audit.judge_error import Accuracy
    from pytest_trust.audit.sequential import Visit
    from pytest_trust.engine.engine import Engine
    from pytest_trust.judges.samples import Side
    from pytest_trust.models.reference import Pair, Reference

#: Judges that can read a reasoning trace as well as an answer.
READS_ANYWHERE = ("leak", "toxicity", "agreement")


def make_job(suite: Suite, profile: Profile, trust: TrustConfig, decoding: Decoding = GREEDY) -> Job:
    """What this run asks of both models for a suite.

    The profile and `--trust-limit` choose the probes; the suite, the profile and the options say how they are answered.
    `decoding` goes before the sampling settings of suite and profile.
    """
    size = profile.choose if suite.task in ("choose", "ask") else profile.generate
    if trust.limit is not None:
        size = max(1, round(trust.limit * len(suite.probes))) if trust.limit < 1 else int(trust.limit)
    probes = select(suite.probes, size, suite.gates.values(), least=profile.gate if trust.limit is None else 0)
    budget = trust.reasoning_budget or trust.max_reasoning_tokens or profile.reasoning_tokens or None
    generation = decoding.of(
        Generation(
            max_new_tokens=trust.max_new_tokens or profile.max_new_tokens or suite.max_new_tokens,
            **_sampling(profile, suite.temperature),
            seed=trust.seed,
            reasoning_budget=budget,
            closes=trust.reasoning_budget is not None or budget is None,
            until=get_judge(suite.judge).identity if suite.stop else "",
        )
    )
    return Job(
        suite=suite.name,
        task="choose" if suite.task == "choose" else "generate",
        probes=probes,
        generation=generation,
        samples=1 if generation.greedy and not generation.own else min(suite.samples, profile.samples),
        drift=frozenset(probe.id for probe in select(probes, profile.drift, suite.gates.values())),
        normalise=suite.normalise,
    )


def _sampling(profile: Profile, own: float) -> dict[str, Any]:
    """The profile's sampling settings, as arguments of `Generation`; `own` is a suite's own temperature."""
    temperature = own if profile.temperature is None else profile.temperature
    return {
        "temperature": temperature,
        "top_p": profile.top_p if temperature > 0 else 1.0,
        "top_k": profile.top_k if temperature > 0 else 0,
    }


class Audit:
    """Holds the policy, the engine and what was judged so far.

    The engine, and with it torch, is loaded when work is first asked for.
    """

    def __init__(
        self,
        trust: TrustConfig,
        *,
        progress: Callable[[Progress], None] | None = None,
        note: Callable[[str], None] | None = None,
        workers: int = 1,
        policy: Policy | None = None,
    ) -> None:
        self.trust = trust
        self.policy = policy or load_policy(trust.policy)
        self.profile = self.policy.profile(trust.profile)
        self.decoding = trust.decoding or self.policy.decoding
        self._replacing = {one.name: one for one in trust.judges}
        self._progress = progress
        self._workers = workers
        self._note = note
        self._executor: Executor | None = None
        self._suites: dict[str, Suite] = {}
        self._jobs: dict[int, tuple[Suite, Job]] = {}
        self._asked_suites: dict[int, tuple[Suite, Suite]] = {}  # as `_jobs`
        self._acquired: set[tuple[Reference, Reference, str]] = set()
        self._visits: dict[tuple[Reference, Reference, str], Visit] = {}
        self._sides: dict[tuple[Reference, str, str], Side] = {}
        # The key holds `id(job)`. The value keeps the job alive, so that no other job gets this id.
        self._responses: dict[tuple[Reference, int], tuple[Job, Mapping[str, tuple[Response, ...]]]] = {}
        self.drifts = Drifts(self, alpha=self.policy.alpha, shared_template=trust.template == "shared")

    @property
    def executor(self) -> Executor:
        """What runs the models; made when work is first asked for."""
        if self._executor is None:
            settings: dict[str, Any] = {
                "device": self.trust.device,
                "dtype": self.trust.dtype,
                "batch_size": self.trust.batch_size,
                "trust_remote_code": self.trust.trust_remote_code,
                "progress": self._progress,
                "workers": self._workers,
                "reasoning_tags": (*DEFAULT_TAGS, *self.trust.reasoning_tags),
                "template": "shared" if self.trust.template == "shared" else "own",
                "offload": self.trust.offload == "layers",
                "keep": self.trust.sequential,  # the two models take turns
            }
            if self.trust.engine == "ray":
                from pytest_trust.audit.ray.executor import RayExecutor

                self._executor = RayExecutor(self.trust.store, note=self._note, **settings)
            else:
                from pytest_trust.audit.executor import LocalExecutor
                from pytest_trust.engine.engine import Engine

                self._executor = LocalExecutor(Engine(self.trust.store, **settings))
        return self._executor

    @property
    def _usual(self) -> Generation:
        """The sampling settings of suites that have none of their own."""
        return self.decoding.of(Generation(1, **_sampling(self.profile, 0.0)))

    @property
    def engine(self) -> Engine:
        """The engine: it finds models by their reference, and holds the store of their results."""
        return self.executor.engine

    def close(self) -> None:
        """Release the models and close the store."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def job(self, suite: Suite, pair: Pair | None = None) -> Job:
        """The work of a suite: all of its profile.

        Under `--trust-sequential`, with a pair: only the probes that were visited for this pair.
        """
        visit = self._visits.get((pair.baseline, pair.candidate, suite.key)) if pair else None
        if visit:
            return visit.job
        if id(suite) not in self._jobs:
            # The value keeps the suite alive, so that no other suite gets this id.
            self._jobs[id(suite)] = (suite, make_job(suite, self.profile, self.trust, self.decoding))
        return self._jobs[id(suite)][1]

    def way(self, suite: Suite, gate: Gate | None = None) -> Suite:
        """The suite in the way that a gate's choices are measured; without a gate, the suite's own way.

        `--trust-choices` goes before the policy's `choices` of the gate, and that before the suite's.
        """
        if not suite.both_ways:
            return suite
        threshold = self.policy.threshold_of(suite, gate) if gate else None
        choices = self.trust.choices or (threshold.choices if threshold else "") or suite.choices
        return self._asked(suite) if choices == "ask" else suite

    def ways(self, suite: Suite) -> tuple[Suite, ...]:
        """The suite in every way that its gates, and the profile, need."""
        found = [self.way(suite, gate) for gate in suite.gates.values()]
        if self.profile.both_choices and suite.both_ways:
            found += [suite, self._asked(suite)]
        return tuple({one.key: one for one in found}.values())

    def _asked(self, suite: Suite) -> Suite:
        if id(suite) not in self._asked_suites:
            self._asked_suites[id(suite)] = (suite, suite.asked())
        return self._asked_suites[id(suite)][1]

    def _visit(self, pair: Pair, suites: Sequence[Suite]) -> None:
        """Generate responses in rounds until the verdict of every gate with a threshold is known.

        A round covers all suites that still have an unknown gate.
        """
        from pytest_trust.audit.sequential import visit_prefixes

        waiting = {
            suite.key: (suite, visit_prefixes(self.job(suite)))
            for suite in suites
            if suite.judge != "none"
            and all(self.policy.threshold_of(suite, gate) and gate.score != "corpus" for gate in suite.gates.values())
        }
        last: dict[str, Visit] = {}
        while waiting:
            for name, (_, visits) in waiting.items():
                last[name] = visits.pop(0)
            self.executor.acquire([last[name].job for name in waiting], pair)
            waiting = {
                name: (suite, visits)
                for name, (suite, visits) in waiting.items()
                if visits and not all(self._known(pair, suite, gate, last[name]) for gate in suite.gates.values())
            }
        gates = {suite.key: suite.gates.values() for suite in suites}
        for name, visit in last.items():
            drift = frozenset(probe.id for probe in select(visit.job.probes, self.profile.drift, gates[name]))
            self._visits[pair.baseline, pair.candidate, name] = replace(visit, job=replace(visit.job, drift=drift))

    def _known(self, pair: Pair, suite: Suite, gate: Gate, visit: Visit) -> bool:
        from pytest_trust.audit.gate import gate_record

        threshold = self.policy.threshold_of(suite, gate)
        assert threshold is not None
        sides = [
            self.judged(reference, suite, visit.job, self.judge(suite.judge, pair), suite.judge)
            for reference in (pair.baseline, pair.candidate)
        ]
        record = gate_record(
            suite, gate, visit.job.probes, *sides, policy=self.policy, threshold=threshold, judge="",
            accuracy=self._accuracy(suite.judge), stopping=visit.of(gate),
        )  # fmt: skip
        state = record.sequential
        assert state is not None
        # The judge's own errors may account for a regression; then its verdict is not known yet.
        return state.given_up or (state.stopped and record.verdict in ("held", "regressed"))

    def acquire(self, pair: Pair, suites: Sequence[Suite]) -> None:
        """Generate everything that these suites need of the pair, in one go. Stored results are not made again."""
        wanted = {one.key: one for suite in suites for one in self.ways(suite)}
        new = [suite for suite in wanted.values() if (pair.baseline, pair.candidate, suite.key) not in self._acquired]
        if new:
            self.engine.release_others(pair.baseline, pair.candidate)
        if self.trust.sequential:
            self._visit(pair, new)
        if new:
            self.executor.acquire([self.job(suite, pair) for suite in new], pair)
        for suite in new:
            self._suites[suite.key] = suite
            self._acquired.add((pair.baseline, pair.candidate, suite.key))

    def side(self, reference: Reference, suite: Suite, job: Job, judge: Any, judge_name: str) -> Side:
        """A model's judged samples of a suite.

        Samples are judged once by the suite's own judge. A user's function is asked every time.
        """
        key = (reference, suite.key, judge_name)
        found = self._sides.get(key)
        if found is None or not all(probe.id in found.samples for probe in job.probes):
            found = self.judged(reference, suite, job, judge, judge_name)
        if judge_name == suite.judge:
            self._sides[key] = found
        return found

    def judge(self, name: str, pair: Pair) -> Any:
        """The judge of that name, or what `--trust-judge` puts in its place.

        Raises InvalidInput when the judge's model is one of the pair.
        """
        replacing = self._replacing.get(name)
        if replacing is None:
            return get_judge(name)
        for side in (pair.baseline, pair.candidate):
            if replacing.model in (side.location, side.model_name):
                raise InvalidInput(
                    f"--trust-judge: {replacing.model} is one of the models that are compared: "
                    "it cannot judge, name another"
                )
        return replacing.judge

    def _accuracy(self, judge: str) -> tuple[Accuracy, Accuracy] | None:
        """The accuracy on each side; it is measured for built-in judges only."""
        return None if judge in self._replacing else self.policy.judges.get(judge)

    def judged(self, reference: Reference, suite: Suite, job: Job, judge: Any, judge_name: str) -> Side:
        """A model's samples of a job's probes, judged. Earlier judgements of a named judge come from the store."""
        from pytest_trust.judges.samples import Side, judge_options

        if suite.task == "choose":
            return Side(
                reference.label,
                judge_options(job.probes, self.engine.model(reference).options(job), suite.normalise),
                self.engine.model(reference).unscored(job),
            )
        return self.judged_responses(reference, job, judge, judge_name, self._responses_of(reference, job))

    def _responses_of(self, reference: Reference, job: Job) -> Mapping[str, tuple[Response, ...]]:
        """The responses to a job that has been acquired, as `Model.responses` gives them. They are read once."""
        key = (reference, id(job))
        if key not in self._responses:
            self._responses[key] = job, self.engine.model(reference).responses(job)
        return self._responses[key][1]

    def judged_responses(
        self, reference: Reference, job: Job, judge: Any, judge_name: str, responses: Mapping[str, tuple[Any, ...]]
    ) -> Side:
        from pytest_trust.audit.judgement_cache import Remembered
        from pytest_trust.judges.samples import Side, judge_responses

        # A user's function, a server or a directory may judge otherwise the next time: its judgements are not stored.
        if not judge_name or judge_name in self._replacing:
            return Side(reference.label, judge_responses(judge, judge_name, job.probes, responses))
        with Remembered(judge, self.engine.store, job.probes, responses) as remembered:
            return Side(reference.label, judge_responses(remembered, judge_name, job.probes, responses))

    def compare(
        self,
        pair: Pair,
        suite: Suite,
        gate: Gate,
        *,
        judge: str | Callable[..., Any] | None = None,
        margin: float | None = None,
        ceiling: float | None = None,
        never: tuple[str, ...] = (),
        nodeid: str = "",
    ) -> ComparisonRecord:
        """One gate, compared for the test `nodeid`.

        Raises InvalidInput when neither the call, the marker nor the policy gives a margin.
        """
        from pytest_trust.audit.drift_flips import drift_by_outcome, flip_auc
        from pytest_trust.audit.gate import gate_record
        from pytest_trust.judges import as_judge

        given, suite = suite, self.way(suite, gate)
        known = self.policy.threshold_of(suite, gate)
        if margin is None and known is None:
            raise InvalidInput(
                f"{suite.name}/{gate.name} has no margin: give @pytest.mark.trust(margin=0.05), "
                "compare(..., margin=0.05), or one in the policy file"
            )
        threshold = known or Threshold(float(margin or 0))
        threshold = replace(
            threshold,
            margin=threshold.margin if margin is None else margin,
            ceiling=threshold.ceiling if ceiling is None else ceiling,
            never=(*threshold.never, *never),
        )
        if callable(judge):
            judging, judge_name, identity = as_judge(judge), "", getattr(judge, "__name__", "function")
        elif (judge or suite.judge) == "none":
            raise InvalidInput(
                f"{suite.name} has no judge: give compare(..., judge=NAME or a function (response, probe))"
            )
        else:
            judge_name = suite.judge if suite.task == "ask" else judge or suite.judge
            judging = self.judge(judge_name, pair)
            identity = judging.identity
        self.acquire(pair, [given])
        visit = self._visits.get((pair.baseline, pair.candidate, suite.key))
        if visit is not None and (judge_name != suite.judge or threshold != known):
            # The visit stopped for another judge or margin: this gate needs the whole sample.
            visit = None
            self.executor.acquire([self.job(suite)], pair)
        job = visit.job if visit else self.job(suite)
        sides = [self.side(reference, suite, job, judging, judge_name) for reference in (pair.baseline, pair.candidate)]
        record = gate_record(
            suite,
            gate,
            job.probes,
            *sides,
            policy=self.policy,
            threshold=threshold,
            judge=identity,
            accuracy=self._accuracy(judge_name),
            stopping=visit.of(gate) if visit else None,
        )
        if visit:
            record = self._with_tokens(record, pair, visit)
        if self.profile.both_choices and given.both_ways:
            record = self._with_other_way(record, pair, given, suite, gate, threshold, sides)
        if judge_name in READS_ANYWHERE and judge_name == suite.judge:
            record = self._with_trace(record, pair, suite, gate, job, threshold)
        by_flip = self.drifts.by_flip(pair, suite, job, record)
        outcomes = {name: samples[0].outcome for name, samples in sides[1].samples.items() if samples}
        record = replace(
            record,
            nodeid=nodeid,
            drift=self.drifts.record(pair, [suite]),
            drift_auc=flip_auc([by_flip]),
            drift_by_outcome=drift_by_outcome(self.drifts.of_tokens(pair, [suite], "candidate_baseline")[0], outcomes),
        )
        dimension = [other for other in self._suites.values() if other.dimension == suite.dimension]
        return ComparisonRecord(
            gate=record,
            pair=self.pair_record(pair),
            dimension_drift=self.drifts.record(pair, dimension),
            drift_by_flip=by_flip,
        )

    def _with_other_way(
        self,
        record: GateRecord,
        pair: Pair,
        given: Suite,
        used: Suite,
        gate: Gate,
        threshold: Threshold,
        sides: list[Side],
    ) -> GateRecord:
        """Add the same gate, with choices measured in the other way than in `used`."""
        from pytest_trust.audit.gate import gate_record, with_other_way

        other = given if used.task == "ask" else self._asked(given)
        job, judging = self.job(other), self.judge(other.judge, pair)
        others = [
            self.side(reference, other, job, judging, other.judge) for reference in (pair.baseline, pair.candidate)
        ]
        found = gate_record(
            other, gate, job.probes, *others, policy=self.policy, threshold=threshold, judge=judging.identity
        )
        return with_other_way(record, found, sides, others)

    def _with_trace(
        self, record: GateRecord, pair: Pair, suite: Suite, gate: Gate, job: Job, threshold: Threshold
    ) -> GateRecord:
        """Add the same gate on the models' reasoning, where one of them reasoned.

        The reasoning counts for the verdict when the policy gives the gate a `trace_margin`.
        """
        from pytest_trust.audit.gate import gate_record, with_trace
        from pytest_trust.judges.samples import OfThoughts

        thoughts = [self._thoughts(reference, job) for reference in (pair.baseline, pair.candidate)]
        if suite.task == "choose" or not any(
            one.answer for by_probe in thoughts for answers in by_probe.values() for one in answers
        ):
            return record
        judging = OfThoughts(self.judge(suite.judge, pair))
        sides = [
            self.judged_responses(reference, job, judging, suite.judge, responses)
            for reference, responses in zip((pair.baseline, pair.candidate), thoughts, strict=True)
        ]
        margin = threshold.trace_margin
        held_to = Threshold(threshold.margin if margin is None else margin)
        found = gate_record(
            suite, gate, job.probes, *sides, policy=self.policy, threshold=held_to, judge=judging.identity
        )
        return with_trace(record, found, gated=margin is not None)

    def _thoughts(self, reference: Reference, job: Job) -> dict[str, tuple[Any, ...]]:
        """The responses to a job, with their reasoning in place of their answer."""
        return {
            name: tuple(
                replace(
                    one,
                    answer=one.reasoning,
                    reasoning="",
                    complete=True,
                    finish_reason="error" if one.finish_reason == "error" else "stop",
                )
                for one in responses
            )
            for name, responses in self._responses_of(reference, job).items()
        }

    def _with_tokens(self, record: GateRecord, pair: Pair, visit: Visit) -> GateRecord:
        """Add the response tokens of both models, and those saved on the probes that were not visited.

        `saved` supposes that these probes would have cost as many tokens each as the visited ones.
        """
        if visit.job.task != "generate" or record.sequential is None:
            return record
        made = [
            response
            for reference in (pair.baseline, pair.candidate)
            for samples in self._responses_of(reference, visit.job).values()
            for response in samples[: visit.job.repeats()]
        ]
        tokens = sum(response.tokens for response in made)
        left = len(visit.full.probes) - len(visit.job.probes)
        saved = round(tokens * left / len(visit.job.probes))
        return replace(record, sequential=replace(record.sequential, tokens=tokens, saved=saved))

    def pair_record(self, pair: Pair) -> PairRecord:
        """The two models that were compared; the same for every gate of a pair."""
        from pytest_trust.models.identity import lineage_words

        models = [self.engine.model(reference) for reference in (pair.baseline, pair.candidate)]
        words = lineage_words(*(model.identity for model in models))
        baseline, candidate = (
            ModelRecord(
                model=model.identity.label,
                reference=model.reference.unlabelled,
                fingerprint=model.identity.fingerprint,
                dtype=model.identity.dtype,
                device=model.identity.device,
                parameters=model.identity.parameters,
                lineage=lineage,
                decoding=in_words(model.way(self._usual)),
                trace_format=model.read_format.marks,
                trace_source=model.read_format.source,
            )
            for model, lineage in zip(models, ("", words), strict=True)
        )
        warnings = {
            f"{model.reference.label}: {warning}"
            for model in models
            for warning in (*model.identity.warnings, *model.warnings)
        }
        return PairRecord(
            baseline=baseline,
            candidate=candidate,
            warnings=tuple(sorted(warnings | set(self._memory_warnings(pair)))),
        )

    def _memory_warnings(self, pair: Pair) -> list[str]:
        """Warnings about what was done because memory is short."""
        from pytest_trust.drift.loaded_pair import one_at_a_time

        if self.trust.offload == "layers":
            return [
                "--trust-offload=layers: every forward reads the models' files, drift once for all texts, "
                "a response once for each of its tokens"
            ]
        if one_at_a_time(self.engine, pair.baseline, pair.candidate):
            return [
                f"{pair.baseline.label} and {pair.candidate.label} do not fit into memory together: "
                "drift was measured with one at a time"
            ]
        return []
