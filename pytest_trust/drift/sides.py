"""The two sides of a probe whose drift is measured: what each was shown, the texts, the keys of the results."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pytest_trust.drift.masking import Spans
from pytest_trust.models.reference import Reference
from pytest_trust.responses import Job

if TYPE_CHECKING:
    import torch

    from pytest_trust.drift.shared_tokens import Numbering
    from pytest_trust.models.runner import Group
    from pytest_trust.probes import Probe


Side = Literal["baseline", "candidate"]

Text = tuple[tuple[int, ...], ...]
"""Token ids (numbers, where the ids of the two models differ): those of one response, or one tuple per option."""


@dataclass(slots=True)
class View:
    """One side of a job: what it was shown (`contexts`, hashed), and the texts it gives drift to be measured on.

    `recorded`: it cannot be run; where it has `prompts` nevertheless, a server can be given the other side's text after them.
    """

    reference: Reference
    fingerprint: str
    recorded: bool
    contexts: dict[str, str] = field(default_factory=dict)
    texts: dict[str, Text] = field(default_factory=dict)
    prompts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    options: dict[str, Group] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)  # characters before the answer (tokens where `recorded`)
    traced: set[str] = field(default_factory=set)  # probes whose text is a trace and an answer
    closings: dict[str, str] = field(default_factory=dict)  # the tag that closes the trace which the prompt has opened
    markers: dict[str, Spans] = field(default_factory=dict)  # characters of think markers
    masked: dict[str, tuple[int, ...]] = field(default_factory=dict)  # places of the template's tokens, where known
    numbering: Numbering | None = None
    context: int | None = None  # tokens that the model was made for

    def beyond(self, probe: str, text: Text) -> bool:
        """Whether this side reads the text in windows."""
        return (
            self.context is not None
            and probe in self.prompts
            and len(self.prompts[probe]) + len(self.own(text[0])) - 1 > self.context
        )

    def own(self, row: Sequence[int]) -> tuple[int, ...]:
        """The row in this side's ids."""
        return tuple(row) if self.numbering is None else self.numbering.read(row)[0]

    def numbers(self, ids: Sequence[int]) -> tuple[int, ...]:
        """This side's ids as numbers."""
        return tuple(ids) if self.numbering is None else self.numbering.numbers(ids)

    def group(self, probe: str, texts: Sequence[Text]) -> Group:
        """What this side's model runs to be compared on `texts`."""
        from pytest_trust.models.runner import Group

        if probe in self.options:
            return self.options[probe]
        prompt = self.prompts[probe]
        return Group(tuple((*prompt, *self.own(text[0])) for text in texts), (len(prompt),) * len(texts))

    def aligned(self, row: Sequence[int], states: torch.Tensor) -> torch.Tensor:
        """The states that predict the row's tokens, of those that this side's model has for its own reading of it."""
        if self.numbering is None:
            return states
        places = self.numbering.read(row)[1]
        # Where the last token is spelled as nothing, its state is another's: it is masked in any case.
        return states[[min(place, len(states) - 1) for place in places]]


@dataclass(frozen=True, slots=True)
class Unit:
    """One probe of one job with the keys of what is missing; `floor` and `answer_without_trace` are empty when they are not wanted."""

    job: Job
    probe: Probe
    baseline: View
    candidate: View
    candidate_baseline: str
    baseline_candidate: str
    floor: str
    answer_without_trace: str = ""

    def side(self, side: Side) -> View:
        return self.baseline if side == "baseline" else self.candidate

    def on(self, direction: Side) -> Text:
        """The text on which `direction`, p's side, is measured."""
        return self.side(direction).texts[self.probe.id]

    def without(self, direction: str) -> Unit:
        """The unit, of which nothing is wanted in this direction (`candidate_baseline` or `baseline_candidate`)."""
        wanted: dict[str, Any] = {direction: ""}
        return replace(self, **wanted)

    def texts(self) -> list[Text]:
        """The texts that both sides are run on: each side's own response, or the options once."""
        wanted = [self.on("candidate")] if self.candidate_baseline or self.answer_without_trace else []
        if self.baseline_candidate or self.floor:
            wanted.append(self.on("baseline"))
        return list(dict.fromkeys(wanted))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What two models' tokens have in common. `shared` leading numbers mean the same to both: -1 for all, and ids are numbers; 0 for none."""

    shared: int
    baseline: Numbering | None = None
    candidate: Numbering | None = None
    key: tuple[object, ...] = ()
    """What of it decides a result beside the numbers."""

    def side(self, side: Side) -> Numbering | None:
        return self.baseline if side == "baseline" else self.candidate


_PARTS = ("candidate_baseline", "baseline_candidate", "floor", "answer_without_trace")


def keys_of(units: Sequence[Unit]) -> list[str]:
    """Keys of all that the units are to be measured for."""
    return [key for unit in units for name in _PARTS if (key := getattr(unit, name))]


def parts_of(units: Sequence[Unit], keys: Set[str]) -> list[Unit]:
    """The units with what these keys ask of them; those of which nothing is asked are left out."""
    found = []
    for unit in units:
        wanted: dict[str, Any] = {name: key if (key := getattr(unit, name)) in keys else "" for name in _PARTS}
        if any(wanted.values()):
            found.append(replace(unit, **wanted))
    return found


def unit_length(unit: Unit) -> int:
    sizes = [len(row) for view in (unit.baseline, unit.candidate) for row in view.texts[unit.probe.id]]
    return max(sizes) + max(
        (len(view.prompts.get(unit.probe.id, ())) for view in (unit.baseline, unit.candidate)), default=0
    )
