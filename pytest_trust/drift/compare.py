"""Drift of two loaded models: teacher-forced on the same tokens, with exact KL over the full vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_trust.drift.kernels.from_hidden import divergences_from_hidden
from pytest_trust.drift.kernels.reduction import OddLogits
from pytest_trust.drift.shared_tokens import SharedTokens, shared_tokens
from pytest_trust.drift.summary import Drift, TokenDrift, summarise
from pytest_trust.drift.texts import checked_texts, loaded_model
from pytest_trust.errors import InvalidInput
from pytest_trust.models.context_windows import WINDOW_TOO_LARGE, Window, batches, padded, window_sizes, windows
from pytest_trust.models.heads import head_of
from pytest_trust.models.hidden_states import check_head, response_hidden
from pytest_trust.models.memory import halving

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from pytest_trust.drift.kernels.divergence import TokenDivergences


def split_responses(
    divergences: TokenDivergences,
    response_mask: torch.Tensor,
    *,
    probes: Sequence[str],
    clusters: Sequence[str] | None = None,
    suite: str = "",
    p: str = "candidate",
    q: str = "baseline",
    answer_starts: Sequence[int] | None = None,
) -> list[TokenDrift]:
    """The divergences of a batch as one `TokenDrift` a row: row i is a response to ``probes[i]``.

    Raises:
        InvalidInput: the mask has another number of tokens than the divergences, or another number of rows than probes.
    """
    lengths = response_mask.bool().sum(-1).tolist()
    if sum(lengths) != len(divergences) or len(lengths) != len(probes):
        raise InvalidInput(
            f"{len(divergences)} tokens and {len(probes)} probes for a mask with {sum(lengths)} tokens in "
            f"{len(lengths)} rows; expected the mask that the divergences were computed with"
        )
    drifts, start = [], 0
    for row, length in enumerate(lengths):
        drifts.append(
            TokenDrift.of(
                divergences.tokens(start, start + length),
                probe=probes[row],
                cluster=clusters[row] if clusters is not None else probes[row],
                suite=suite,
                p=p,
                q=q,
                answer_start=answer_starts[row] if answer_starts is not None else 0,
            )
        )
        start += length
    return drifts


def compare_models(
    a: Any,
    b: Any,
    texts: Iterable[str],
    *,
    batch_size: int = 8,
    budget_bytes: int | None = None,
    clusters: Sequence[str] | None = None,
    window: int | None = None,
    stride: int | None = None,
    store: Path | None = None,
    alpha: float = 0.05,
) -> Drift:
    """KL(a || b) of two models on plain texts, exact, per token.

    Every token of a text but the first is measured given the ones before it. Where the tokenizer adds a
    beginning-of-text token, the first is measured too. Special tokens that the tokenizer adds are not measured. A text
    longer than the context is read in overlapping windows, in which every token is measured once, with at least
    ``window - stride`` tokens before it. ``Drift.windowed`` counts these texts. Where the same pieces have other ids in
    the two vocabularies, they are matched by their strings. Tokens that only one model has are masked.

    Args:
        a: a model reference (``org/name``, a directory, ``demo:instruct``), a pair (model, tokenizer), or an
            object with these attributes.
        b: the other model, in the same forms.
        texts: texts of at least one token to measure.
        batch_size: windows of one forward.
        budget_bytes: peak memory for logits, see `divergences_from_hidden`.
        clusters: one name a text; the errors are clustered by it. Default: every text by itself.
        window: longest piece in tokens; default: the smaller context of the two, at most 4096.
        stride: new tokens of each further window; default: half a window.
        store: directory for what loading a reference keeps; default: the user's cache directory.
        alpha: error rate of each one-sided limit that the statistics are compared by.

    Returns:
        `Drift` with direction ``KL(a || b)``; ``delta_p`` is a minus b.

    Raises:
        InvalidInput: no texts or an empty one, different tokenizers, a head that `check_head` refuses.
        TrustError: a reference that cannot be loaded, or not enough memory for one window.
    """
    given, names = checked_texts(texts, clusters)
    pair = (loaded_model(a, "a", store), loaded_model(b, "b", store))
    drifts, windowed = drifts_of_texts(
        *pair, given, names, batch_size=batch_size, budget_bytes=budget_bytes, window=window, stride=stride
    )
    return summarise(drifts, direction="KL(a || b)", on="texts", windowed=windowed, alpha=alpha)


def drifts_of_texts(
    a: tuple[Any, Any],
    b: tuple[Any, Any],
    given: Sequence[str],
    names: Sequence[str],
    *,
    sides: tuple[str, str] = ("a", "b"),
    batch_size: int = 8,
    budget_bytes: int | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> tuple[list[TokenDrift], int]:
    """The drift of each text, which `compare_models` summarises, and the number of texts that were read in windows.

    `a` and `b` are (model, tokenizer), `sides` their names. `names` has the cluster of each text.
    """
    (model_a, tokenizer_a), (model_b, tokenizer_b) = a, b
    head_a, head_b = head_of(model_a), head_of(model_b)
    check_head(model_a, head_a)
    check_head(model_b, head_b)
    shared = shared_tokens(tokenizer_a, tokenizer_b, head_a.vocabulary, head_b.vocabulary)
    head_a, head_b = shared.head_a(head_a), shared.head_b(head_b)
    length, step = window_sizes([model_a, model_b], window, stride)
    pieces = [
        piece
        for index, text in enumerate(given)
        for piece in windows(index, *_encoded(text, index, tokenizer_a, tokenizer_b, shared), length, step)
    ]
    measured: dict[int, TokenDrift] = {}

    def measure(chosen: Sequence[int]) -> list[TokenDrift]:
        ids, attended, response = padded([pieces[index] for index in chosen])
        try:
            found = divergences_from_hidden(
                response_hidden(model_a, ids, attended, response),
                head_a,
                response_hidden(model_b, shared.to_b(ids), attended, response),
                head_b,
                labels=shared.places(ids[response]),
                shared_vocabulary=shared.count,
                budget_bytes=budget_bytes,
            )
        except OddLogits as odd:
            raise _located(odd, [pieces[index] for index in chosen], sides) from odd
        owners = [str(pieces[index].text) for index in chosen]
        return split_responses(found, response, probes=owners, p=sides[0], q=sides[1])

    for batch in batches(pieces, batch_size):
        measured.update(zip(batch, halving(batch, measure, too_much=WINDOW_TOO_LARGE), strict=True))
    drifts, windowed = [], 0
    for text, name in enumerate(names):
        parts = [measured[index] for index, piece in enumerate(pieces) if piece.text == text]
        skipped = sum(piece.skipped for piece in pieces if piece.text == text)
        drift = TokenDrift.joined(parts, cluster=name, masked_tokens=skipped)
        if not len(drift):
            raise InvalidInput(f"text {text} has one token, which nothing predicts; expected at least two")
        drifts.append(drift)
        windowed += len(parts) > 1
    return drifts, windowed


def _encoded(
    text: str, index: int, tokenizer_a: Any, tokenizer_b: Any, shared: SharedTokens
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """a's token ids of a text, and which of them are special tokens that the tokenizer added.

    Raises:
        InvalidInput: b's tokenizer cuts the text into other tokens, or only one model has a token of it.
    """
    import torch

    # verbose=False: the tokenizer's warning would mislead, since a text beyond the context is cut into windows here.
    one, other = (
        t(text, return_special_tokens_mask=True, return_attention_mask=False, verbose=False)
        for t in (tokenizer_a, tokenizer_b)
    )
    ids = tuple(one["input_ids"])
    given = torch.tensor(ids, dtype=torch.long)
    both = bool(ids) and max(ids) < (shared.count if shared.a is None else len(shared.a))
    if both and bool((shared.places(given) < shared.count).all()):
        if shared.to_b(given).tolist() == list(other["input_ids"]):
            return ids, tuple(bool(flag) for flag in one["special_tokens_mask"])
    elif ids == tuple(other["input_ids"]):
        raise InvalidInput(
            f"text {index} has {len(ids)} tokens with the largest id {max(ids, default=0)}; "
            f"expected some, all among the {shared.count} that both models share"
        )
    raise InvalidInput(
        f"text {index} is cut into different tokens by the two tokenizers; KL needs the same ones: "
        "compare the models' bits per byte or their chunks instead "
        "(pytest_trust.bits_per_byte, pytest_trust.chunk_bound)"
    )


def _located(odd: OddLogits, pieces: Sequence[Window], sides: tuple[str, str]) -> InvalidInput:
    """The same error, naming model, text and token."""
    row, place = odd.place([sum(piece.measured) for piece in pieces])
    piece = pieces[row]
    token = piece.start + [index for index, measured in enumerate(piece.measured) if measured][place]
    return InvalidInput(
        f"{sides[odd.side == 'q']}: {odd.what} in its logits for token {token} of text {piece.text}; "
        "expected finite logits: check the model's weights and dtype"
    )
