"""From jobs to stored results: one run's access to models and store.

Everything a job needs of a model is looked up first, by keys that take no weights to compute; only what is missing loads a model.
Batches are cut from one plan over all jobs (`work`), whatever is stored already; a batch of which a part is stored runs only the
rest. In float32 a row's result does not depend on its batch; in 16 bits it can, which is what the noise floor is for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pytest_trust.drift.pair_drift import PairDrift
from pytest_trust.engine.batch_limits import Fitting
from pytest_trust.engine.batches import Answer, Choice, answer_batches, choice_batches, plan_answers, plan_choices
from pytest_trust.engine.claimed_work import ask, keys_of, share, with_keys
from pytest_trust.engine.claims import Claims
from pytest_trust.engine.local import Subject
from pytest_trust.engine.store import Store, context_of
from pytest_trust.errors import TrustError
from pytest_trust.keys import portable_key
from pytest_trust.models.files import is_converted, read_ahead
from pytest_trust.models.identity import ModelIdentity, choose_device
from pytest_trust.models.reference import Reference, check_device
from pytest_trust.reasoning import DEFAULT_TAGS, opened_by, split_reasoning
from pytest_trust.responses import Generation, Job, OptionScores, Phase, Progress, Response

if TYPE_CHECKING:
    from pytest_trust.drift.sides import Vocabulary
    from pytest_trust.engine.recording import Recording
    from pytest_trust.engine.server.model import Served
    from pytest_trust.models.reasoning_budget import Budgeted
    from pytest_trust.models.runner import Runner

__all__ = ["Engine", "Generation", "Job", "OptionScores", "PairDrift", "Progress", "Response"]

# Loading needs the weights and something to work with beside what is resident.
_HEADROOM = 1.3

Item = TypeVar("Item")


class Engine:
    """One run's access to models and store. `close` lets models go.

    `device`, `dtype`: of models whose reference names none; None or `auto` choose (see `identity`). `batch_size` None is automatic.
    `reasoning_tags` are what `split_reasoning` takes. `progress` is called after every batch, in this process. `workers`: how many
    processes of this run do the same work together, each a part (see `claims`). `template`: behind whose prompts drift is measured, each
    model's `own` or the baseline's, `shared` by both. `offload`: of each model one decoder layer is in memory at a time. `keep`: a model
    stays loaded while the other answers, as far as both fit; else it is let go, and loaded again for the drift of the pair.
    """

    def __init__(
        self,
        *,
        store: Path,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | None = None,
        trust_remote_code: bool = False,
        progress: Callable[[Progress], None] | None = None,
        reasoning_tags: Sequence[tuple[str, str]] = DEFAULT_TAGS,
        workers: int = 1,
        template: Literal["own", "shared"] = "own",
        offload: bool = False,
        keep: bool = False,
    ) -> None:
        if device is not None:
            check_device(device)
        if batch_size is not None and batch_size < 1:
            raise TrustError(f"batch size {batch_size}: expected 1 or more, or auto")
        self.store = Store(store)
        self.claims = Claims(self.store)
        self.workers = workers
        self._settings: dict[str, Any] = {
            "device": device,
            "dtype": dtype,
            "trust_remote_code": trust_remote_code,
            "offload": offload,
        }
        self.fitting = Fitting(self, batch_size)
        self._keep = keep
        self._progress = progress
        self._open: dict[tuple[Reference, Phase], int] = {}  # phases that were told to have begun and not to have ended
        self._tags = tuple((opening, closing) for opening, closing in reasoning_tags)
        self._subjects: dict[Reference, Subject] = {}
        self._recordings: dict[Reference, Recording] = {}
        self._served: dict[Reference, Served] = {}
        self.shares_template = template == "shared"
        self.offloads = offload
        self.checked_heads: set[Reference] = set()  # of models whose heads have been compared with their own logits
        self.vocabularies: dict[tuple[Reference, Reference], Vocabulary] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release weights, recordings and the store's connection."""
        for subject in self._subjects.values():
            subject.release()
        self._subjects.clear()
        self._recordings.clear()
        for served in self._served.values():
            served.close()
        self._served.clear()
        self.claims.close()
        self.store.close()

    def identify(self, reference: Reference) -> ModelIdentity:
        """The identity of a reference; no weights are loaded, neither torch nor transformers is needed (but to convert the demo once)."""
        other = self.recording(reference) or self.served(reference)
        return other.identity if other else self.subject(reference).identity

    def subject(self, reference: Reference) -> Subject:
        """The model of a reference that has weights."""
        if reference not in self._subjects:
            settings = {**self._settings, "device": self.device_of(reference)}
            self._subjects[reference] = Subject(reference, store=self.store, **settings)
        return self._subjects[reference]

    def device_of(self, reference: Reference) -> str:
        """The device by name that a model runs on."""
        return choose_device(reference, self._settings["device"])

    def recording(self, reference: Reference) -> Recording | None:
        """The recording of a reference, or None when it is none."""
        if reference.kind != "recording":
            return None
        if reference not in self._recordings:
            from pytest_trust.engine.recording import read_recording

            self._recordings[reference] = read_recording(reference.path, label=reference.label)
        return self._recordings[reference]

    def served(self, reference: Reference) -> Served | None:
        """The model behind a server, or None when the reference is to no server."""
        if reference.kind != "server":
            return None
        if reference not in self._served:
            from pytest_trust.engine.server.model import Served

            self._served[reference] = Served(reference, store=self.store, trace=self._tags[0])
        return self._served[reference]

    def runner(self, reference: Reference, *, alone: bool = False) -> Runner:
        """The loaded model of a reference; others are released first when both do not fit, and in any case where it works `alone`."""
        from pytest_trust.models.runner import free_bytes

        subject = self.subject(reference)
        if alone and not self._keep:
            self.release_others(reference)
        if not subject.loaded:
            identity = subject.identity
            others = [other for other in self._subjects.values() if other.loaded]
            needed = 0 if self.offloads else _HEADROOM * identity.parameter_bytes
            if others and free_bytes(identity.device) < needed:
                for other in others:
                    other.release()
            self.tell(reference, "load", "", 0, 1, 0)
            subject.runner()
            self.tell(reference, "load", "", 1, 1, 0)
        return subject.runner()

    def release_others(self, *kept: Reference) -> None:
        """Let go of the weights of every other model."""
        for reference, subject in self._subjects.items():
            if reference not in kept:
                subject.release()

    def acquire(self, jobs: Iterable[Job], baseline: Reference, candidate: Reference) -> None:
        """Make everything that is missing: the baseline's part, the candidate's, then the drift of the pair.

        Every finished batch is in the store at once, so an interrupted call continues where it was.

        Raises:
            TrustError: a model cannot be had or loaded, a recording lacks probes, or the store cannot be written.
        """
        from pytest_trust.drift.measure import acquire_drift
        from pytest_trust.engine.rates import remember_rate, tokens_left

        if baseline.kind == candidate.kind == "server":
            from pytest_trust.engine.server.model import check_apart

            check_apart(self, baseline, candidate)
        planned = list(jobs)
        models = [reference for reference in dict.fromkeys((baseline, candidate)) if not self.recording(reference)]
        left = sum(tokens_left(self, planned, reference) for reference in models)
        start = time.monotonic()
        for reference in dict.fromkeys((baseline, candidate)):
            recording = self.recording(reference)
            if recording:
                recording.require(planned)
        if left and len(models) == 2 and models[1].has_weights and self.at_hand(models[1]):
            read_ahead(self.subject(models[1]).files)  # while the first one works
        # What other processes are at is not waited for before there is nothing else to do.
        others = [reference for reference in models if not self.acquire_side(planned, reference, wait=False)]
        for reference in others:
            self.acquire_side(planned, reference)
        acquire_drift(self, planned, baseline, candidate)
        fingerprints = [self.identify(reference).fingerprint for reference in models]
        remember_rate(self.store, fingerprints, left, time.monotonic() - start)

    def at_hand(self, reference: Reference) -> bool:
        """Whether a model's files can be read as they lie here, without a download or the demo's conversion."""
        return reference.kind not in ("hub", "server") and (
            reference.kind != "demo" or is_converted(self.store.directory)
        )

    @property
    def tags(self) -> tuple[tuple[str, str], ...]:
        """The tags of reasoning that responses are split by."""
        return self._tags

    def stored(self, reference: Reference, job: Job) -> set[tuple[str, int]]:
        """Probe ids and repeats of a job that the store holds of a model; renders and loads nothing."""
        served = self.served(reference)
        if served:
            return served.stored(job)
        keys = self.subject(reference).keys(job, render=False)
        found = self.store.has(job.table, keys.values())
        return {name for name, key in keys.items() if key in found}

    def acquire_side(
        self, jobs: Iterable[Job], reference: Reference, *, wait: bool = True, keys: Set[str] | None = None
    ) -> bool:
        """Make what is missing of one model's responses and option scores, by one plan over all jobs (of it only `keys`, where they are
        given); other processes that do the same at this time have a part in it. Whether all of it is there at the end: without `wait`
        others may still be at theirs."""
        planned = list(jobs)
        served = self.served(reference)
        if served:
            ask(self, served, planned)
            return True
        parts = [self._answer(planned, reference, wait, keys), self._choose(planned, reference, wait, keys)]
        return all(parts)

    def responses(self, reference: Reference, job: Job) -> dict[str, tuple[Response, ...]]:
        """Stored responses by probe id, `job.samples` of each; probes that were not answered are left out."""
        recording, served = self.recording(reference), self.served(reference)
        if served:
            found: dict[tuple[str, int], dict[str, Any] | None] = {**served.responses(job)}
        elif recording:
            found = {
                (probe.id, repeat): recording.response(portable_key(probe, job, repeat))
                for probe in job.probes
                for repeat in range(job.repeats())
            }
        else:
            subject = self.subject(reference)
            prompts = subject.prompts(job.probes)
            keys = subject.response_keys(job, prompts)
            stored = self.store.get_json("responses", keys.values())
            # The prompt's end is not part of the response's key: what it opened is known from the prompt.
            found = {
                name: {**stored[key], "tail": prompts[name[0]].tail} for name, key in keys.items() if key in stored
            }
        result = {}
        for probe in job.probes:
            values = [found.get((probe.id, repeat % job.repeats())) for repeat in range(job.samples)]
            if all(value is not None for value in values):
                result[probe.id] = tuple(self._response(value) for value in values if value is not None)
        return result

    def options(self, reference: Reference, job: Job) -> dict[str, OptionScores]:
        """Stored option scores by probe id; probes that were not scored are left out."""
        recording, served = self.recording(reference), self.served(reference)
        if served:
            found: dict[str, dict[str, Any] | None] = {**served.options(job)}
        elif recording:
            found = {probe.id: recording.options(portable_key(probe, job, 0)) for probe in job.probes}
        else:
            subject = self.subject(reference)
            keys = subject.option_keys(subject.options(job.probes))
            stored = self.store.get_json("options", keys.values())
            found = {name: stored.get(key) for name, key in keys.items()}
        return {
            name: OptionScores(tuple(value["log_likelihoods"]), tuple(value["tokens"]), tuple(value["bytes"]))
            for name, value in found.items()
            if value is not None
        }

    def unscored(self, reference: Reference, job: Job) -> str:
        """Why a model's options of a job were not scored, where that is known beforehand of its kind; else nothing."""
        served = self.served(reference)
        return served.why_no_options(job) if served and job.task == "choose" else ""

    def drift(self, job: Job, baseline: Reference, candidate: Reference) -> PairDrift:
        """Stored token drifts of the pair on the job's drift probes, with the reason where there are none."""
        from pytest_trust.drift.measure import stored_drift

        return stored_drift(self, job, baseline, candidate)

    def _response(self, value: dict[str, Any]) -> Response:
        opened = bool(opened_by(value["tail"], self._tags))
        spelled = [(start, end) for start, end in value.get("spelled", ())]
        split = split_reasoning(value["text"], self._tags, opened, spelled=spelled, ended=value["finish"] == "stop")
        return Response(
            text=value["text"],
            token_ids=tuple(value["ids"]),
            finish_reason=value["finish"],
            reasoning=split.reasoning,
            answer=split.answer,
            complete=split.complete,
            prompt_tokens=value["prompt_tokens"],
            closed=value.get("closed", False),
            answer_at=split.answer_at,
            tokens=value.get("tokens", len(value["ids"])),
        )

    def _answer(self, jobs: Sequence[Job], reference: Reference, wait: bool, keys: Set[str] | None) -> bool:
        plan = plan_answers(self.subject(reference), jobs, self._tags)
        plan = plan if keys is None else with_keys(plan, keys)
        missing = len(plan) - len(self.store.has("responses", keys_of(plan)))
        if not missing:
            return self.told_all(reference, "generate")
        runner = self.runner(reference, alone=True)

        def make(part: Sequence[Answer]) -> Iterator[tuple[int, int]]:
            for made in self._answered(part, runner, reference):
                values = {answer.key: self._value(answer, one, runner) for answer, one in made}
                self.store.put_json("responses", values, self._context(runner, len(made)))
                yield len(made), sum(len(one.response.token_ids) for _, one in made)

        batches = list(answer_batches(plan, self.workers))
        return share(
            self,
            reference,
            "generate",
            "responses",
            batches,
            make,
            missing=missing,
            keys=keys_of,
            part=with_keys,
            wait=wait,
        )

    def _value(self, answer: Answer, one: Budgeted, runner: Runner) -> dict[str, Any]:
        """A response as it is stored."""
        from pytest_trust.models.tag_tokens import spelled_out

        text, ids = one.response.text, one.response.token_ids
        value: dict[str, Any] = {
            "text": text,
            "ids": ids,
            "finish": one.response.finish_reason,
            "prompt_tokens": len(answer.row.prompt),
        }
        if one.closed:
            value["closed"] = True
        spelled = spelled_out(runner.loaded, ids, text, answer.tail, self._tags)
        if spelled:
            value["spelled"] = spelled
        return value

    def _answered(
        self, answers: Sequence[Answer], runner: Runner, reference: Reference
    ) -> Iterator[list[tuple[Answer, Budgeted]]]:
        """Responses as they are finished; when the memory does not suffice, in smaller batches."""
        from pytest_trust.models.reasoning_budget import responses

        waiting = {one.key: one for one in answers}
        limits = self.fitting.limits(reference, runner)
        while waiting:
            asked = list(waiting.values())
            try:
                generation = replace(asked[0].way, max_new_tokens=max(one.generation.max_new_tokens for one in asked))
                for made in responses(
                    runner, [one.row for one in asked], [one.tail for one in asked], generation, self._tags, limits
                ):
                    for index, _ in made:
                        del waiting[asked[index].key]
                    if made:
                        yield [(asked[index], one) for index, one in made]
            except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
                self.fitting.ran_out(error, min(limits.rows, len(asked)))
                limits = self.fitting.fewer(min(limits.rows, len(asked)) // 2, asked, reference)

    def _choose(self, jobs: Sequence[Job], reference: Reference, wait: bool, keys: Set[str] | None) -> bool:
        plan = plan_choices(self.subject(reference), jobs)
        plan = plan if keys is None else with_keys(plan, keys)
        missing = len(plan) - len(self.store.has("options", keys_of(plan)))
        if not missing:
            return self.told_all(reference, "score")
        from pytest_trust.models.option_scores import score_options

        runner = self.runner(reference, alone=True)

        def score(part: Sequence[Choice]) -> list[OptionScores]:
            return score_options(runner, [one.group for one in part], [one.options for one in part])

        def make(part: Sequence[Choice]) -> Iterator[tuple[int, int]]:
            made = self.fitting.halving(part, score, reference)
            values = {
                choice.key: {"log_likelihoods": one.log_likelihoods, "tokens": one.tokens, "bytes": one.bytes}
                for choice, one in zip(part, made, strict=True)
            }
            self.store.put_json("options", values, self._context(runner, len(part)))
            yield len(part), sum(sum(one.tokens) for one in made)

        limits = self.fitting.limits(reference, runner)
        if self.fitting.batch_size is None:
            limits = replace(limits, rows=sys.maxsize)  # trees have no row for each option
        batches = choice_batches(plan, limits)
        return share(
            self, reference, "score", "options", batches, make, missing=missing, keys=keys_of, part=with_keys, wait=wait
        )

    def _context(self, runner: Runner, batch_size: int) -> dict[str, object]:
        return context_of(
            model=runner.loaded.identity.label, device=runner.device, batch_size=batch_size, process=self.claims.name
        )

    def tell(
        self, reference: Reference, phase: Phase, suite: str, done: int, total: int, tokens: int, made: int = 0
    ) -> None:
        if self._progress is not None:
            self._open.pop((reference, phase), None)
            if done < total:
                self._open[reference, phase] = total
            self._progress(Progress(reference.label, phase, suite, done, total, tokens, made))

    def told_all(self, reference: Reference, phase: Phase) -> bool:
        """True; a phase that was left while others had parts of it has ended."""
        total = self._open.get((reference, phase))
        if total is not None:
            self.tell(reference, phase, "", total, total, 0)
        return True
