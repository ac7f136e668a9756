"""The protocol of one side of a pair, whatever it is: weights here, a recording, a model behind a server.

`Local`, `Recorded` and `Served` implement it. Nothing outside of this room asks what kind a reference is: it asks what the model can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pytest_trust.models.identity import ModelIdentity
from pytest_trust.models.reference import Reference
from pytest_trust.responses import Job, OptionScores, Response

if TYPE_CHECKING:
    import torch

    from pytest_trust.engine.top_k import TopK
    from pytest_trust.models.heads import Head
    from pytest_trust.probes import Probe

Ids = tuple[int, ...]
Rows = tuple[Ids, ...]
"""Token ids of one response, or of each option of a probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a model said on one probe, as its own token ids, and what it was shown before."""

    context: str
    """Names what it was shown, in keys."""
    rows: Rows
    """The response's token ids, or those of each option."""
    prompt: Ids = ()
    """The token ids that it was shown; empty where nothing can be read behind them again."""
    options: Rows = ()
    """The prompt with each option behind it, of a probe whose options are scored."""
    starts: Ids = ()
    """Index of each option's first token in `options`."""
    text: str = ""
    """The response's text, of one that was made here."""
    tail: str = ""
    """The end of the prompt's text, which may open a trace."""
    answer_at: int = 0
    """Characters of the text before the answer."""
    answer_token: int | None = None
    """Index of the answer's first token where it is known; else it follows from `answer_at`."""
    masked: Ids | None = None
    """Places of the tokens that belong to the template; None where they are to be found."""
    traced: bool = False
    """Whether the text is a trace and an answer behind it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A probe of which the states (or the top k) on some texts are wanted: on the model's own, and on `given` behind `prompt`."""

    job: Job
    probe: Probe
    own: Rows
    prompt: Ids = ()
    given: Rows = ()


class Model(Protocol):
    """One side of a pair.

    What it answers comes from the store (or its file): `acquire` makes what is missing there, `responses` and `options` read it.
    """

    reference: Reference
    runs: bool
    """Whether its weights are at hand, so that it can be run on any text; such a model is a `Local`."""
    answers: bool
    """Whether it can be asked for what is missing; a recording has what it has."""
    tokens_by_text: bool
    """Whether its tokens are looked up one by one in the other model's vocabulary."""

    @property
    def identity(self) -> ModelIdentity:
        """What the model is. No weights are loaded for it."""
        ...

    @property
    def at_hand(self) -> bool:
        """Whether it can be identified without a download, a conversion or a request."""
        ...

    @property
    def reads(self) -> bool:
        """Whether it can be given a text that it did not write."""
        ...

    @property
    def source(self) -> str:
        """Names what its drift is measured from, in keys."""
        ...

    def require(self, jobs: Sequence[Job]) -> None:
        """Refuse jobs of which it lacks a part that it cannot make. Raises InvalidInput."""

    def check_beside(self, other: Model) -> None:
        """Refuse another model that the store could take for this one. Raises TrustError."""

    def read_ahead(self) -> None:
        """Begin to read its files in the background."""

    def contents(self) -> str:
        """What its file holds, in words; empty where it has none. Raises InvalidInput where that is damaged."""
        ...

    def stored(self, job: Job) -> set[tuple[str, int]]:
        """Probe ids and repeats of a job that are there already. Renders and loads nothing."""
        ...

    def acquire(self, jobs: Sequence[Job], *, wait: bool = True, keys: Set[str] | None = None) -> bool:
        """Make what is missing of the jobs' responses and option scores, of it only `keys` where they are given.

        Other processes that do the same at this time have a part in it. True when all of it is there at the end: without `wait`, others may
        still be at work on theirs.
        """
        ...

    def responses(self, job: Job) -> dict[str, tuple[Response, ...]]:
        """Responses by probe id, `job.samples` of each. Probes that were not answered are left out."""
        ...

    def options(self, job: Job) -> dict[str, OptionScores]:
        """Option scores by probe id. Probes that were not scored are left out."""
        ...

    def unscored(self, job: Job) -> str:
        """Why its options of a job were not scored, where that follows from its kind; else nothing."""
        ...

    def recorded(self, job: Job) -> dict[str, dict[str, Any]]:
        """Responses or option scores of a job by portable key, as a recording keeps them."""
        ...

    def vocabulary(self) -> str:
        """Hash of its tokens and their ids; empty where they are not known."""
        ...

    def said(self, job: Job, reader: Model) -> dict[str, Said]:
        """What it said on the job's probes, by probe id; `reader` is the model that will read it."""
        ...

    def kept(self, wanted: Sequence[Wanted], reader: Model) -> list[dict[Rows, torch.Tensor | TopK]]:
        """Of a model that is not run here, per probe and text what it has: its states, or the top k of its distributions."""
        ...

    def head(self, reader: Model) -> Head | None:
        """The head that belongs to kept states, on the reader's device; None where there are none."""
        ...

    def read(self, texts: Iterable[tuple[Ids, Ids]]) -> None:
        """Have it read texts that it did not write, (prompt, text) each, where it can; `reads` says so afterwards."""

    def why_no_drift(self, other: Model, *, shared_template: bool) -> str:
        """Why no drift against the other model can be measured, as far as it follows from the kinds; or nothing."""
        ...

    def why_unread(self, side: str, writer: str) -> str:
        """Why it (the `side`) cannot be given the text of the `writer`."""
        ...

    @property
    def why_no_floor(self) -> str:
        """Why it cannot be run a second time; empty where it can."""
        ...

    def release(self) -> None:
        """Let go of what it holds in memory."""

    def close(self) -> None:
        """Let go of everything."""


Responses = Mapping[str, tuple[Response, ...]]
