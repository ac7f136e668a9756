"""A model with local weights: a side of a pair that can be run on any text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_trust.engine.batch_limits import Fitting
from pytest_trust.engine.local_work import answer, choose
from pytest_trust.engine.model import Ids, Model, Said, Wanted
from pytest_trust.engine.rendered import Rendered
from pytest_trust.engine.stored_values import measured, placed, recorded_options, responses_of, scores_of
from pytest_trust.engine.workspace import Workspace
from pytest_trust.keys import digest, portable_key
from pytest_trust.models.files import is_converted, read_ahead
from pytest_trust.models.reference import Reference
from pytest_trust.responses import Job, OptionScores, Response, TokenIds

if TYPE_CHECKING:
    import torch

    from pytest_trust.engine.top_k import TopK
    from pytest_trust.models.heads import Head
    from pytest_trust.models.runner import Runner


class Local(Rendered):
    """A side of a pair that is run here. `engine.model.Model` documents its methods."""

    runs = True
    answers = True
    tokens_by_text = False
    reads = True
    why_no_floor = ""

    def __init__(self, reference: Reference, workspace: Workspace, fitting: Fitting) -> None:
        super().__init__(
            reference,
            store=workspace.store,
            device=workspace.device_of(reference),
            dtype=workspace.dtype,
            trust_remote_code=workspace.trust_remote_code,
            offload=workspace.offloads,
            tags=workspace.tags,
        )
        self._workspace = workspace
        self._fitting = fitting
        workspace.add(self)

    @property
    def at_hand(self) -> bool:
        kind = self.reference.kind
        return kind != "hub" and (kind != "demo" or is_converted(self.store.directory))

    @property
    def source(self) -> str:
        return self.identity.fingerprint

    def runner(self, *, alone: bool = False) -> Runner:
        """The loaded model; see `Workspace.runner`."""
        return self._workspace.runner(self, alone=alone)

    def require(self, jobs: Sequence[Job]) -> None:
        """Nothing to refuse: `acquire` makes what is missing."""

    def check_beside(self, other: Model) -> None:
        """Nothing to refuse: fingerprints tell models apart."""

    def read_ahead(self) -> None:
        if self.at_hand:
            read_ahead(self.files)

    def contents(self) -> str:
        return ""

    def stored(self, job: Job) -> set[tuple[str, int]]:
        job = self.rendered_part(job)
        keys = self.keys(job)
        found = self.store.has(job.table, keys.values())
        # A trace that did not end is the result of its probe.
        open_traces = {(name, 0) for name, value in self.lead_ins(job).items() if not placed(value)}
        return {name for name, key in keys.items() if key in found} | open_traces

    def acquire(self, jobs: Sequence[Job], *, wait: bool = True, keys: Set[str] | None = None) -> bool:
        made = [work(self._workspace, self._fitting, self, jobs, wait, keys) for work in (answer, choose)]
        return all(made)

    def responses(self, job: Job) -> dict[str, tuple[Response, ...]]:
        found = self.stored_responses(job)
        return responses_of(job, lambda probe, repeat: found.get((probe, repeat)), self.tags)

    def options(self, job: Job) -> dict[str, OptionScores]:
        lead_ins = self.lead_ins(job)
        return scores_of(self._stored_options(job, lead_ins), lead_ins, self.tags)

    def unscored(self, job: Job) -> str:
        return ""

    def recorded(self, job: Job) -> dict[str, dict[str, Any]]:
        probes = {probe.id: probe for probe in job.probes}
        if job.task == "generate":
            return {
                portable_key(probes[name], job, repeat): value
                for (name, repeat), value in self.stored_responses(job).items()
            }
        lead_ins = self.lead_ins(job)
        return {
            portable_key(probes[name], job, 0): recorded_options(value, lead_ins.get(name))
            for name, value in self._stored_options(job, lead_ins).items()
            if measured(value, lead_ins.get(name))
        }

    def said(self, job: Job, reader: Model) -> dict[str, Said]:
        if job.task == "choose":
            lead_ins = self.lead_ins(job)
            return {
                name: Said(
                    context=digest(rows.ids, rows.starts),
                    token_ids=tuple(ids[start:] for ids, start in zip(rows.ids, rows.starts, strict=True)),
                    options=rows.ids,
                    starts=rows.starts,
                    lead_in=len(lead_ins[name]["ids"]) if name in lead_ins else 0,
                )
                for name, rows in self.option_rows(job, lead_ins).items()
            }
        prompts, found = self.prompts(job.probes), {}
        for name, (response, *_) in self.responses(replace(job, samples=1)).items():
            if response.token_ids:
                found[name] = Said(
                    context=digest(prompts[name].ids),
                    token_ids=(response.token_ids,),
                    prompt=prompts[name].ids,
                    text=response.text,
                    tail=prompts[name].tail,
                    answer_at=response.answer_at,
                    traced=0 < response.answer_at < len(response.text),
                    trace_at=response.trace_at,
                )
        return found

    def kept(self, wanted: Sequence[Wanted], reader: Model) -> list[dict[TokenIds, torch.Tensor | TopK]]:
        raise TypeError(f"{self.reference.label} is run here: nothing of it is kept")

    def head(self, reader: Model) -> Head | None:
        return self.runner().head

    def read(self, texts: Iterable[tuple[Ids, Ids]]) -> None:
        """Nothing to do: the model is run on the texts when drift is measured."""

    def why_no_drift(self, other: Model, *, shared_template: bool) -> str:
        return ""

    def why_unread(self, side: str, writer: str) -> str:
        return ""

    def close(self) -> None:
        self.release()

    def _stored_options(self, job: Job, lead_ins: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any] | None]:
        """Stored option scores by probe id, None for those that are not stored. `lead_ins` are those of the job."""
        keys = self.option_keys(self.option_rows(job, lead_ins))
        stored = self.store.get_json("options", keys.values())
        return {probe.id: stored.get(keys.get(probe.id, "")) for probe in job.probes}
