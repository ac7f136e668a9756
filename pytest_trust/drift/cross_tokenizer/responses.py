"""The drift of a pair with different tokenizers: bits per byte and the chunk-level bound, on both models' responses.

There is no KL for such a pair; `drift.cross_tokenizer.chunk_bound` explains the bound. Each model reads a text behind
its own prompt, in its own tokens. Its log-probabilities are kept by text, so that one model in memory at a time is
enough.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pytest_trust.engine.claimed_work import keys_of, share, with_keys
from pytest_trust.errors import InvalidInput
from pytest_trust.keys import digest
from pytest_trust.models.context_windows import in_windows
from pytest_trust.models.reference import Reference
from pytest_trust.records import BitsRecord, ChunkBoundRecord, TextDriftRecord
from pytest_trust.responses import Job

if TYPE_CHECKING:
    from pytest_trust.drift.cross_tokenizer.chances import Chances
    from pytest_trust.engine.engine import Engine
    from pytest_trust.probes import Probe

Side = Literal["baseline", "candidate"]
SIDES: tuple[Side, Side] = ("baseline", "candidate")
WRITERS = ("candidate", "baseline", "options")
_KEYS = 1
_CHUNK = 16  # the most texts of one forward
_PART = 64  # texts that are stored together while both models are in memory


@dataclass(frozen=True, slots=True)
class TextDrift:
    """Both models' log-probabilities of one text, and the divergences of its chunks."""

    probe: str
    cluster: str
    size: int
    """UTF-8 bytes."""
    nats: Mapping[str, float]
    """Minus the log-probability of the text in nats, by side; empty where one tokenizer does not know all of it."""
    chunks: tuple[float, ...]
    """The binarised divergence of each chunk in nats; p is the model that wrote the text. Empty for options."""

    def to_bytes(self) -> bytes:
        # JSON has no infinite numbers.
        chunks = [value if math.isfinite(value) else None for value in self.chunks]
        return json.dumps({"bytes": self.size, "nats": dict(self.nats), "chunks": chunks}).encode()

    @classmethod
    def from_bytes(cls, data: bytes, probe: Probe) -> TextDrift:
        value = json.loads(data)
        chunks = tuple(math.inf if one is None else float(one) for one in value["chunks"])
        return cls(probe.id, probe.cluster, int(value["bytes"]), value["nats"], chunks)


@dataclass(frozen=True, slots=True)
class _Text:
    key: str
    writer: Side
    probe: Probe
    text: str
    ended: bool
    prompts: Mapping[Side, tuple[int, ...]]

    @property
    def length(self) -> int:
        """About the number of tokens that a model reads, at four characters a token."""
        return max(map(len, self.prompts.values())) + len(self.text) // 4


def missing_texts(engine: Engine, jobs: Sequence[Job], baseline: Reference, candidate: Reference) -> list[_Text]:
    """Both models' responses to the jobs' drift probes whose results the store lacks, longest first."""
    found = {one.key: one for job in jobs for one in _texts(engine, job, baseline, candidate)}
    have = engine.store.has("drifts", found)
    return sorted((one for one in found.values() if one.key not in have), key=lambda one: (-one.length, one.key))


def measure_texts(engine: Engine, texts: Sequence[_Text], baseline: Reference, candidate: Reference) -> None:
    """Measure these texts and store the results. Where a head is not at hand, note that and measure nothing."""
    from pytest_trust.drift.loaded_pair import all_fit, has_head

    pair: Mapping[Side, Reference] = {"baseline": baseline, "candidate": candidate}
    if not texts or not all(has_head(engine, reference) for reference in pair.values()):
        return
    # If only one model fits, each part costs two loads, so each process gets one part.
    size = _PART if all_fit(engine, list(pair.values())) else -(-len(texts) // engine.workers)
    parts = [texts[start : start + size] for start in range(0, len(texts), size)]

    def make(part: list[_Text]) -> Iterator[tuple[int, int]]:
        values = _measured(engine, part, pair)
        engine.store.put("drifts", values, {"chunk": len(part), "process": engine.claims.name})
        yield len(part), sum(one.length for one in part)

    share(engine, candidate, "drift", "drifts", parts, make, missing=len(texts), keys=keys_of, part=with_keys)


def _measured(engine: Engine, texts: Sequence[_Text], pair: Mapping[Side, Reference]) -> dict[str, bytes]:
    """Encoded text drifts of the texts, by key."""
    from pytest_trust.drift.cross_tokenizer.chances import ends_of_tokens
    from pytest_trust.drift.cross_tokenizer.chunk_bound import chunk_divergences

    found: dict[Side, dict[str, tuple[list[int], Chances]]] = {}
    for side, reference in pair.items():
        given, tokenizer = _chances(engine, reference, texts, side), engine.local(reference).tokenizer
        found[side] = {
            one.key: (ends_of_tokens(tokenizer, one.text, reference.label), given[one.key])
            for one in texts
            if one.key in given
        }
    values = {}
    for one in texts:
        size = len(one.text.encode("utf-8", "surrogatepass"))
        if not all(one.key in found[side] for side in SIDES):
            values[one.key] = TextDrift(one.probe.id, one.probe.cluster, size, {}, ()).to_bytes()
            continue
        other: Side = "baseline" if one.writer == "candidate" else "candidate"
        chunks, _ = chunk_divergences(one.text, *found[one.writer][one.key], *found[other][one.key], ended=one.ended)
        nats: dict[str, float] = {side: -float(found[side][one.key][1].tokens.sum()) for side in SIDES}
        values[one.key] = TextDrift(one.probe.id, one.probe.cluster, size, nats, tuple(chunks.tolist())).to_bytes()
    return values


def stored_texts(engine: Engine, job: Job, baseline: Reference, candidate: Reference) -> dict[str, list[TextDrift]]:
    """The stored text drifts of the pair on this job, sorted by probe id.

    The keys name the texts: `baseline` and `candidate` for the sides' responses, or `options`.
    """
    if job.task == "choose":
        return {"options": _of_options(engine, job, baseline, candidate)}
    units = sorted(_texts(engine, job, baseline, candidate), key=lambda unit: unit.probe.id)
    stored = engine.store.get("drifts", [unit.key for unit in units])
    return {
        side: [
            TextDrift.from_bytes(stored[unit.key], unit.probe)
            for unit in units
            if unit.writer == side and unit.key in stored
        ]
        for side in SIDES
    }


def _of_options(engine: Engine, job: Job, baseline: Reference, candidate: Reference) -> list[TextDrift]:
    """Text drifts of a job's options, from the option scores. Each model has scored them in its own tokens."""
    scored = {"baseline": engine.model(baseline).options(job), "candidate": engine.model(candidate).options(job)}
    both = sorted(
        (
            probe
            for probe in job.probes
            if probe.id in job.drift
            and all(probe.id in side and side[probe.id].log_likelihoods for side in scored.values())
        ),
        key=lambda probe: probe.id,
    )
    return [
        TextDrift(
            probe.id,
            probe.cluster,
            sum(scored["baseline"][probe.id].bytes),
            {name: -sum(side[probe.id].log_likelihoods) for name, side in scored.items()},
            (),
        )
        for probe in both
    ]


def summarise_texts(drifts: Sequence[TextDrift], writer: str, *, alpha: float = 0.05) -> TextDriftRecord | None:
    """Bits per byte of the texts of `writer` (a side, or `options`), their difference, and the chunk-level bound.

    The difference is the candidate's minus the baseline's. Texts that one of the tokenizers does not know are left out.
    None when no text is left.
    """
    import numpy

    from pytest_trust.stats.estimates import Sample

    known = [one for one in drifts if one.nats]
    if not known:
        return None
    left_out, drifts = len(drifts) - len(known), known
    other = "baseline" if writer == "candidate" else "candidate"
    sample = Sample([one.cluster for one in drifts], alpha)
    sizes = numpy.array([one.size for one in drifts], dtype=float)
    bits = {side: numpy.array([one.nats[side] for one in drifts]) / math.log(2.0) for side in SIDES}
    difference = sample.ratio(bits["candidate"] - bits["baseline"], sizes, "bits per byte")
    chunks = [numpy.array(one.chunks, dtype=float) for one in drifts]
    bound = None
    if any(map(len, chunks)):
        each = sample.mean(chunks, "nats per chunk", least=0.0)
        sums = sample.ratio(
            numpy.array([one.sum() for one in chunks]), numpy.ones(len(chunks)), "nats per response", least=0.0
        )
        bound = ChunkBoundRecord(
            of=f"the divergence of the {writer} from the {other}",
            per_chunk=_number(each),
            error=_number(each.error),
            per_response=_number(sums),
            chunks=sum(map(len, chunks)),
        )
    return TextDriftRecord(
        on=writer if writer == "options" else f"{writer} responses",
        responses=len(drifts),
        bytes=int(sizes.sum()),
        bits_per_byte=BitsRecord(
            baseline=_number(sample.ratio(bits["baseline"], sizes, "bits per byte")),
            candidate=_number(sample.ratio(bits["candidate"], sizes, "bits per byte")),
            difference=_number(difference),
            error=_number(difference.error),
        ),
        chunk_bound=bound,
        left_out=left_out,
    )


def _number(value: float) -> float | None:
    return float(f"{float(value):.9g}") if math.isfinite(value) else None


def _texts(engine: Engine, job: Job, baseline: Reference, candidate: Reference) -> list[_Text]:
    """Both models' non-empty responses to a job's drift probes, with the prompts of both."""
    probes = tuple(probe for probe in job.probes if probe.id in job.drift)
    pair: Mapping[Side, Reference] = {"baseline": baseline, "candidate": candidate}
    if not probes or job.task != "generate" or not all(engine.model(reference).runs for reference in pair.values()):
        return []
    asked = replace(job, probes=probes, samples=1)
    prompts = {side: engine.local(reference).prompts(probes) for side, reference in pair.items()}
    fingerprints = [engine.identify(pair[side]).fingerprint for side in SIDES]
    units = []
    for writer, reference in pair.items():
        answered = engine.model(reference).responses(asked)
        for probe in probes:
            one = answered.get(probe.id, (None,))[0]
            if one is None or not one.text.strip():
                continue
            read: dict[Side, tuple[int, ...]] = {side: prompts[side][probe.id].ids for side in SIDES}
            ended = one.finish_reason == "stop"
            key = digest("texts", _KEYS, fingerprints, writer, [read[side] for side in SIDES], one.text, ended)
            units.append(_Text(key, writer, probe, one.text, ended, read))
    return units


def _chances(engine: Engine, reference: Reference, units: Sequence[_Text], side: Side) -> dict[str, Chances]:
    """One model's log-probabilities of each text, by key. Texts that its tokenizer does not know are left out."""
    import torch

    from pytest_trust.drift.cross_tokenizer.chances import Chances, blank_tokens, chances
    from pytest_trust.models.runner import Group

    runner = engine.loaded(reference)
    head, tokenizer = runner.head, runner.loaded.tokenizer
    assert head is not None
    blanks, ends = blank_tokens(tokenizer, head.vocabulary), sorted(runner.loaded.eos_ids)
    rows = {
        unit.key: [int(i) for i in tokenizer(unit.text, add_special_tokens=False, verbose=False)["input_ids"]]
        for unit in units
    }
    known = [unit for unit in units if rows[unit.key] and tokenizer.unk_token_id not in rows[unit.key]]
    known.sort(key=lambda unit: -len(rows[unit.key]) - len(unit.prompts[side]))
    found = {}
    for start in range(0, len(known), _CHUNK):
        part = known[start : start + _CHUNK]
        # The last id is not read. The state before it predicts what follows the text.
        labels = [[*rows[unit.key], runner.pad_id] for unit in part]
        groups = [
            Group(((*unit.prompts[side], *row),), (len(unit.prompts[side]),))
            for unit, row in zip(part, labels, strict=True)
        ]
        states = [
            rows[0]
            for rows in engine.fitting.halving(
                groups, in_windows(runner.hidden_states, engine.local(reference).context())
            )
        ]
        tokens, word, end = chances(head, torch.cat(states), [token for row in labels for token in row], blanks, ends)
        at = 0
        for unit, row in zip(part, labels, strict=True):
            stop = at + len(row)
            one = Chances(tokens[at : stop - 1], word[at:stop], float(end[stop - 1]))
            if not math.isfinite(float(one.tokens.sum())):
                raise InvalidInput(
                    f"{reference.label} ({side}): the probability of the {unit.writer}'s text on probe {unit.probe.id} "
                    "is not a number above 0; check the model's weights and dtype"
                )
            found[unit.key] = one
            at = stop
    return found
