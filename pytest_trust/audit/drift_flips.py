"""Does drift predict flips? The area under the ROC curve of the responses' drift, flipped against unflipped probes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_trust.records import DriftAuc, DriftByFlip, DriftOfOutcome

if TYPE_CHECKING:
    from pytest_trust.drift.summary import TokenDrift

#: The fewest probes in each group.
_LEAST = 5


def drift_by_flip(drifts: Mapping[str, float], flipped: Iterable[str], compared: Iterable[str]) -> DriftByFlip:
    """Drift per response (nats per token), flipped and unflipped probes apart.

    Probes that were not compared, or whose drift is not finite, are left out.
    """
    moved, both = set(flipped), set(compared)
    measured = [probe for probe in sorted(drifts.keys() & both) if math.isfinite(drifts[probe])]
    return DriftByFlip(
        flipped=tuple(drifts[probe] for probe in measured if probe in moved),
        unflipped=tuple(drifts[probe] for probe in measured if probe not in moved),
    )


def drift_by_outcome(drifts: Iterable[TokenDrift], outcomes: Mapping[str, str]) -> dict[str, DriftOfOutcome]:
    """The mean drift (nats per token) by outcome of the candidate's response, over all tokens with that outcome."""
    sums: dict[str, list[float]] = {}
    for drift in drifts:
        outcome = outcomes.get(drift.probe)
        if outcome is None or not len(drift):
            continue
        found = sums.setdefault(outcome, [0, 0.0, 0])
        for place, value in enumerate((1, float(drift.kl_pq.sum(dtype=float)), len(drift))):
            found[place] += value
    return {
        outcome: DriftOfOutcome(probes=int(probes), mean=total / tokens)
        for outcome, (probes, total, tokens) in sorted(sums.items())
    }


def flip_auc(drifts: Sequence[DriftByFlip]) -> DriftAuc | None:
    """The probability that a flipped probe's response drifted more than an unflipped one's.

    It is the Mann-Whitney U over all pairs, where a tie counts one half. At 0.5 drift tells nothing about flips, at 1
    everything. `lower` and `upper` are 95 % limits from the standard error of Hanley and McNeil 1982 (Radiology
    143:29). The `drifts` of several gates are pooled. None when either group has fewer than 5 probes.
    """
    from scipy.stats import rankdata

    flipped = [value for one in drifts for value in one.flipped]
    unflipped = [value for one in drifts for value in one.unflipped]
    m, n = len(flipped), len(unflipped)
    if min(m, n) < _LEAST:
        return None
    ranks = rankdata([*flipped, *unflipped])
    auc = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    variance = (auc * (1 - auc) + (m - 1) * (q1 - auc * auc) + (n - 1) * (q2 - auc * auc)) / (m * n)
    reach = 1.96 * math.sqrt(max(0.0, variance))
    return DriftAuc(auc=auc, lower=max(0.0, auc - reach), upper=min(1.0, auc + reach), flipped=m, unflipped=n)
