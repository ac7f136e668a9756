"""A recording as one side of a pair: it has the results that were recorded, and can make no others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_trust.engine.local import Local
from pytest_trust.engine.model import Ids, Model, ReadFormat, Said, Wanted
from pytest_trust.engine.recording import Recording, hash_of_head, read_recording
from pytest_trust.engine.stored_values import responses_of, scores_of
from pytest_trust.keys import portable_key
from pytest_trust.models.decoding import with_settings
from pytest_trust.models.identity import ModelIdentity
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import Tags
from pytest_trust.responses import Generation, Job, OptionScores, Response, TokenIds

if TYPE_CHECKING:
    import torch

    from pytest_trust.engine.top_k import TopK
    from pytest_trust.models.heads import Head
    from pytest_trust.models.runner import Runner

TWO_RECORDINGS = "both models are recordings, and of one only the most likely tokens were kept"
SERVED_RECORDING = "the recording is of a model behind a server, of which it keeps the answers only"
NO_PROMPTS = "a recording keeps no prompts, so its template cannot be shared: leave out --trust-template=shared"
NOT_RECORDED = "the {side} is a recording, which holds its states on its own responses only"
NO_WEIGHTS = "the baseline is a recording, so it cannot be run a second time"

_head_hashes: WeakKeyDictionary[Runner, str] = WeakKeyDictionary()


class Recorded:
    """A side of a pair that was recorded. `engine.model.Model` documents its methods."""

    runs = False
    answers = False
    tokens_by_text = False
    reads = False
    at_hand = True
    why_no_floor = NO_WEIGHTS
    warnings = ()

    def __init__(self, reference: Reference, tags: Tags) -> None:
        self.reference = reference
        self._tags = tags
        self._file: Recording | None = None

    @property
    def file(self) -> Recording:
        """The recording, read on first use. Raises InvalidRecording."""
        if self._file is None:
            self._file = read_recording(self.reference.path, label=self.reference.label)
        return self._file

    @property
    def identity(self) -> ModelIdentity:
        return self.file.identity

    @property
    def tags(self) -> Tags:
        return self.file.tags or self._tags

    @property
    def read_format(self) -> ReadFormat:
        return self.file.read_format if self.file.tags else ReadFormat.given(self._tags)

    @property
    def source(self) -> str:
        return f"recorded {self.file.content}"

    def way(self, generation: Generation) -> Generation:
        """The settings that the recorded model used: its own where it was recorded so."""
        return with_settings(generation, self.file.decoding) if self.file.decoding else generation

    def require(self, jobs: Sequence[Job]) -> None:
        self.file.require(jobs)

    def check_beside(self, other: Model) -> None:
        """Nothing to refuse: no result of a recording is in the store."""

    def read_ahead(self) -> None:
        """Nothing to do: its tensors are read when drift is measured."""

    def contents(self) -> str:
        return self.file.verify()

    def stored(self, job: Job) -> set[tuple[str, int]]:
        """All probes and repeats of the job: `require` refuses a job whose results are not there."""
        return {(probe.id, repeat) for probe in job.probes for repeat in range(job.repeats())}

    def acquire(self, jobs: Sequence[Job], *, wait: bool = True, keys: Set[str] | None = None) -> bool:
        self.require(jobs)
        return True

    def responses(self, job: Job) -> dict[str, tuple[Response, ...]]:
        probes = {probe.id: probe for probe in job.probes}

        def found(probe: str, repeat: int) -> dict[str, Any] | None:
            return self.file.response(portable_key(probes[probe], job, repeat))

        return responses_of(job, found, self.tags)

    def options(self, job: Job) -> dict[str, OptionScores]:
        found = {probe.id: self.file.options(portable_key(probe, job, 0)) for probe in job.probes}
        lead_ins = {name: value["lead_in"] for name, value in found.items() if value and "lead_in" in value}
        scored = {name: value if value and value["log_likelihoods"] else None for name, value in found.items()}
        return scores_of(scored, lead_ins, self.tags)

    def unscored(self, job: Job) -> str:
        return ""

    def recorded(self, job: Job) -> dict[str, dict[str, Any]]:
        raise TypeError(f"{self.reference.label} is recorded already")

    def vocabulary(self) -> str:
        return self.file.vocabulary

    def said(self, job: Job, reader: Model) -> dict[str, Said]:
        found = {}
        for probe in job.probes:
            key = portable_key(probe, job, 0)
            token_ids = self.file.token_ids(key)
            if token_ids is not None:
                start = self.file.answer_start(key)
                found[probe.id] = Said(
                    context=key,
                    token_ids=token_ids,
                    answer_token=start,
                    masked=tuple(self.file.masked(key)),
                    traced=job.task == "generate" and 0 < start < len(token_ids[0]),
                )
        return found

    def kept(self, wanted: Sequence[Wanted], reader: Model) -> list[dict[TokenIds, torch.Tensor | TopK]]:
        names = [portable_key(one.probe, one.job, 0) for one in wanted]
        found: Sequence[torch.Tensor | TopK] = self.file.tops(names) if self.file.topk else self.file.states(names)
        return [{one.own: states} for one, states in zip(wanted, found, strict=True)]

    def head(self, reader: Model) -> Head | None:
        """The recorded head, or the reader's where the two are equal, so that one head is in memory."""
        if self.file.topk:
            return None
        if isinstance(reader, Recorded):
            same = bool(self.file.head_hash) and self.file.head_hash == reader.file.head_hash
            first = str(reader.reference.path) < str(self.reference.path)
            return (reader if same and first else self).file.head()
        assert isinstance(reader, Local)  # `why_no_drift` has refused a server
        runner = reader.runner()
        assert runner.head is not None
        if runner not in _head_hashes:
            _head_hashes[runner] = hash_of_head(runner.head)
        return runner.head if _head_hashes[runner] == self.file.head_hash else self.file.head(runner.device)

    def read(self, texts: Iterable[tuple[Ids, Ids]]) -> None:
        """Nothing to do: a recording cannot read."""

    def why_no_drift(self, other: Model, *, shared_template: bool) -> str:
        if isinstance(other, Recorded) and (self.file.topk or other.file.topk):
            return TWO_RECORDINGS
        if not self.file.vocabulary:
            return SERVED_RECORDING
        return NO_PROMPTS if shared_template else ""

    def why_unread(self, side: str, writer: str) -> str:
        return NOT_RECORDED.format(side=side)

    def release(self) -> None:
        """Nothing to release: a recording has no weights."""

    def close(self) -> None:
        self._file = None
