"""Drift between a model behind a server and one that is loaded here, from the log-probabilities that the server gives.

A server names the most likely tokens at each place of its own response. The other model reads the same tokens, and a lower bound of
KL(server || other) follows as from a recording that keeps only those (`pytest_trust.topk`). One that also says how it read its prompts, and gives
log-probabilities of a text it did not write (vLLM's `prompt_logprobs`), is given the other's responses for the other direction. Tokens are found again in the other's
vocabulary by their ids or, where the server keeps these to itself, by their text; one that is not found there joins the tail, which leaves the bound a bound. A
response of which a token is not found, or whose tokens do not spell its text, is not measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_trust.engine.server.logprobs import Place, Token, unpack
from pytest_trust.engine.server.protocol import TOP_LOGPROBS
from pytest_trust.keys import digest, portable_key
from pytest_trust.models.reference import Reference
from pytest_trust.responses import Job

if TYPE_CHECKING:
    from pytest_trust.drift.sides import Side, Text, Unit, View
    from pytest_trust.engine.engine import Engine
    from pytest_trust.engine.server.model import Served
    from pytest_trust.engine.top_k import TopK

_KEYS = 1
_WIDTH = TOP_LOGPROBS + 1  # a text that is read has its own token beside the most likely ones
_SMALLEST_TAIL = 1e-9  # probabilities that are rounded to float32 may add up to a little more than 1
NO_WEIGHTS_HERE = "neither model is loaded here, and one must read what the other has said"
NOT_SPELT = "the server's tokens are not those of the other model's vocabulary"
NOT_READ = "the server does not return log-probabilities of a text that it did not write, such as the {side}'s"
NOT_RUN_TWICE = "the baseline is behind a server, and is not asked a second time"


def impossible_here(engine: Engine, baseline: Reference, candidate: Reference) -> str:
    """Why no drift can be measured of a pair of which one or both are behind a server, as far as is known before their responses are; or nothing."""
    from pytest_trust.engine.server.model import NO_LOGPROBS

    reference, other = (baseline, candidate) if baseline.kind == "server" else (candidate, baseline)
    if not other.has_weights:
        return NO_WEIGHTS_HERE
    served = engine.served(reference)
    assert served is not None
    if served.without_logprobs:
        return NO_LOGPROBS
    key = _misspelt_key(engine, served, other)
    return NOT_SPELT if key in engine.store.get("notes", [key]) else ""


def served_view(engine: Engine, job: Job, reference: Reference, other: Reference) -> View:
    """The server's side of a job: the tokens of its responses, by the ids that `other` has for them."""
    from pytest_trust.drift.sides import View

    served = engine.served(reference)
    assert served is not None
    view = View(reference, f"served {served.identity.fingerprint}", recorded=True)
    if job.task == "choose" or not other.has_weights:
        return view
    tops = served.tops_keys(job)
    tokenizer = engine.identify(other).tokenizer
    keys = {name: digest("served text", _KEYS, key, tokenizer) for name, key in tops.items()}
    known = engine.store.get_json("notes", keys.values())
    new = {name: key for name, key in tops.items() if keys[name] not in known}
    packed = engine.store.get("drifts", new.values()) if new else {}
    if packed:
        vocabulary = _Vocabulary(engine.subject(other).tokenizer)
        responses = engine.responses(reference, job)
        found = {
            keys[name]: vocabulary.spelt(unpack(packed[key]), responses[name][0])
            for name, key in new.items()
            if key in packed and name in responses
        }
        engine.store.put_json("notes", found)
        known |= found
        if not any(found.values()):
            engine.store.put_json("notes", {_misspelt_key(engine, served, other): True})
    stored = served.responses(job) if served.reads else {}
    for probe in job.probes:
        text = known.get(keys[probe.id])
        if text:
            prompt = stored.get((probe.id, 0), {}).get("prompt_ids")
            if prompt:
                view.prompts[probe.id] = tuple(prompt)
            view.texts[probe.id] = (tuple(text["ids"]),)
            view.contexts[probe.id] = portable_key(probe, job, 0)
            view.answers[probe.id] = text["answer_start"]
    return view


def reads(engine: Engine, reference: Reference) -> bool:
    """Whether a model without weights here can be given a text to read."""
    served = engine.served(reference)
    return served is not None and served.reads


def with_readings(engine: Engine, units: Sequence[Unit]) -> list[Unit]:
    """Have a server among these units' sides read the other side's texts; the direction is left out where it cannot."""
    served = (
        next(filter(None, (engine.served(view.reference) for view in (units[0].baseline, units[0].candidate))), None)
        if units
        else None
    )
    if served is None:
        return list(units)
    if units[0].baseline.reference == served.reference:
        _read(engine, served, [_given(unit, "baseline") for unit in units if unit.candidate_baseline])
        return [unit if served.reads else replace(unit, candidate_baseline="") for unit in units]
    _read(engine, served, [_given(unit, "candidate") for unit in units if unit.baseline_candidate])
    return [unit if served.reads else replace(unit, baseline_candidate="") for unit in units]


def _read(engine: Engine, served: Served, wanted: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    """What no other process is having read, and then, once that is there, nothing."""
    keys = {served.reading_key(*one): one for one in wanted}
    with engine.claims:
        for _, mine in engine.claims.shares("drifts", [list(keys)]):
            served.read([keys[key] for key in mine])


def _given(unit: Unit, side: Side) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The prompt as a side's server reads it, and the other side's response."""
    other: Side = "candidate" if side == "baseline" else "baseline"
    return unit.side(side).prompts[unit.probe.id], unit.on(other)[0]


def served_tops(engine: Engine, units: Sequence[Unit], side: Side, reference: Reference) -> list[Mapping[Text, TopK]]:
    """What the server says of its own text, and of the other's where it has read it, per unit, in the other model's ids."""
    served = engine.served(reference)
    assert served is not None
    other = units[0].candidate if side == "baseline" else units[0].baseline
    vocabulary = _Vocabulary(engine.subject(other.reference).tokenizer)
    result: list[Mapping[Text, TopK]] = []
    for unit in units:
        keys = {served.tops_keys(unit.job)[unit.probe.id]: unit.on(side)}
        if unit.probe.id in unit.side(side).prompts:
            prompt, text = _given(unit, side)
            keys[served.reading_key(prompt, text)] = (text,)
        found = engine.store.get("drifts", keys)
        result.append({text: as_top_k(unpack(found[key]), vocabulary) for key, text in keys.items() if key in found})
    return result


def as_top_k(places: Sequence[Place], vocabulary: _Vocabulary) -> TopK:
    """The places of a text in ids; what is not known of one is its tail. Rows with fewer tokens repeat their first, which changes nothing.

    The entropy of what is known, with the tail as one token, stands for the entropy: a lower bound of it.
    """
    import torch

    from pytest_trust.engine.top_k import TopK

    rows = [vocabulary.known(place)[:_WIDTH] for place in places]
    tails = [max(_SMALLEST_TAIL, 1 - sum(math.exp(value) for _, value in row)) for row in rows]
    entropies = [
        -sum(value * math.exp(value) for _, value in row) - tail * math.log(tail)
        for row, tail in zip(rows, tails, strict=True)
    ]
    full = [[*row, *[row[0]] * (_WIDTH - len(row))] for row in rows]
    return TopK(
        torch.tensor([[index for index, _ in row] for row in full], dtype=torch.int32),
        torch.tensor([[value for _, value in row] for row in full], dtype=torch.float32),
        torch.tensor(tails, dtype=torch.float32).log(),
        torch.tensor([min(0.0, place.label.log_p) for place in places], dtype=torch.float32),
        torch.tensor(entropies, dtype=torch.float32),
    )


class _Vocabulary:
    """The loaded model's tokens, by id and by text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def spelt(self, places: Sequence[Place], response: Any) -> dict[str, Any] | None:
        """The ids of a response and the index of its answer's first token; None where they cannot be told or do not spell it."""
        ids = [self.id_of(place.label) for place in places]
        if not ids or min(ids) < 0 or any(not self.known(place) for place in places):
            return None
        said = response.answer.strip()
        # An end token is among the tokens and not in the text; a reasoning marker, special in some vocabularies too, may be in both.
        if not said or not any(_bare(self._decode(ids, skip)).endswith(_bare(said)) for skip in (True, False)):
            return None
        if not response.reasoning:
            return {"ids": ids, "answer_start": 0}
        text = self._decode(ids)
        place = text.rfind(said.split("\n\n")[0])
        before = place if place >= 0 else len(text)
        start = next((count for count in range(len(ids)) if len(self._decode(ids[: count + 1])) > before), len(ids))
        return {"ids": ids, "answer_start": start}

    def known(self, place: Place) -> list[tuple[int, float]]:
        """Ids and log-probabilities of a place's most likely tokens, as far as they are in this vocabulary."""
        found: dict[int, float] = {}
        for token in place.known:
            index = self.id_of(token)
            if index >= 0 and not math.isinf(token.log_p):
                found.setdefault(index, min(0.0, token.log_p))
        return list(found.items())

    def id_of(self, token: Token) -> int:
        """-1 where the vocabulary has no such token, several of the same text, or another text under its id."""
        if token.id < 0:
            return self._by_text.get(token.text, -1)
        if token.id >= self._size:
            return -1
        mine = self._text(token.id)
        # An id without a text is checked by what the whole response spells. A partial character has no text of its own.
        fine = not token.text or "\ufffd" in mine or mine.strip() == token.text.strip()
        return token.id if fine else -1

    @cached_property
    def _size(self) -> int:
        return len(self._tokenizer)

    @cached_property
    def _by_text(self) -> dict[str, int]:
        texts = [self._text(index) for index in range(self._size)]
        counts = Counter(texts)
        return {text: index for index, text in enumerate(texts) if counts[text] == 1 and "\ufffd" not in text}

    def _text(self, index: int) -> str:
        if index not in self._texts:
            self._texts[index] = self._decode([index])
        return self._texts[index]

    def _decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        return str(
            self._tokenizer.decode(list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)
        )


def _bare(text: str) -> str:
    """Without white space, which servers strip at either end and some tokenizers put between special tokens."""
    return "".join(text.split())


def _misspelt_key(engine: Engine, served: Served, other: Reference) -> str:
    return digest("served tokens differ", _KEYS, served.identity.fingerprint, engine.identify(other).tokenizer)
