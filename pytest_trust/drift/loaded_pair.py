"""Whether both models of a pair are in memory, and whether their heads are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_trust.drift.alignment import (
    headless_key,
)
from pytest_trust.errors import InvalidInput
from pytest_trust.keys import digest
from pytest_trust.models.reference import Reference

if TYPE_CHECKING:
    from pytest_trust.engine.engine import Engine


def has_head(engine: Engine, reference: Reference) -> bool:
    """Whether the model's head is at hand and makes its logits; else the reason is noted, for `impossible` to give."""
    from pytest_trust.models.hidden_states import check_head

    runner = engine.runner(reference)
    if runner.head is None:
        engine.store.put_json("notes", {headless_key(engine, reference): True})
        return False
    if reference not in engine.checked_heads:
        try:
            check_head(runner.model, runner.head)
        except InvalidInput as error:
            engine.store.put_json("notes", {headless_key(engine, reference): f"{reference.label}: {error}"})
            return False
        engine.checked_heads.add(reference)
    return True


def _device(engine: Engine, live: Sequence[Reference]) -> str:
    """Where the logits are reduced."""
    return str(engine.runner(live[0]).device) if live else "cpu"


def one_at_a_time(engine: Engine, baseline: Reference, candidate: Reference) -> bool:
    """Whether the pair did not fit into memory together when its drift was measured; remembered by the store."""
    key = _apart_key(engine, baseline, candidate)
    return key in engine.store.get_json("notes", [key])


def _apart_key(engine: Engine, baseline: Reference, candidate: Reference) -> str:
    return digest("one at a time", *(engine.identify(reference).fingerprint for reference in (baseline, candidate)))


def all_fit(engine: Engine, references: Sequence[Reference]) -> bool:
    """Whether the models are in memory together; loads them."""
    for reference in references:
        engine.runner(reference)
    return all(engine.subject(reference).loaded for reference in references)
