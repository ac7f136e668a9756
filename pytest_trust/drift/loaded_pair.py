"""Whether both models of a pair fit into memory, and whether their heads are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

from pytest_trust.drift.alignment import headless_key
from pytest_trust.errors import InvalidInput
from pytest_trust.keys import digest
from pytest_trust.models.reference import Reference

if TYPE_CHECKING:
    from pytest_trust.engine.engine import Engine
    from pytest_trust.engine.local import Local

_checked: WeakSet[Local] = WeakSet()
"""Models whose heads were found to give the models' own logits."""


def has_head(engine: Engine, reference: Reference) -> bool:
    """Whether the model's head is at hand and gives the model's logits.

    If not, the store keeps the reason, which `drift.alignment.impossible` gives.
    """
    from pytest_trust.models.hidden_states import check_head

    model = engine.local(reference)
    runner = model.runner()
    if runner.head is None:
        engine.store.put_json("notes", {headless_key(model): True})
        return False
    if model not in _checked:
        try:
            check_head(runner.model, runner.head)
        except InvalidInput as error:
            engine.store.put_json("notes", {headless_key(model): f"{reference.label}: {error}"})
            return False
        _checked.add(model)
    return True


def device_of_pair(engine: Engine, live: Sequence[Reference]) -> str:
    """The device on which the logits are reduced."""
    return str(engine.loaded(live[0]).device) if live else "cpu"


def one_at_a_time(engine: Engine, baseline: Reference, candidate: Reference) -> bool:
    """Whether the pair did not fit into memory together when its drift was measured. The store keeps this."""
    key = apart_key(engine, baseline, candidate)
    return key in engine.store.get_json("notes", [key])


def apart_key(engine: Engine, baseline: Reference, candidate: Reference) -> str:
    return digest("one at a time", *(engine.identify(reference).fingerprint for reference in (baseline, candidate)))


def all_fit(engine: Engine, references: Sequence[Reference]) -> bool:
    """Load the models, and say whether all of them are in memory together."""
    for reference in references:
        engine.loaded(reference)
    return all(engine.local(reference).loaded for reference in references)
