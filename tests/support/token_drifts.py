"""Drift of a response between two random distributions."""

from __future__ import annotations

import torch

from pytest_trust.drift.kernels.divergence import token_divergences
from pytest_trust.drift.token_drift import TokenDrift


def token_drift(probe="one", tokens=6, seed=0, **names):
    random = torch.Generator().manual_seed(seed)
    p = torch.randn(tokens, 50, generator=random) * 2
    q = p + torch.randn(tokens, 50, generator=random)
    labels = torch.randint(0, 50, (tokens,), generator=random)
    options = {"cluster": probe, "suite": "safety/harmful_requests"} | names
    return TokenDrift.of(token_divergences(p, q, labels=labels), probe=probe, **options)
