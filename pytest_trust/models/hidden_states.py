"""Post-norm hidden states at the response tokens of a batch, and the check of a head against its model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput
from pytest_trust.models.heads import Head

if TYPE_CHECKING:
    import torch


def response_hidden(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, response_mask: torch.Tensor
) -> torch.Tensor:
    """Post-norm hidden states [response tokens, hidden size], at the positions that predict those tokens.

    The states of one forward of the model's body, without its head.

    Args:
        model: transformers causal language model in evaluation mode.
        input_ids: [batch, length], padded on either side.
        attention_mask: [batch, length], 1 or True at tokens.
        response_mask: bool [batch, length], True at the response tokens.

    Raises:
        InvalidInput: shapes differ, a response token is padding or the first of its row, an id is beyond the model's
            vocabulary, or the model is in training mode.
    """
    import torch

    device = next(model.parameters()).device
    ids, attended = input_ids.to(device), attention_mask.to(device).bool()
    measured = response_mask.to(device).bool()
    if ids.ndim != 2 or ids.shape != attended.shape or ids.shape != measured.shape:
        raise InvalidInput(
            f"input_ids, attention_mask and response_mask have shapes {tuple(ids.shape)}, "
            f"{tuple(attended.shape)}, {tuple(measured.shape)}; expected one [batch, length]"
        )
    if model.training:
        raise InvalidInput(f"{type(model).__name__} is in training mode; call model.eval() first")
    before = torch.zeros_like(attended)
    before[:, 1:] = attended[:, :-1]
    if bool((measured & ~(before & attended)).any()):
        row = int((measured & ~(before & attended)).any(-1).nonzero()[0, 0])
        raise InvalidInput(f"row {row}: a response token is padding, or the row's first, which nothing predicts")
    known = int(model.get_input_embeddings().weight.shape[0])
    if ids.numel() and int(ids[attended].max()) >= known:
        raise InvalidInput(
            f"token id {int(ids[attended].max())} is beyond the {known} ids of {type(model).__name__}; "
            "the two models need one tokenizer"
        )
    body = _body(model)
    arguments: dict[str, Any] = {
        "input_ids": ids.masked_fill(~attended, 0),
        "attention_mask": attended.long(),
    }
    accepted = inspect.signature(body.forward).parameters
    if "position_ids" in accepted and not bool(attended[:, 0].all()):  # left padding
        arguments["position_ids"] = (attended.long().cumsum(-1) - 1).clamp(min=0)
    if "use_cache" in accepted or any(x.kind is x.VAR_KEYWORD for x in accepted.values()):
        arguments["use_cache"] = False
    with torch.no_grad():
        hidden: torch.Tensor = body(**arguments).last_hidden_state
        # The state before token t predicts token t.
        return hidden[:, :-1][measured[:, 1:]]


def check_head(model: Any, head: Head) -> None:
    """Compare the head with the model's own logits on three tokens, so that no unknown scale is missed.

    Raises:
        InvalidInput: they differ by more than the rounding of the model's dtype.
    """
    import torch

    device = next(model.parameters()).device
    ids = torch.tensor([[1, 2, 0]], device=device) % head.vocabulary
    mask = torch.ones_like(ids)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits[0, :2].float()
    hidden = response_hidden(model, ids, mask, torch.tensor([[False, True, True]]))
    given = head.logits(hidden).float().to(expected.device)
    if not bool(expected.isfinite().all()):
        raise InvalidInput(
            f"{type(model).__name__} gives logits that are not finite; check the model's weights and dtype"
        )
    # A float32 product sums in another order for another number of rows. In 16 bits that is below the rounding of the
    # result.
    rounding = max(8 * torch.finfo(head.weight.dtype).eps, 64 * torch.finfo(torch.float32).eps)
    tolerance = rounding * float(expected.abs().max())
    if given.shape != expected.shape or not bool(((given - expected).abs() <= tolerance).all()):
        raise InvalidInput(
            f"{type(model).__name__} does more to its logits than its output layer, scale and soft cap; "
            "its drift cannot be measured from hidden states: compare its logits with kl_divergence"
        )


def _body(model: Any) -> Any:
    """The model without its head. Under PEFT its layers are the adapted ones."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = inner.base_model
    return inner.get_decoder() if body is inner else body
