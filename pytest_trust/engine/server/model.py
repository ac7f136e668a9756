"""A model behind a server as one side of a pair.

The server names the most likely tokens at each token of its response. The other model reads the same response. This
gives a lower bound of KL(server || other), as for a recording with a top k (`engine.top_k`).

The other direction needs a server that returns the token ids of its prompts, and log-probabilities of a text that it
did not write (vLLM's `prompt_logprobs`). Such a server reads the other model's responses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_trust.engine.local import Local
from pytest_trust.engine.model import Ids, Model, ReadFormat, Said, Wanted
from pytest_trust.engine.server.client import ServerError
from pytest_trust.engine.server.logprobs import unpack
from pytest_trust.engine.server.stored_answers import IN_A_TRACE, NO_LOGPROBS, StoredAnswers
from pytest_trust.engine.server.tokens import LoadedTokens, as_top_k
from pytest_trust.engine.store import Table
from pytest_trust.engine.stored_values import responses_of, scores_of
from pytest_trust.engine.workspace import Workspace
from pytest_trust.keys import digest, portable_key
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import DEFAULT_TAGS, opened_by
from pytest_trust.responses import Job, OptionScores, Response, TokenIds

if TYPE_CHECKING:
    import torch

    from pytest_trust.engine.top_k import TopK
    from pytest_trust.models.heads import Head

_KEYS = 1
NO_WEIGHTS_HERE = "neither model is loaded here, and one must read what the other has said"
NOT_SPELT = "the server's tokens are not those of the other model's vocabulary"
NOT_READ = "the server does not return log-probabilities of a text that it did not write, such as the {writer}'s"
NOT_RUN_TWICE = "the baseline is behind a server, and is not asked a second time"


class Served(StoredAnswers):
    """A side of a pair behind a server. `engine.model.Model` documents its methods."""

    runs = False
    answers = True
    tokens_by_text = True
    at_hand = False
    why_no_floor = NOT_RUN_TWICE

    def __init__(self, reference: Reference, workspace: Workspace) -> None:
        super().__init__(
            reference,
            store=workspace.store,
            tags=workspace.tags,
            trust_remote_code=workspace.trust_remote_code,
        )
        self._workspace = workspace

    @property
    def warnings(self) -> tuple[str, ...]:
        known = self.template is not None and opened_by(self.template.tail, self.tags)
        return (IN_A_TRACE,) if not known and self.inferred_opening() else ()

    @property
    def read_format(self) -> ReadFormat:
        if self.template is not None and self.tags == self.template.tags != DEFAULT_TAGS:
            return ReadFormat.of(self.tags, "template")
        return ReadFormat.given(self.tags)

    @property
    def source(self) -> str:
        return f"served {self.identity.fingerprint}"

    def require(self, jobs: Sequence[Job]) -> None:
        """Nothing to refuse: `acquire` asks for what is missing."""

    def check_beside(self, other: Model) -> None:
        """Refuse two servers that describe their models alike: the store could not tell their responses apart."""
        if not isinstance(other, Served) or self.reference.served[0] == other.reference.served[0]:
            return
        if self.identity.fingerprint == other.identity.fingerprint:
            url, model = self.reference.served
            raise ServerError(
                f"{url} and {other.reference.served[0]} describe {model} in the same words, "
                "so nothing tells their models apart: "
                "start one of them with another model name (--served-model-name, --alias)"
            )

    def read_ahead(self) -> None:
        """Nothing to do: the model's files are with the server."""

    def contents(self) -> str:
        return ""

    def acquire(self, jobs: Sequence[Job], *, wait: bool = True, keys: Set[str] | None = None) -> bool:
        """Ask for the missing results. One process asks at a time: `?concurrency=` limits the whole run."""
        _ = self.template  # a tokenizer that cannot be had is an error before the first request
        tables: tuple[tuple[str, Table], ...] = (("generate", "responses"), ("choose", "options"))
        for task, table in tables:
            asked = [(job, self.keys(job)) for job in jobs if job.task == task]
            wanted = [key for _, found in asked for key in found.values()]
            with self._workspace.claims:
                for _, claimed in self._workspace.claims.shares(table, [wanted]):
                    missing, parts = set(claimed), []
                    for job, found in asked:
                        names = {name for (name, _), key in found.items() if key in missing}
                        parts.append(replace(job, probes=tuple(probe for probe in job.probes if probe.id in names)))
                    self.ask([part for part in parts if part.probes], self._workspace.tell)
        self.infer_opening(jobs)
        return True

    def responses(self, job: Job) -> dict[str, tuple[Response, ...]]:
        found = self.stored_responses(job)
        return responses_of(job, lambda probe, repeat: found.get((probe, repeat)), self.tags)

    def options(self, job: Job) -> dict[str, OptionScores]:
        return scores_of(self.stored_options(job), {}, self.tags)

    def vocabulary(self) -> str:
        return ""

    def said(self, job: Job, reader: Model) -> dict[str, Said]:
        """The tokens of its responses, in the reader's ids."""
        if job.task == "choose" or not isinstance(reader, Local):
            return {}
        tops = self.tops_keys(job)
        tokenizer, store = reader.identity.tokenizer, self._workspace.store
        tail = self.template.tail if self.template is not None else ""
        split = (self.tags, tail, self.inferred_opening())
        keys = {name: digest("served text", _KEYS, key, tokenizer, split) for name, key in tops.items()}
        known = store.get_json("notes", keys.values())
        new = {name: key for name, key in tops.items() if keys[name] not in known}
        packed = store.get("drifts", new.values()) if new else {}
        if packed:
            tokens = LoadedTokens(reader.tokenizer)
            responses = self.responses(job)
            spelt = {
                keys[name]: tokens.spelt(unpack(packed[key]), responses[name][0])
                for name, key in new.items()
                if key in packed and name in responses and _answers(responses[name][0])
            }
            store.put_json("notes", spelt)
            known |= spelt
            if spelt and not any(spelt.values()):
                store.put_json("notes", {self._misspelt_key(reader): True})
        stored = self.stored_responses(job) if self.reads else {}
        found = {}
        for probe in job.probes:
            text = known.get(keys[probe.id])
            if text:
                found[probe.id] = Said(
                    context=portable_key(probe, job, 0),
                    token_ids=(tuple(text["ids"]),),
                    prompt=tuple(stored.get((probe.id, 0), {}).get("prompt_ids") or ()),
                    answer_token=text["answer_start"],
                    masked=(),
                )
        return found

    def kept(self, wanted: Sequence[Wanted], reader: Model) -> list[dict[TokenIds, torch.Tensor | TopK]]:
        """The top k on its own text, and on the other model's where the server has read it, in the reader's ids."""
        assert isinstance(reader, Local)  # `why_no_drift` has refused other readers
        tokens = LoadedTokens(reader.tokenizer)
        result: list[dict[TokenIds, torch.Tensor | TopK]] = []
        for one in wanted:
            (key,) = self.tops_keys(replace(one.job, probes=(one.probe,))).values()
            keys = {key: one.own}
            if one.prompt:
                keys[self.reading_key(one.prompt, one.given[0])] = one.given
            found = self._workspace.store.get("drifts", keys)
            result.append({text: as_top_k(unpack(found[key]), tokens) for key, text in keys.items() if key in found})
        return result

    def head(self, reader: Model) -> Head | None:
        return None

    def read(self, texts: Iterable[tuple[Ids, Ids]]) -> None:
        """Ask the server to read the texts, and wait for those that another process has asked it to read."""
        keys = {self.reading_key(*one): one for one in texts}
        with self._workspace.claims:
            for _, claimed in self._workspace.claims.shares("drifts", [list(keys)]):
                self.ask_to_read([keys[key] for key in claimed])

    def why_no_drift(self, other: Model, *, shared_template: bool) -> str:
        if not other.runs:
            return NO_WEIGHTS_HERE
        if self.without_logprobs:
            return NO_LOGPROBS
        key = self._misspelt_key(other)
        return NOT_SPELT if key in self._workspace.store.get("notes", [key]) else ""

    def why_unread(self, side: str, writer: str) -> str:
        return NOT_READ.format(writer=writer)

    def release(self) -> None:
        """Nothing to release: a server's weights are not here."""

    def _misspelt_key(self, other: Model) -> str:
        return digest("served tokens differ", _KEYS, self.identity.fingerprint, other.identity.tokenizer)


def _answers(response: Response) -> bool:
    return response.finish_reason != "error" and bool(response.answer.strip())
