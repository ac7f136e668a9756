"""Statistics of metrics that are not a mean over probes, and corrections of rates and p-values.

Pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from pytest_trust.errors import InvalidInput
from pytest_trust.stats.intervals import Floats, score_array


def expected_maximum(scores: npt.ArrayLike, k: int) -> float:
    """Unbiased estimate of the expected maximum of `k` samples from the `n` scores of one probe, shape [n].

    Σ_{j=k..n} t_(j) C(j-1, k-1) / C(n, k), with t_(j) the j-th smallest score: the mean of the maximum over all
    subsets of size k. k = 1 gives the mean, k = n the maximum. Two sides can be compared at equal k, whatever their n.
    A NaN score was not measured and is left out; the result is NaN when fewer than k scores remain.
    Raises InvalidInput for a k below 1 and for scores that are no flat sequence of finite numbers.
    """
    values = score_array(scores, "scores")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InvalidInput(f"k={k!r} given, expected a whole number of samples, at least 1")
    values = np.sort(values[~np.isnan(values)])
    n = values.size
    if n < k:
        return float("nan")
    j = np.arange(k, n + 1, dtype=np.float64)
    # Logarithms of the binomials: C(1000, 500) does not fit a float64 product.
    log_weights = _log_choose(j - 1, float(k - 1)) - _log_choose(np.float64(n), float(k))
    return float(np.exp(log_weights) @ values[k - 1 :])


def _log_choose(n: npt.ArrayLike, k: float) -> Floats:
    n = np.asarray(n, dtype=np.float64)
    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1), dtype=np.float64)


def holm(p_values: npt.ArrayLike, family: int | None = None) -> Floats:
    """Holm (1979) step-down adjusted p-values, in the order given, shape [gates]; at most 1.

    `family`: how many hypotheses there are in all. Those that are not among `p_values` count as not rejected.
    Raises InvalidInput for anything but a flat sequence of numbers between 0 and 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not bool(np.all((values >= 0) & (values <= 1))):
        raise InvalidInput("p_values are not all numbers between 0 and 1, expected a flat sequence of p-values")
    order = np.argsort(values, kind="stable")
    most = max(values.size, family or 0)
    stepped = values[order] * np.arange(most, most - values.size, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


@dataclass(frozen=True)
class CorrectedRate:
    """A rate corrected for the judge's errors; its limits are None where the number of judged answers is not given."""

    value: float
    lower: float | None
    upper: float | None


def correct_rate(
    rate: float,
    sensitivity: float,
    specificity: float,
    *,
    n: int | None = None,
    n_sensitivity: int | None = None,
    n_specificity: int | None = None,
    confidence: float = 0.95,
) -> CorrectedRate:
    """True rate behind a judge's `rate`, by Rogan and Gladen (1978).

    (rate + specificity - 1) / (sensitivity + specificity - 1), where specificity is the share of negatives that the
    judge calls negative. All are shares in [0, 1]; the result is cut to [0, 1].

    The two-sided limits need `n`, the number of judged answers. `n_sensitivity` positives and `n_specificity` negatives
    are the labels that the judge was measured on. The limits allow for their number (Lang and Reiczigel 2014,
    Preventive Veterinary Medicine 113); without it sensitivity and specificity are taken as known.
    Raises InvalidInput for a value out of range, and for a judge no better than chance (sensitivity + specificity at
    most 1).
    """
    for name, share in (("rate", rate), ("sensitivity", sensitivity), ("specificity", specificity)):
        if not 0.0 <= share <= 1.0:
            raise InvalidInput(f"{name}={share!r} given, expected a share between 0 and 1")
    if not 0.0 < confidence < 1.0:
        raise InvalidInput(f"confidence={confidence!r} given, expected a number between 0 and 1, such as 0.95")
    if sensitivity + specificity <= 1.0:
        raise InvalidInput(
            f"sensitivity {sensitivity:g} + specificity {specificity:g} is not above 1: "
            "a judge no better than chance corrects nothing, validate it on labels first"
        )
    value = min(1.0, max(0.0, (rate + specificity - 1) / (sensitivity + specificity - 1)))
    if n is None:
        return CorrectedRate(value, None, None)
    z = -float(special.ndtri((1 - confidence) / 2))
    sens, sens_variance = _shrunk(sensitivity, n_sensitivity)
    spec, spec_variance = _shrunk(specificity, n_specificity)
    size = n + z * z
    observed = (n * rate + z * z / 2) / size
    slope = sens + spec - 1
    if slope <= 0.0:  # too few labels to tell the judge from chance
        return CorrectedRate(value, 0.0, 1.0)
    centre = (observed + spec - 1) / slope
    shift = 2 * z * z * (centre * sens_variance - (1 - centre) * spec_variance)
    variance = observed * (1 - observed) / size + centre**2 * sens_variance + (1 - centre) ** 2 * spec_variance
    half = z * float(np.sqrt(variance)) / slope
    lower, upper = (min(1.0, max(0.0, centre + shift + side * half)) for side in (-1, 1))
    return CorrectedRate(value, min(lower, value), max(upper, value))


def _shrunk(share: float, labels: int | None) -> tuple[float, float]:
    if labels is None:
        return share, 0.0
    centre = (labels * share + 1) / (labels + 2)
    return centre, centre * (1 - centre) / (labels + 2)


def bca_levels(estimate: float, draws: Floats, jackknife: Floats, low: float, high: float) -> tuple[float, float, str]:
    """Which quantiles of `draws` are the BCa limits at levels `low` and `high` (Efron 1987), and the method's name.

    Where the correction is undefined, `low` and `high` themselves are returned as "percentile".
    `jackknife`: the estimate without each cluster, [clusters].
    """
    below = (np.count_nonzero(draws < estimate) + 0.5 * np.count_nonzero(draws == estimate)) / draws.size
    deviation = jackknife.mean() - jackknife
    spread = float((deviation**2).sum())
    if not (0.0 < below < 1.0) or not np.isfinite(spread) or spread == 0.0:
        return low, high, "percentile"
    bias = float(special.ndtri(below))
    acceleration = float((deviation**3).sum()) / (6 * spread**1.5)
    adjusted = []
    for share in (low, high):
        z = bias + float(special.ndtri(share))
        shrink = 1 - acceleration * z
        if shrink <= 0.0:
            return low, high, "percentile"
        adjusted.append(float(special.ndtr(bias + z / shrink)))
    return adjusted[0], adjusted[1], "BCa"


def checked_level(alpha: float, family: int) -> float:
    """alpha / family, the level of a lower limit. Raises InvalidInput for a value outside its range."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float | np.number) or not 0.0 < alpha <= 0.5:
        raise InvalidInput(f"alpha={alpha!r} given, expected a number above 0 and at most 0.5, such as 0.05")
    if isinstance(family, bool) or not isinstance(family, int | np.integer) or family < 1:
        raise InvalidInput(f"family={family!r} given, expected the number of gates in the policy, at least 1")
    return float(alpha) / int(family)
