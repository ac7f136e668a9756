"""The two sides of a probe whose drift is measured: their prompts, their texts, and the keys of the results."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pytest_trust.drift.masking import Spans
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import DEFAULT_TAGS, Tags
from pytest_trust.responses import Job, TokenIds

if TYPE_CHECKING:
    import torch

    from pytest_trust.drift.shared_tokens import Numbering
    from pytest_trust.models.runner import Group
    from pytest_trust.probes import Probe


Side = Literal["baseline", "candidate"]


@dataclass(slots=True)
class View:
    """One side of a job: its prompts and the texts that drift is measured on, by probe id."""

    reference: Reference
    fingerprint: str
    recorded: bool
    """Whether the model cannot be run here."""
    contexts: dict[str, str] = field(default_factory=dict)  # stand for the prompts in keys
    token_ids: dict[str, TokenIds] = field(default_factory=dict)
    """Of each text; numbers, where the two models' ids differ."""
    prompts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Prompts that the other side's text can be read behind; a server may have them, a recording has none."""
    options: dict[str, Group] = field(default_factory=dict)
    lead_ins: dict[str, int] = field(default_factory=dict)  # tokens before each option that the model wrote itself
    answers: dict[str, int] = field(default_factory=dict)  # characters before the answer (tokens where `recorded`)
    traced: set[str] = field(default_factory=set)  # probes whose text is a trace and an answer
    closings: dict[str, str] = field(default_factory=dict)  # the tag that closes a trace which the prompt has opened
    markers: dict[str, Spans] = field(default_factory=dict)  # think markers, as spans of characters
    masked: dict[str, tuple[int, ...]] = field(default_factory=dict)  # indices of the template's tokens, where known
    tags: Tags = DEFAULT_TAGS
    """The tags that the side's responses are split by."""
    numbering: Numbering | None = None
    context: int | None = None  # the model's longest context in tokens

    def beyond(self, probe: str, text: TokenIds) -> bool:
        """Whether the text is longer than this side's context, so that it is read in windows."""
        return (
            self.context is not None
            and probe in self.prompts
            and len(self.prompts[probe]) + len(self.own(text[0])) - 1 > self.context
        )

    def own(self, row: Sequence[int]) -> tuple[int, ...]:
        """A row of numbers in this side's ids."""
        return tuple(row) if self.numbering is None else self.numbering.read(row)[0]

    def numbers(self, ids: Sequence[int]) -> tuple[int, ...]:
        """This side's ids as numbers."""
        return tuple(ids) if self.numbering is None else self.numbering.numbers(ids)

    def group(self, probe: str, texts: Sequence[TokenIds]) -> Group:
        """What this side's model is run on, to compare it on `texts`."""
        from pytest_trust.models.runner import Group

        if probe in self.options:
            return self.options[probe]
        prompt = self.prompts[probe]
        return Group(tuple((*prompt, *self.own(text[0])) for text in texts), (len(prompt),) * len(texts))

    def aligned(self, row: Sequence[int], states: torch.Tensor) -> torch.Tensor:
        """The states that predict the row's numbers, from the states that predict this side's own tokens of it."""
        if self.numbering is None:
            return states
        places = self.numbering.read(row)[1]
        # A last token that this side spells as nothing gets the state of another token; it is masked in any case.
        return states[[min(place, len(states) - 1) for place in places]]


@dataclass(frozen=True, slots=True)
class Unit:
    """One probe of one job with the keys of its drifts. A key is empty when that drift is not measured."""

    job: Job
    probe: Probe
    baseline: View
    candidate: View
    candidate_baseline: str
    """KL(candidate || baseline) on the candidate's text."""
    baseline_candidate: str
    """KL(baseline || candidate) on the baseline's text."""
    floor: str
    """The baseline against itself in another batch composition."""
    answer_without_trace: str = ""
    """KL(candidate || baseline) on the candidate's answer, which the baseline reads without the trace."""

    def side(self, side: Side) -> View:
        return self.baseline if side == "baseline" else self.candidate

    def on(self, direction: Side) -> TokenIds:
        """The text of the side `direction`, on which that side is p."""
        return self.side(direction).token_ids[self.probe.id]

    def without(self, direction: str) -> Unit:
        """The unit without the key of this direction (`candidate_baseline` or `baseline_candidate`)."""
        wanted: dict[str, Any] = {direction: ""}
        return replace(self, **wanted)

    def texts(self) -> list[TokenIds]:
        """The texts that both sides are run on: both responses as far as they are needed, or the options once."""
        wanted = [self.on("candidate")] if self.candidate_baseline or self.answer_without_trace else []
        if self.baseline_candidate or self.floor:
            wanted.append(self.on("baseline"))
        return list(dict.fromkeys(wanted))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that two models have in common."""

    shared: int
    """Count of the leading numbers that mean the same to both. -1: all ids mean the same. 0: too few do for KL."""
    baseline: Numbering | None = None
    candidate: Numbering | None = None
    key: tuple[object, ...] = ()
    """What else of the two vocabularies enters the keys of results."""

    def side(self, side: Side) -> Numbering | None:
        return self.baseline if side == "baseline" else self.candidate


_PARTS = ("candidate_baseline", "baseline_candidate", "floor", "answer_without_trace")


def keys_of(units: Sequence[Unit]) -> list[str]:
    """The keys of all drifts of the units."""
    return [key for unit in units for name in _PARTS if (key := getattr(unit, name))]


def parts_of(units: Sequence[Unit], keys: Set[str]) -> list[Unit]:
    """The units with these keys only. Units that have none of them are left out."""
    found = []
    for unit in units:
        wanted: dict[str, Any] = {name: key if (key := getattr(unit, name)) in keys else "" for name in _PARTS}
        if any(wanted.values()):
            found.append(replace(unit, **wanted))
    return found


def unit_length(unit: Unit) -> int:
    """Tokens of the longer prompt and the longest text together."""
    sizes = [len(row) for view in (unit.baseline, unit.candidate) for row in view.token_ids[unit.probe.id]]
    return max(sizes) + max(
        (len(view.prompts.get(unit.probe.id, ())) for view in (unit.baseline, unit.candidate)), default=0
    )
