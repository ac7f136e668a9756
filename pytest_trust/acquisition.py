"""From jobs to stored results: one run's access to models and store.

Everything a job needs of a model is looked up first, by keys that take no weights to compute; only what is missing loads a model.
Batches are cut from a job's full list, longest first, whatever is stored already; a batch of which a part is stored runs only the
rest. In float32 a row's result does not depend on its batch; in 16 bits it can, which is what the noise floor is for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pytest_trust.errors import TrustError
from pytest_trust.files import is_converted
from pytest_trust.identity import ModelIdentity
from pytest_trust.jobs import Generation, Job, OptionScores, PairDrift, Phase, Progress, Response, row_seed
from pytest_trust.reasoning import DEFAULT_TAGS, opened_by, split_reasoning
from pytest_trust.references import Reference, check_device
from pytest_trust.store import Store, context_of
from pytest_trust.subject import Subject, as_options, as_prompts, portable_key

if TYPE_CHECKING:
    from pytest_trust.drift_plan import Vocabulary
    from pytest_trust.inference import Runner
    from pytest_trust.recording import Recording

__all__ = ["Engine", "Generation", "Job", "OptionScores", "PairDrift", "Progress", "Response"]

# Loading needs the weights and something to work with beside what is resident.
_HEADROOM = 1.3

Item = TypeVar("Item")


class Engine:
    """One run's access to models and store. Models stay loaded between calls as long as they fit together; `close` lets them go.

    `device`, `dtype`: of models whose reference names none; None or `auto` choose (see `identity`). `batch_size` None is automatic.
    `reasoning_tags` are what `split_reasoning` takes. `template`: behind whose prompts drift is measured, each model's `own` or the baseline's,
    `shared` by both. `offload`: of each model one decoder layer is in memory at a time. `progress` is called after every batch, in this process.
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
        template: Literal["own", "shared"] = "own",
        offload: bool = False,
    ) -> None:
        if device is not None:
            check_device(device)
        if batch_size is not None and batch_size < 1:
            raise TrustError(f"batch size {batch_size}: expected 1 or more, or auto")
        self.store = Store(store)
        self._settings: dict[str, Any] = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code, "offload": offload}
        self._batch_size = batch_size
        self._progress = progress
        self._tags = tuple((opening, closing) for opening, closing in reasoning_tags)
        self._subjects: dict[Reference, Subject] = {}
        self._recordings: dict[Reference, Recording] = {}
        self.shares_template = template == "shared"
        self.offloads = offload
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
        self.store.close()

    def identify(self, reference: Reference) -> ModelIdentity:
        """The identity of a reference; no weights are loaded, neither torch nor transformers is needed (but to convert the demo once)."""
        recording = self.recording(reference)
        return recording.identity if recording else self.subject(reference).identity

    def subject(self, reference: Reference) -> Subject:
        """The model of a reference that is no recording."""
        if reference not in self._subjects:
            self._subjects[reference] = Subject(reference, store=self.store, **self._settings)
        return self._subjects[reference]

    def recording(self, reference: Reference) -> Recording | None:
        """The recording of a reference, or None when it is a model."""
        if reference.kind != "recording":
            return None
        if reference not in self._recordings:
            from pytest_trust.recording import read_recording

            self._recordings[reference] = read_recording(reference.path, label=reference.label)
        return self._recordings[reference]

    def runner(self, reference: Reference) -> Runner:
        """The loaded model of a reference; others are released first when both do not fit."""
        from pytest_trust.inference import free_bytes

        subject = self.subject(reference)
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
        """Let go of the weights of every other model: of several candidates one is in memory beside the baseline."""
        for reference, subject in self._subjects.items():
            if reference not in kept:
                subject.release()

    def acquire(self, jobs: Iterable[Job], baseline: Reference, candidate: Reference) -> None:
        """Make everything that is missing: the baseline's part, the candidate's, then the drift of the pair.

        Every finished batch is in the store at once, so an interrupted call continues where it was.

        Raises:
            TrustError: a model cannot be had or loaded, a recording lacks probes, or the store cannot be written.
        """
        from pytest_trust.pair import acquire_drift
        from pytest_trust.planning import remember_rate, tokens_left

        planned = list(jobs)
        models = [reference for reference in dict.fromkeys((baseline, candidate)) if not self.recording(reference)]
        left = sum(tokens_left(self, planned, reference) for reference in models)
        start = time.monotonic()
        for reference in dict.fromkeys((baseline, candidate)):
            recording = self.recording(reference)
            if recording:
                recording.require(planned)
            else:
                self.acquire_side(planned, reference)
        acquire_drift(self, planned, baseline, candidate)
        fingerprints = [self.identify(reference).fingerprint for reference in models]
        remember_rate(self.store, fingerprints, left, time.monotonic() - start)

    def at_hand(self, reference: Reference) -> bool:
        """Whether a model's files can be read as they lie here, without a download or the demo's conversion."""
        return reference.kind != "hub" and (reference.kind != "demo" or is_converted(self.store.directory))

    @property
    def tags(self) -> tuple[tuple[str, str], ...]:
        """The tags of reasoning that responses are split by."""
        return self._tags

    def stored(self, reference: Reference, job: Job) -> set[tuple[str, int]]:
        """Probe ids and repeats of a job that the store holds of a model; renders and loads nothing."""
        subject = self.subject(reference)
        keys: dict[tuple[str, int], str]
        if job.task == "generate":
            keys = subject.response_keys(job, as_prompts(subject.rendered("prompt", job.probes)))
        else:
            rows = as_options(subject.rendered("options", job.probes))
            keys = {(name, 0): key for name, key in subject.option_keys(rows).items()}
        found = self.store.get("responses" if job.task == "generate" else "options", keys.values())
        return {name for name, key in keys.items() if key in found}

    def acquire_side(self, jobs: Iterable[Job], reference: Reference) -> None:
        """Make what is missing of one model's responses and option scores."""
        for job in jobs:
            if job.task == "generate":
                self._generate(job, reference)
            else:
                self._choose(job, reference)

    def responses(self, reference: Reference, job: Job) -> dict[str, tuple[Response, ...]]:
        """Stored responses by probe id, `job.samples` of each; probes that were not answered are left out."""
        recording = self.recording(reference)
        if recording:
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
        recording = self.recording(reference)
        if recording:
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

    def drift(self, job: Job, baseline: Reference, candidate: Reference) -> PairDrift:
        """Stored token drifts of the pair on the job's drift probes, with the reason where there are none."""
        from pytest_trust.pair import stored_drift

        return stored_drift(self, job, baseline, candidate)

    def _response(self, value: dict[str, Any]) -> Response:
        split = split_reasoning(value["text"], self._tags, bool(opened_by(value["tail"], self._tags)))
        return Response(
            text=value["text"],
            token_ids=tuple(value["ids"]),
            finish_reason=value["finish"],
            reasoning=split.reasoning,
            answer=split.answer,
            complete=split.complete,
            prompt_tokens=value["prompt_tokens"],
            closed=value.get("closed", False),
        )

    def _generate(self, job: Job, reference: Reference) -> None:
        subject = self.subject(reference)
        prompts = subject.prompts(job.probes)
        keys = subject.response_keys(job, prompts)
        # Longest first: what does not fit shows at once. Equal keys are the same response.
        order = sorted(
            {key: name for name, key in keys.items()}.items(), key=lambda item: (-len(prompts[item[1][0]].ids), item[1])
        )
        have = self.store.get("responses", keys.values())
        if all(key in have for key, _ in order):
            return
        from pytest_trust.budget import Budgeted, generate_within
        from pytest_trust.generation import Row, generate

        runner = self.runner(reference)
        generation, forced = subject.generation(job), subject.forced()
        plain = subject.identity.chat_format == "plain"
        talks = {probe.id for probe in job.probes if probe.messages}
        size = runner.limit_rows(
            max(len(prompt.ids) for prompt in prompts.values()) + generation.longest, self._batch_size
        )
        def make(part: Sequence[tuple[Row, str]]) -> list[Budgeted]:
            rows = [row for row, _ in part]
            if generation.reasoning_budget is not None:
                return generate_within(runner, rows, [tail for _, tail in part], generation, self._tags)
            return [Budgeted(one, closed=False) for one in generate(runner, rows, generation)]

        done, tokens = len(have), 0
        for batch in chunks(order, size):
            missing = [(key, name) for key, name in batch if key not in have]
            rows = [
                # `User:` ends a response only where the prompt has such lines.
                Row(
                    prompts[name].ids,
                    row_seed(generation.seed, name, repeat),
                    plain=plain and name in talks,
                    forced=forced,
                )
                for _, (name, repeat) in missing
            ]
            made = self.halving([(row, prompts[name].tail) for row, (_, (name, _)) in zip(rows, missing, strict=True)], make)
            values = {
                key: {
                    "text": one.response.text,
                    "ids": one.response.token_ids,
                    "finish": one.response.finish_reason,
                    "prompt_tokens": len(row.prompt),
                    **({"closed": True} if one.closed else {}),
                }
                for (key, _), row, one in zip(missing, rows, made, strict=True)
            }
            self.store.put_json("responses", values, self._context(runner, size))
            done, tokens = done + len(missing), tokens + sum(len(one.response.token_ids) for one in made)
            if missing:
                self.tell(reference, "generate", job.suite, done, len(order), tokens)

    def _choose(self, job: Job, reference: Reference) -> None:
        subject = self.subject(reference)
        rows = subject.options(job.probes)
        keys = subject.option_keys(rows)
        texts = {probe.id: probe.options for probe in job.probes}
        order = sorted(
            {key: name for name, key in keys.items()}.items(),
            key=lambda item: (-max(map(len, rows[item[1]].ids)), item[1]),
        )
        have = self.store.get("options", keys.values())
        if all(key in have for key, _ in order):
            return
        from pytest_trust.inference import Group
        from pytest_trust.scoring import score_options

        runner = self.runner(reference)
        widest = max(len(row.ids) for row in rows.values())
        size = max(
            1, runner.limit_rows(max(len(ids) for row in rows.values() for ids in row.ids), self._batch_size) // widest
        )
        done, tokens = len(have), 0
        for batch in chunks(order, size):
            missing = [(key, name) for key, name in batch if key not in have]
            groups = [Group(rows[name].ids, rows[name].starts) for _, name in missing]
            made = self.halving(
                list(zip(groups, [texts[name] for _, name in missing], strict=True)),
                lambda part: score_options(runner, [group for group, _ in part], [options for _, options in part]),
            )
            values = {
                key: {"log_likelihoods": one.log_likelihoods, "tokens": one.tokens, "bytes": one.bytes}
                for (key, _), one in zip(missing, made, strict=True)
            }
            self.store.put_json("options", values, self._context(runner, size))
            done, tokens = done + len(missing), tokens + sum(sum(one.tokens) for one in made)
            if missing:
                self.tell(reference, "score", job.suite, done, len(order), tokens)

    def halving(self, items: Sequence[Item], run: Callable[[Sequence[Item]], list[Any]]) -> list[Any]:
        """Run a batch; when the memory does not suffice, its halves."""
        if not items:
            return []
        import torch

        from pytest_trust.heads import out_of_memory

        try:
            return run(items)
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not out_of_memory(error):
                raise
            if len(items) == 1:
                raise TrustError(
                    "not enough memory for a single row: use a smaller dtype, --trust-max-new-tokens or another device"
                ) from None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(items) // 2
        return [*self.halving(items[:half], run), *self.halving(items[half:], run)]

    def _context(self, runner: Runner, batch_size: int) -> dict[str, object]:
        return context_of(model=runner.loaded.identity.label, device=runner.device, batch_size=batch_size)

    def tell(self, reference: Reference, phase: Phase, suite: str, done: int, total: int, tokens: int) -> None:
        if self._progress is not None:
            self._progress(Progress(reference.label, phase, suite, done, total, tokens))


def chunks(items: Sequence[Item], size: int) -> Iterable[Sequence[Item]]:
    """Consecutive parts of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))
