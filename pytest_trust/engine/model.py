"""The protocol of one side of a pair: a model with local weights, a recording, or a model behind a server.

`Local`, `Recorded` and `Served` implement it. Other rooms never ask of which kind a model is. They ask what it can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pytest_trust.models.identity import ModelIdentity
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import DEFAULT_TAGS, Tags
from pytest_trust.responses import Generation, Job, OptionScores, Response, TokenIds

if TYPE_CHECKING:
    import torch

    from pytest_trust.engine.top_k import TopK
    from pytest_trust.models.heads import Head
    from pytest_trust.probes import Probe

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a model was shown on one probe and what it said, as its own token ids."""

    context: str
    """Stands for the prompt in keys."""
    token_ids: TokenIds
    """The response's token ids, or those of each option."""
    prompt: Ids = ()
    """The prompt's token ids; empty where the model cannot read another text behind this prompt."""
    options: TokenIds = ()
    """The prompt followed by each option; only for a probe whose options are scored."""
    starts: Ids = ()
    """Index of each option's first token in its row of `options`."""
    lead_in: int = 0
    """Tokens of `options` between prompt and option that the model wrote itself: its trace."""
    text: str = ""
    """The response's text; empty for options, a recording or a server."""
    tail: str = ""
    """The end of the prompt's text, which may open a trace."""
    answer_at: int = 0
    """Characters of the text before the answer."""
    answer_token: int | None = None
    """Index of the answer's first token; None where it must be computed from `answer_at`."""
    masked: Ids | None = None
    """Indices of the tokens that belong to the template; None where they must be computed."""
    traced: bool = False
    """Whether the text is a trace followed by an answer."""
    trace_at: tuple[int, int] = (0, 0)
    """The characters [start, end) of the text that are the trace; (0, 0) for an empty one, or where it is not known."""


#: Where a trace format was read from, in a report's words.
TRACE_SOURCES = {
    "reasoning_tags": "--trust-reasoning-tags",
    "response_template": "its response template",
    "template": "its template",
    "table": "the table of known formats",
    "none": "none",
}


@dataclass(frozen=True, slots=True)
class ReadFormat:
    """The trace format that a model's responses are read in, in a report's words."""

    marks: str
    """The marks of a trace, `<think> … </think>`; empty where no format was found and all known ones are tried."""
    source: str
    """Where the format was read from: one of the words of `TRACE_SOURCES`; empty where that is not known."""

    @classmethod
    def of(cls, tags: Tags, source: str) -> ReadFormat:
        """The format of a model's own tags. `source` is a key of `TRACE_SOURCES`."""
        pairs = [pair for pair in tags if source != "reasoning_tags" or pair not in DEFAULT_TAGS]
        marks = "" if source == "none" else ", ".join(f"{opening} … {closing}" for opening, closing, *_ in pairs)
        return cls(marks, TRACE_SOURCES[source])

    @classmethod
    def given(cls, tags: Tags) -> ReadFormat:
        """The format of a model that shows none: the tags that a user gave, if there are any."""
        return cls.of(tags, "none" if tags == DEFAULT_TAGS else "reasoning_tags")


#: The format of a recording that was made before recordings kept it.
UNKNOWN_FORMAT = ReadFormat("", "")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for the states (or the top k) of a model on the texts of one probe."""

    job: Job
    probe: Probe
    own: TokenIds
    """The model's own text."""
    prompt: Ids = ()
    """The prompt that the model reads before `given`."""
    given: TokenIds = ()
    """The other model's text."""


class Model(Protocol):
    """One side of a pair.

    `acquire` makes the missing results and stores them. `responses` and `options` read them from the store, or from the
    recording's file.
    """

    reference: Reference
    runs: bool
    """Whether the model has local weights, so that it can be run on any text; such a model is a `Local`."""
    answers: bool
    """Whether the model can make missing results; a recording cannot."""
    tokens_by_text: bool
    """Whether each of its tokens is looked up in the other model's vocabulary."""

    @property
    def identity(self) -> ModelIdentity:
        """What the model is. This loads no weights."""
        ...

    @property
    def tags(self) -> Tags:
        """The tags that its responses are split by."""
        ...

    @property
    def read_format(self) -> ReadFormat:
        """The trace format that its responses are read in, for a report."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a report must say about it, beside the warnings of its identity."""
        ...

    @property
    def at_hand(self) -> bool:
        """Whether `identity` needs no download, no conversion and no request."""
        ...

    @property
    def reads(self) -> bool:
        """Whether the model can read a text that it did not write."""
        ...

    @property
    def source(self) -> str:
        """Stands for the model in the keys of its drift."""
        ...

    def way(self, generation: Generation) -> Generation:
        """Sampling settings as this model uses them. Raises InvalidInput where it cannot."""
        ...

    def require(self, jobs: Sequence[Job]) -> None:
        """Refuse jobs that need results which the model lacks and cannot make. Raises InvalidInput."""

    def check_beside(self, other: Model) -> None:
        """Refuse another model that the store could not tell from this one. Raises TrustError."""

    def read_ahead(self) -> None:
        """Start to read the model's files in the background."""

    def contents(self) -> str:
        """What the recording's file holds, in words; empty for other models.

        Raises:
            InvalidInput: the file is damaged.
        """
        ...

    def stored(self, job: Job) -> set[tuple[str, int]]:
        """Probe ids and repeats of a job whose results exist. This renders no prompt and loads no weights."""
        ...

    def acquire(self, jobs: Sequence[Job], *, wait: bool = True, keys: Set[str] | None = None) -> bool:
        """Make the jobs' missing responses and option scores. True when all of them exist at the end.

        Several processes may call this at once; they share the work.

        Args:
            wait: wait for other processes to finish their share.
            keys: make the results of these keys only.
        """
        ...

    def responses(self, job: Job) -> dict[str, tuple[Response, ...]]:
        """Responses by probe id, `job.samples` of each. Unanswered probes are left out."""
        ...

    def options(self, job: Job) -> dict[str, OptionScores]:
        """Option scores by probe id. Unscored probes are left out."""
        ...

    def unscored(self, job: Job) -> str:
        """Why a server could not score the job's options; empty where it could, and for other models."""
        ...

    def recorded(self, job: Job) -> dict[str, dict[str, Any]]:
        """Responses or option scores of a job by portable key, in the form of a recording."""
        ...

    def vocabulary(self) -> str:
        """Hash of the model's tokens and their ids; empty where they are unknown."""
        ...

    def said(self, job: Job, reader: Model) -> dict[str, Said]:
        """What the model said on the job's probes, by probe id; `reader` is the model that will read it."""
        ...

    def kept(self, wanted: Sequence[Wanted], reader: Model) -> list[dict[TokenIds, torch.Tensor | TopK]]:
        """For each probe, the kept states or top k by text. Only a model that is not run here has them."""
        ...

    def head(self, reader: Model) -> Head | None:
        """The head that turns the states into logits, on the reader's device; None where a top k is kept instead."""
        ...

    def read(self, texts: Iterable[tuple[Ids, Ids]]) -> None:
        """Ask a server to read texts that it did not write, as (prompt, text). `reads` becomes false when it cannot."""

    def why_no_drift(self, other: Model, *, shared_template: bool) -> str:
        """Why the kinds of the two models allow no drift between them; empty where they allow it."""
        ...

    def why_unread(self, side: str, writer: str) -> str:
        """Why this model, the pair's `side`, cannot read the text of the `writer`; empty where it can."""
        ...

    @property
    def why_no_floor(self) -> str:
        """Why the model cannot be run a second time for the noise floor; empty where it can."""
        ...

    def release(self) -> None:
        """Release the model's weights."""

    def close(self) -> None:
        """Release weights, files and connections."""
