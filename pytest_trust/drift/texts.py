"""The arguments of comparisons on plain texts, checked: texts with their clusters, and models, loaded where needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path


def checked_texts(texts: Iterable[str], clusters: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The texts, and one cluster for each; a text without a given cluster is its own.

    Raises:
        InvalidInput: no texts, an empty one, or a number of clusters that is not that of the texts.
    """
    given = [texts] if isinstance(texts, str) else list(texts)
    if not given:
        raise InvalidInput("no texts; expected at least one")
    for index, text in enumerate(given):
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput(f"text {index} is {text!r}; expected a string that is not empty")
    if clusters is not None and len(clusters) != len(given):
        raise InvalidInput(f"{len(clusters)} clusters for {len(given)} texts; expected one a text")
    return given, list(clusters) if clusters is not None else [str(index) for index in range(len(given))]


def loaded_model(given: Any, name: str, store: Path | None) -> tuple[Any, Any]:
    """Model and tokenizer from a model reference, a pair, or an object with both as attributes. Errors say `name`.

    Raises:
        InvalidInput: none of these, or a model in training mode.
        TrustError: a reference that cannot be loaded.
    """
    if isinstance(given, str):
        from pytest_trust.engine.store import Store, default_store
        from pytest_trust.models.loading import load_model
        from pytest_trust.models.reference import parse_reference

        directory = store or default_store()
        with Store(directory) as hashes:
            given = load_model(parse_reference(given), cache=directory, hashes=hashes)
    if hasattr(given, "model") and hasattr(given, "tokenizer"):
        given = (given.model, given.tokenizer)
    if not (isinstance(given, tuple) and len(given) == 2 and hasattr(given[0], "get_output_embeddings")):
        raise InvalidInput(f"{name} is a {type(given).__name__}; expected a reference or (model, tokenizer)")
    if given[0].training:
        raise InvalidInput(f"{name} is in training mode; call model.eval() first")
    return given
