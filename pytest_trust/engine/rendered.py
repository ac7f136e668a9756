"""A model whose files are at hand: its identity, its rendered prompts and its keys of the store.

Its weights are loaded only when a result is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_trust.engine.model import ReadFormat
from pytest_trust.engine.store import Store
from pytest_trust.engine.stored_values import placed
from pytest_trust.errors import InvalidInput
from pytest_trust.keys import digest, probe_input, sampling
from pytest_trust.models.context_windows import stated_context
from pytest_trust.models.decoding import own_settings, with_settings
from pytest_trust.models.files import ModelFiles, locate
from pytest_trust.models.framing import Framing, encode
from pytest_trust.models.identity import ModelIdentity, identify_model
from pytest_trust.models.reference import Reference, read_json
from pytest_trust.models.rendering import TAIL, OptionRows, Prompt, options_behind, render_options, render_prompt
from pytest_trust.models.steering_pairs import PREFIX
from pytest_trust.reasoning import DEFAULT_TAGS, Tags
from pytest_trust.responses import ANSWER_BEGINS, Generation, Job

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pytest_trust.models.prompt_options import PromptOptions
    from pytest_trust.models.runner import Runner
    from pytest_trust.probes import Probe


_KEYS = 1  # version of the store's keys: raise it when the meaning of a key changes


class Rendered:
    """A model of a run whose files are at hand.

    Weights, tokenizer and their libraries are loaded on first use. The store keeps rendered prompts.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        store: Store,
        device: str,
        dtype: str | None,
        trust_remote_code: bool,
        offload: bool = False,
        tags: Tags = DEFAULT_TAGS,
    ) -> None:
        self.reference = reference
        self._given_tags = tags
        self.store = store
        self._dtype = dtype
        self._trust_remote_code = trust_remote_code
        self._offload = offload
        self._device = device
        self._files: ModelFiles | None = None
        self._identity: ModelIdentity | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._runner: Runner | None = None
        self._framing: Framing | None = None

    @property
    def cache(self) -> Path:
        return self.store.directory

    @property
    def tags(self) -> Tags:
        """The tags that its responses are split by.

        They are its own format where its chat template shows one, else all that are known; `--trust-reasoning-tags`
        adds to the known ones and goes before its own.
        """
        if self._given_tags != DEFAULT_TAGS:
            return self._given_tags
        return tuple(tuple(pair) for pair in self._trace_format["tags"])

    @property
    def read_format(self) -> ReadFormat:
        """The format of its traces, and where it was read from."""
        if self._given_tags != DEFAULT_TAGS:
            return ReadFormat.given(self._given_tags)
        return ReadFormat.of(self.tags, self._trace_format["source"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a report says about its reasoning format."""
        unknown = [] if self._given_tags != DEFAULT_TAGS else self._trace_format["unknown"]
        if not unknown:
            return ()
        return (
            f"its vocabulary has {', '.join(unknown)}, which look like marks of a trace and belong to no known format: "
            "give them as --trust-reasoning-tags if they are",
        )

    @cached_property
    def _trace_format(self) -> dict[str, Any]:
        """What its template says about traces. The store keeps it, so that a run from the store loads no tokenizer."""
        key = digest("trace format", _KEYS, self.identity.rendering)
        known: dict[str, Any] | None = self.store.get_json("notes", [key]).get(key)
        if known is None:
            from pytest_trust.models.trace_format import read_trace_format, unknown_marks

            try:
                given = self._prompt_options
                found = read_trace_format(self.tokenizer, thinking=given.thinking, settings=given.settings)
            except InvalidInput as error:
                raise InvalidInput(f"{self.reference.label}: {error}") from None
            known = {"tags": found.tags, "source": found.source, "unknown": unknown_marks(self.tokenizer, found)}
            self.store.put_json("notes", {key: known})
        return known

    @cached_property
    def _prompt_options(self) -> PromptOptions:
        """What the reference's options set in its prompts."""
        from pytest_trust.models.prompt_options import prompt_options

        return prompt_options(self.tokenizer, self.reference)

    @property
    def files(self) -> ModelFiles:
        if self._files is None:
            self._files = locate(self.reference, cache=self.cache, trust_remote_code=self._trust_remote_code)
        return self._files

    @property
    def identity(self) -> ModelIdentity:
        if self._identity is None:
            self._identity = identify_model(
                self.reference, self.files, device=self._device, dtype=self._dtype, hashes=self.store
            )
        return self._identity

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            from pytest_trust.models.loading import load_tokenizer

            self._tokenizer = load_tokenizer(self.reference, self.files, trust_remote_code=self._trust_remote_code)
        return self._tokenizer

    @property
    def loaded(self) -> bool:
        return self._runner is not None

    def load(self) -> Runner:
        """The model, loaded if it is not."""
        if self._runner is None:
            from pytest_trust.models.layer_offload import OffloadedRunner
            from pytest_trust.models.loading import load_model
            from pytest_trust.models.runner import Runner

            loaded = load_model(
                self.reference,
                device=self._device,
                dtype=self._dtype,
                trust_remote_code=self._trust_remote_code,
                cache=self.cache,
                identity=self.identity,
                offload=self._offload,
            )
            self._tokenizer = loaded.tokenizer
            self._runner = OffloadedRunner(loaded) if loaded.layers else Runner(loaded)
            self._framing = Framing(loaded.tokenizer, loaded.eos_ids)
        return self._runner

    def framing(self) -> Framing:
        """The tokens that end and frame this model's texts. They stay in memory when the weights are released."""
        if self._framing is None:
            self.load()
        assert self._framing is not None
        return self._framing

    def release(self) -> None:
        """Release the weights."""
        if self._runner is None:
            return
        import gc

        import torch

        self._runner = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def prompts(self, probes: Sequence[Probe]) -> dict[str, Prompt]:
        """Rendered prompts by probe id."""
        stored = self._rendered(
            "prompt",
            probes,
            lambda probe, given: _from_prompt(render_prompt(self.tokenizer, self._asked(probe), **given)),
        )
        prompts = as_prompts(stored)
        self._fit({name: len(prompt.ids) for name, prompt in prompts.items()})
        return prompts

    def option_rows(self, job: Job, lead_ins: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, OptionRows]:
        """Rendered options by probe id, each behind its prompt and the lead-in that is stored for it.

        A probe whose lead-in is not stored, or has a trace that did not end, is left out. `lead_ins`: those of the job,
        where they have been read.
        """
        lead_ins = self.lead_ins(job) if lead_ins is None else lead_ins
        ready = {
            probe.id: lead_ins.get(probe.id)
            for probe in job.probes
            if not probe.messages or (probe.id in lead_ins and placed(lead_ins[probe.id]))
        }
        led = {name: one for name, one in ready.items() if one and one["ids"]}
        rows = self._rows_behind_prompts([probe for probe in job.probes if probe.id in ready and probe.id not in led])
        rows |= self._rows_behind([probe for probe in job.probes if probe.id in led], led)
        self._fit({name: max(map(len, one.ids)) - 1 for name, one in rows.items()})
        return {probe.id: rows[probe.id] for probe in job.probes if probe.id in rows}

    def _rows_behind_prompts(self, probes: Sequence[Probe]) -> dict[str, OptionRows]:
        """Options that follow their prompts at once."""
        stored = self._rendered(
            "options",
            probes,
            lambda probe, given: _from_options(render_options(self.tokenizer, self._asked(probe), **given)),
        )
        return as_options(stored)

    def _rows_behind(self, probes: Sequence[Probe], lead_ins: Mapping[str, Mapping[str, Any]]) -> dict[str, OptionRows]:
        """Options that follow lead-ins."""
        if not probes:
            return {}
        prompts = self.prompts(probes)
        ends = {name: (one["text"][-TAIL:], one.get("gap", "")) for name, one in lead_ins.items()}
        keys = {
            probe.id: digest("options behind", _KEYS, self.identity.tokenizer, probe.options, ends[probe.id])
            for probe in probes
        }
        known = self.store.get_json("prompts", keys.values())
        new = {
            keys[probe.id]: _from_options(options_behind(self.tokenizer, *ends[probe.id], probe.options))
            for probe in probes
            if keys[probe.id] not in known
        }
        if new:
            self.store.put_json("prompts", new)
        ready = as_options({name: {**known, **new}[key] for name, key in keys.items()})
        before = {name: (*prompts[name].ids, *lead_ins[name]["ids"]) for name in ready}
        return {
            name: OptionRows(
                tuple(before[name] + ids for ids in rows.ids), tuple(len(before[name]) + start for start in rows.starts)
            )
            for name, rows in ready.items()
        }

    def lead_ins(self, job: Job) -> dict[str, dict[str, Any]]:
        """What is stored of a job's lead-ins, by probe id."""
        return {name: value for (name, _), value in self.stored_responses(job.lead_in).items()}

    def stored_responses(self, job: Job) -> dict[tuple[str, int], dict[str, Any]]:
        """Stored responses by probe id and repeat, each with its prompt's `tail`, which may open a trace."""
        prompts = self.prompts(job.probes)
        keys = self.response_keys(job, prompts)
        stored = self.store.get_json("responses", keys.values())
        return {name: {**stored[key], "tail": prompts[name[0]].tail} for name, key in keys.items() if key in stored}

    def behind(self, job: Job) -> dict[str, int]:
        """Tokens of each probe's longest option, if options come behind the job's responses; else nothing."""
        rows = self._rows_behind_prompts(job.probes) if job.generation.until == ANSWER_BEGINS else {}
        return {
            name: max(len(ids) - start for ids, start in zip(one.ids, one.starts, strict=True))
            for name, one in rows.items()
        }

    def _fit(self, lengths: dict[str, int]) -> None:
        """Refuse a probe that is longer than the model's context: a cut probe would be another question."""
        context = self.context()
        for name, length in lengths.items():
            if context is not None and length > context:
                raise InvalidInput(
                    f"{self.reference.label}: probe {name} has {length} tokens, and the model was made for {context}: "
                    "shorten it or leave it out"
                )

    def _asked(self, probe: Probe) -> Probe:
        """The probe as this model gets it: the mutant `no_system` gets no system message."""
        mutant = self.reference.mutant
        if mutant is None or not mutant.changes_prompt:
            return probe
        heard = tuple(message for message in probe.messages if message.role != "system")
        return replace(probe, messages=heard) if heard else probe

    def way(self, generation: Generation) -> Generation:
        """Sampling settings as this model uses them.

        `?decoding=` goes before the run's decoding, and `own` becomes the settings of its generation_config.json.
        `?thinking=N` sets the trace's budget. The mutant `temperature` adds its dose to the temperature.

        Raises:
            InvalidInput: `own`, and the model has no settings of its own.
        """
        mutant, decoding = self.reference.mutant, self.reference.options.get("decoding", "")
        if decoding == "own" or (generation.own and not decoding):
            generation = with_settings(generation, self._own_settings)
        elif decoding == "greedy":
            generation = with_settings(generation, {"temperature": 0})
        if self.reference.thinking_budget is not None:
            generation = replace(generation, reasoning_budget=self.reference.thinking_budget, closes=True)
        if mutant is None or mutant.mutant.kind != "sampling":
            return generation
        return replace(generation, temperature=generation.temperature + mutant.dose)

    @cached_property
    def _own_settings(self) -> dict[str, float]:
        """The sampling settings of its generation_config.json."""
        path = self.files.directory / "generation_config.json"
        document = read_json(path, self.reference.text) if path.exists() and not self.files.gguf else {}
        return own_settings(document, self.reference.label)

    def forced(self) -> tuple[int, ...]:
        """Token ids that the mutant `compliance_prefix` begins every answer with; empty for other models."""
        mutant = self.reference.mutant
        if mutant is None or mutant.mutant.kind != "answer" or mutant.dose == 0:
            return ()
        text = PREFIX if self.identity.chat_format == "template" else f" {PREFIX}"
        return encode(self.tokenizer, text)

    def _rendered(self, what: str, probes: Sequence[Probe], render: Any) -> dict[str, Any]:
        found = self.rendered(what, probes)
        try:
            new = {
                probe.id: render(probe, self._prompt_options.as_arguments())
                for probe in probes
                if probe.id not in found
            }
        except InvalidInput as error:
            raise InvalidInput(f"{self.reference.label}: {error}") from None
        if new:
            self.store.put_json(
                "prompts", {self._rendering_key(what, probe): new[probe.id] for probe in probes if probe.id in new}
            )
        return {**found, **new}

    def _rendering_key(self, what: str, probe: Probe) -> str:
        return digest(what, _KEYS, self.identity.rendering, probe_input(probe))

    def rendering_keys(self, what: str, probes: Sequence[Probe]) -> dict[str, str]:
        """Keys of the store's rendered input (`prompt` or `options`) by probe id."""
        return {probe.id: self._rendering_key(what, probe) for probe in probes}

    def rendered(self, what: str, probes: Sequence[Probe]) -> dict[str, Any]:
        """The probes' stored input (`prompt` or `options`) by probe id. This renders nothing."""
        keys = self.rendering_keys(what, probes)
        found = self.store.get_json("prompts", keys.values())
        return {name: found[key] for name, key in keys.items() if key in found}

    def keys(self, job: Job, *, render: bool = True) -> dict[tuple[str, int], str]:
        """Keys of the store for a job's results of this model, by probe id and repeat.

        Without `render`, probes whose rendered input is not stored are left out. Probes whose options cannot be placed
        yet are left out in any case.
        """
        job = job if render else self.rendered_part(job)
        if job.task == "generate":
            return self.response_keys(job, self.prompts(job.probes))
        return {(name, 0): key for name, key in self.option_keys(self.option_rows(job)).items()}

    def rendered_part(self, job: Job) -> Job:
        """The job with those of its probes whose rendered input is stored."""
        asked = set(self.rendered("prompt", job.probes))
        scored = set(self.rendered("options", job.probes)) if job.task == "choose" else asked
        known = scored & asked | {probe.id for probe in job.probes if probe.id in scored and not probe.messages}
        return replace(job, probes=tuple(probe for probe in job.probes if probe.id in known))

    def response_keys(
        self, job: Job, prompts: dict[str, Prompt], generation: Generation | None = None
    ) -> dict[tuple[str, int], str]:
        """Keys of the responses by probe id and repeat; `generation` replaces the job's as this model uses it."""
        identity, generation = self.identity, generation or self.way(job.generation)
        ids = {name: digest(prompt.ids) for name, prompt in prompts.items()}
        return {
            (probe.id, repeat): digest(
                "response",
                _KEYS,
                identity.fingerprint,
                identity.tokenizer,
                identity.template,
                ids[probe.id],
                sampling(generation, probe.id, repeat),
                *self._ends(generation, probe),
            )
            for probe in job.probes
            if probe.id in ids
            for repeat in range(job.repeats())
        }

    def _ends(self, generation: Generation, probe: Probe) -> list[object]:
        """What decides where a response ends, beside its settings."""
        if generation.until == ANSWER_BEGINS:
            return [self.tags]
        return [list(probe.options)] if generation.until else []

    def option_keys(self, rows: dict[str, OptionRows]) -> dict[str, str]:
        """Keys of the option scores by probe id."""
        identity = self.identity
        return {
            name: digest(
                "options", _KEYS, identity.fingerprint, identity.tokenizer, identity.template, row.ids, row.starts
            )
            for name, row in rows.items()
        }

    def vocabulary(self) -> str:
        """Hash of the tokens and their ids. Tokenizers that differ in other files have the same hash."""
        key = digest("vocabulary", _KEYS, self.identity.tokenizer)
        found = self.store.get_json("notes", [key])
        if key in found:
            return str(found[key])
        value = digest(sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1]))
        self.store.put_json("notes", {key: value})
        return value

    def head_size(self) -> int:
        """Number of ids that both tokenizer and head have; the tokenizer's where the head's size is unknown."""
        known = max(self.tokenizer.get_vocab().values()) + 1
        stated = self._configuration.get("vocab_size")
        return min(known, stated) if isinstance(stated, int) and stated > 1 else known

    def context(self) -> int | None:
        """The model's longest context in tokens, from its configuration; None where that does not say."""
        return stated_context(self._configuration.get)

    @cached_property
    def _configuration(self) -> dict[str, Any]:
        """Its config.json, with the text part of a multimodal one on top; empty for a GGUF file."""
        if self.files.gguf:
            return {}
        config = read_json(self.files.directory / "config.json", self.reference.text)
        nested = config.get("text_config")
        return {**config, **(nested if isinstance(nested, dict) else {})}


def as_prompts(stored: dict[str, Any]) -> dict[str, Prompt]:
    return {name: Prompt(tuple(value["ids"]), value["tail"]) for name, value in stored.items()}


def as_options(stored: dict[str, Any]) -> dict[str, OptionRows]:
    return {name: OptionRows(tuple(map(tuple, value["ids"])), tuple(value["starts"])) for name, value in stored.items()}


def _from_prompt(prompt: Prompt) -> dict[str, object]:
    return {"ids": prompt.ids, "tail": prompt.tail}


def _from_options(rows: OptionRows) -> dict[str, object]:
    return {"ids": rows.ids, "starts": rows.starts}
