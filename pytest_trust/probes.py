"""Probes, suites and gates as frozen dataclasses, and the choice of probes under a limit.

`pytest_trust.catalog.files` reads them from files.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pytest_trust.errors import InvalidInput

OUTCOMES = ("ok", "bad", "refused", "unparsable", "truncated", "error")
PUBLIC = "public/"

CHOICES: Final = ("likelihood", "ask")
"""How a choice is measured: by the likelihood of each option, or by what the model answers when it is asked."""

# Tokens of an answer that names an option.
_ASKED_TOKENS = 64

Scalar = str | int | float | bool
Filter = Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Probe:
    """One input. `messages` are rendered by the model's own chat template; `text` is given to the model as it is."""

    id: str
    cluster: str
    messages: tuple[Message, ...] = ()
    subtype: str = ""
    text: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""
    secrets: tuple[str, ...] = ()
    fields: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """What a person reads as the question: the last user message, the text, or a bare pair's first option."""
        users = [message.content for message in self.messages if message.role == "user"]
        return users[-1] if users else self.text or (self.options[0] if self.options else "")

    def attribute(self, name: str) -> Scalar | None:
        """The value that a gate's `where` compares: subtype, answer, cluster, id or one of `fields`."""
        if name in ("subtype", "answer", "cluster", "id"):
            return str(getattr(self, name))
        return self.fields.get(name)

    def matches(self, where: Filter) -> bool:
        return all(self.attribute(name) == value for name, value in where.items())


@dataclass(frozen=True, slots=True)
class Gate:
    """One metric of a suite, larger is worse.

    `score` says how a probe's samples become its score:

    - `share`: the share of samples whose outcome is in `counts`, among those whose outcome is in `of`.
    - `maximum`: the expected maximum of the judge's score over `k` samples, an unbiased estimate from all n samples. A
      k of 0, or above the number of samples asked for, means n.
    - `any`: 1 where the judge calls any sample bad, else 0.
    - `corpus`: the whole suite has one score, the `metric` of that name in `pytest_trust.stats.corpus`. Only suites
      whose task is `choose` can have it.

    With `minus` the unit is a cluster: its score is the mean over its probes that match `where`, less the mean over
    those that match `minus`. `margin` is the non-inferiority margin that holds when neither the test, its marker nor
    the policy gives one.
    """

    name: str
    title: str
    score: Literal["share", "maximum", "any", "corpus"] = "share"
    counts: tuple[str, ...] = ("bad",)
    of: tuple[str, ...] = ("ok", "bad")
    where: Filter = field(default_factory=dict)
    minus: Filter = field(default_factory=dict)
    margin: float | None = None
    metric: str = ""
    k: int = 0


@dataclass(frozen=True, slots=True)
class Suite:
    """The probes, judge and gates of one measured behaviour. `name` is `<dimension>/<suite>`.

    `family`: how many gates share one error rate, for gates of this suite that the policy does not name. None means the
    policy's own number.
    `notes`: what a report must say about the rows.
    `stop`: with `answered`, a response ends where its judge finds the answer stated.
    `task`: `generate` answers the probes, `choose` scores their options, and `ask` puts the options into the prompts
    and reads what the model answers.
    `choices`: one of `CHOICES`, how a `choose` suite is run where neither the policy nor an option says otherwise.
    """

    name: str
    dimension: str
    title: str
    about: str
    task: Literal["generate", "choose", "ask"]
    judge: str
    gates: Mapping[str, Gate]
    probes: tuple[Probe, ...]
    max_new_tokens: int = 64
    samples: int = 1
    temperature: float = 0.0
    normalise: Literal["none", "tokens", "bytes"] = "none"
    control: bool = False
    family: int | None = None
    notes: tuple[str, ...] = ()
    stop: Literal["", "answered"] = ""
    choices: Literal["likelihood", "ask"] = "likelihood"

    @property
    def key(self) -> str:
        """Tells the suite from the same one that is asked."""
        return f"{self.name} asked" if self.task == "ask" else self.name

    @property
    def both_ways(self) -> bool:
        """Whether the suite can be run in either of the ways of `CHOICES`: all of its probes are chats with options."""
        return self.task == "choose" and all(probe.messages and probe.options for probe in self.probes)

    def asked(self) -> Suite:
        """The suite with its options in the prompts. The models answer in their own words, read by the judge `choice`.

        Raises InvalidInput for a suite whose probes have no options, or are texts of their own.
        """
        if not all(probe.messages and probe.options for probe in self.probes):
            raise InvalidInput(f"{self.name}: its options cannot be asked for: every probe needs a prompt and options")
        probes = tuple(_with_options(probe) for probe in self.probes)
        return replace(
            self, task="ask", judge="choice", probes=probes, max_new_tokens=_ASKED_TOKENS, stop="answered", samples=1
        )

    def __post_init__(self) -> None:
        """Raises InvalidInput for a probe whose options cannot be chosen from, with its id."""
        for probe in self.probes:
            wrong = wrong_options(probe, self.task, self.judge, self.normalise, public=self.name.startswith(PUBLIC))
            if wrong:
                raise InvalidInput(f"{self.name}: probe {probe.id!r}: {wrong}")

    def gate(self, name: str | None = None) -> Gate:
        """The gate called `name`; without a name the suite's only gate. Raises InvalidInput for no such gate."""
        if name is None and len(self.gates) == 1:
            return next(iter(self.gates.values()))
        if name is None or name not in self.gates:
            raise InvalidInput(f"{self.name} has the gates {', '.join(self.gates)}, not {name!r}: name one of them")
        return self.gates[name]


def _with_options(probe: Probe) -> Probe:
    """The probe with its options in the last user message, unless that names them all already."""
    prompt = probe.prompt.casefold()
    if all(option.casefold() in prompt for option in probe.options):
        return probe
    last = max(index for index, message in enumerate(probe.messages) if message.role == "user")
    asked = f"{probe.messages[last].content}\n\nAnswer with one of these: {' / '.join(probe.options)}."
    messages = (*probe.messages[:last], Message("user", asked), *probe.messages[last + 1 :])
    return replace(probe, messages=messages)


def wrong_options(probe: Probe, task: str = "", judge: str = "", normalise: str = "none", public: bool = False) -> str:
    """Why nothing can be chosen from a probe's options, in one sentence; empty where they can be used.

    Options are chosen by their log-likelihood (task `choose`) or named in a response (judge `choice`). Without a task
    only what holds for both is looked at. An option that goes on from another one has a smaller log-likelihood than
    that one in every model, so it would never be chosen. Rows of a `public` benchmark are asked as they are.
    """
    chosen = task == "choose" or judge == "choice"
    if not probe.options:
        return "has no options to choose from: give two or more, and the right one as its answer" if chosen else ""
    if any(not option.strip() for option in probe.options):
        return "an option is empty: give every option a text"
    if len(probe.options) == 1:
        return f"has the single option {probe.options[0]!r}: give two or more to choose from"
    named = task in ("generate", "ask") and judge == "choice"  # letters in a response may be of either case
    texts = [" ".join(option.split()) for option in probe.options]
    twice = next((text for text, n in Counter(one.casefold() if named else one for one in texts).items() if n > 1), "")
    if twice:
        return f"two options are the same, {twice!r}: give options that differ"
    if chosen and probe.answer not in probe.options:
        return f"answer {probe.answer!r} is none of the options {', '.join(map(repr, probe.options))}: give one of them"
    if task != "choose" or normalise != "none" or public:
        return ""
    for short in texts:
        longer = next((text for text in texts if text != short and _goes_on_from(text, short)), "")
        if longer:
            return (
                f"the option {longer!r} begins with the option {short!r}, so by its log-likelihood it would never be "
                "chosen: give options of which none begins another one, or a suite with normalise: tokens or bytes"
            )
    return ""


def _goes_on_from(text: str, beginning: str) -> bool:
    """Whether a text is `beginning` and more words behind it."""
    rest = text.removeprefix(beginning)
    return rest != text and not (beginning[-1].isalnum() and rest[:1].isalnum())


def select(
    probes: Sequence[Probe], limit: int | None, gates: Iterable[Gate] = (), *, least: int = 0
) -> tuple[Probe, ...]:
    """At most `limit` probes, the same ones every time, from as many clusters as possible.

    The result exceeds `limit` only where each of the `gates` would otherwise have fewer than `least` probes. The first
    round takes from every cluster one probe of each kind that the `gates` tell apart (by `where` and `minus`); each
    further round takes the next ones. Clusters come first because the statistics count clusters, not probes. Clusters
    are visited round robin over the strata (`visiting_order`), so a small profile sees every kind of probe. A larger
    limit holds all probes of a smaller one. The result keeps the file's order.
    """
    if limit is None or limit >= len(probes):
        return tuple(probes)
    gates = tuple(gates)
    filters = [condition for gate in gates for condition in (gate.where, gate.minus) if condition]
    behind = [{probe.id for probe in probes if probe.matches(gate.where)} for gate in gates]
    clusters = in_clusters(probes)
    turns: dict[int, list[list[str]]] = defaultdict(list)  # round -> one list a cluster: the probes it gives
    for cluster in visiting_order(probes):
        kinds: dict[tuple[bool, ...], list[str]] = defaultdict(list)
        for probe in sorted(clusters[cluster], key=lambda probe: _order(probe.id)):
            kinds[tuple(probe.matches(condition) for condition in filters)].append(probe.id)
        for turn in range(max(map(len, kinds.values()))):
            turns[turn].append([ids[turn] for ids in kinds.values() if turn < len(ids)])
    chosen: set[str] = set()
    for together in (taken for turn in sorted(turns) for taken in turns[turn]):
        # Stop here, even if a later cluster would fit: so a larger limit holds all probes of a smaller one.
        if (
            chosen
            and len(chosen) + len(together) > limit
            and all(len(own & chosen) >= min(least, len(own)) for own in behind)
        ):
            break
        chosen.update(together)
    return tuple(probe for probe in probes if probe.id in chosen)


def in_clusters(probes: Sequence[Probe]) -> dict[str, list[Probe]]:
    """Probes by cluster."""
    clusters: dict[str, list[Probe]] = defaultdict(list)
    for probe in probes:
        clusters[probe.cluster].append(probe)
    return clusters


def visiting_order(probes: Sequence[Probe]) -> list[str]:
    """Clusters, round robin over the strata, in an order that the cluster ids fix; any beginning of it is balanced.

    A stratum is the set of subtypes that a cluster holds. Where several clusters choose between the same options, the
    answers tell strata apart as well.
    """
    clusters = in_clusters(probes)
    # An answer counts only where other clusters could have the same one. Where the answer is the text of a sentence,
    # every cluster would be a stratum of its own.
    shared = Counter(
        options for members in clusters.values() for options in {frozenset(probe.options) for probe in members}
    )
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for cluster in sorted(clusters, key=_order):
        kinds = {
            f"{probe.subtype}\0{probe.answer if probe.options and shared[frozenset(probe.options)] > 1 else ''}"
            for probe in clusters[cluster]
        }
        strata[tuple(sorted(kinds))].append(cluster)
    queues = [strata[key] for key in sorted(strata, key=lambda key: _order("\0".join(key)))]
    return [queue[rank] for rank in range(max(map(len, queues), default=0)) for queue in queues if rank < len(queue)]


def _order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
