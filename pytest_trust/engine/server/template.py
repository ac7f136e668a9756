"""The chat template of a model behind a server, from the tokenizer that `?tokenizer=REF` names.

A server renders its prompts itself and shows neither the template nor the prompt. The tokenizer of the model's card has
the same template. It tells how the model writes a trace, and whether the prompt ends inside one. The tokenizer is
loaded without weights, and the store keeps what was read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_trust.engine.server.protocol import template_settings
from pytest_trust.engine.store import Store
from pytest_trust.errors import InvalidInput
from pytest_trust.keys import digest
from pytest_trust.models.files import locate_tokenizer
from pytest_trust.models.identity import tokenizer_hashes
from pytest_trust.models.reference import Reference, tokenizer_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.reasoning import Tags

_KEYS = 1  # version of the store's keys: raise it when the meaning of a key changes
_QUESTION = Probe(id="question", cluster="question", messages=(Message("user", "Which number is larger?"),))


@dataclass(frozen=True, slots=True)
class ServedTemplate:
    """What a server's chat template says about traces.

    tags: the tags that responses are split by, as in `models.trace_format.TraceFormat`.
    tail: the end of a rendered prompt, which may open a trace.
    """

    tags: Tags
    tail: str


def read_template(reference: Reference, store: Store, *, trust_remote_code: bool) -> ServedTemplate:
    """The template of a server's reference that names a tokenizer.

    It is rendered with the variables that the server is sent for `?thinking=` and `?template.NAME=`.

    Raises:
        TrustError: the tokenizer cannot be had or loaded.
        InvalidInput: it has no chat template.
    """
    named, given = tokenizer_reference(reference.options["tokenizer"]), template_settings(reference)
    files = locate_tokenizer(named, trust_remote_code=trust_remote_code)
    key = digest("served template", _KEYS, tokenizer_hashes(files, store), given)
    known: dict[str, Any] | None = store.get_json("notes", [key]).get(key)
    if known is None:
        from pytest_trust.models.chat_template import template_text
        from pytest_trust.models.loading import load_tokenizer
        from pytest_trust.models.rendering import render_prompt
        from pytest_trust.models.trace_format import read_trace_format

        tokenizer = load_tokenizer(named, files, trust_remote_code=trust_remote_code)
        if not template_text(tokenizer):
            raise InvalidInput(
                f"{reference.label}: the tokenizer {named.text} has no chat template: "
                "name the one of the served model, or leave out ?tokenizer="
            )
        settings: dict[str, Any] = dict(given.get("chat_template_kwargs", {}))
        found = read_trace_format(tokenizer, settings=settings)
        known = {"tags": found.tags, "tail": render_prompt(tokenizer, _QUESTION, settings=settings).tail}
        store.put_json("notes", {key: known})
    return ServedTemplate(tuple(tuple(pair) for pair in known["tags"]), str(known["tail"]))
