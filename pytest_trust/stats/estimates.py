"""Estimates over tokens, which come in responses and clusters: the value, its clustered error and its limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Sample", "Statistic", "quantile"]


class Statistic(float):
    """A number with its unit, its clustered standard error and its one-sided confidence limits.

    A comparison with a plain number uses the limits, not the value. ``drift.mean <= 0.05`` is true when the *upper*
    limit is at most 0.05: a larger mean is then ruled out at `level`. ``drift.same_top >= 0.95`` is true when the
    *lower* limit is at least 0.95. Both are false where no limit can be given (one cluster of probes).
    ``float(drift.mean) <= 0.05`` compares the value. ``==``, arithmetic and the order of two statistics use the values.
    """

    __slots__ = ("error", "level", "lower_limit", "unit", "upper_limit")

    error: float
    """Standard error clustered by probe cluster, in `unit`; NaN where there is none."""
    lower_limit: float
    """One-sided lower limit at `level`: the true value is at least this. NaN where none can be given."""
    upper_limit: float
    """One-sided upper limit at `level`: the true value is at most this. NaN where none can be given."""
    level: float
    """Confidence of each limit: 1 minus the policy's ``alpha``."""
    unit: str
    """``nats per token``, ``nats per response``, ``share of tokens``, ``probability``."""

    def __new__(
        cls,
        value: float,
        unit: str = "",
        *,
        error: float = math.nan,
        lower_limit: float = math.nan,
        upper_limit: float = math.nan,
        level: float = 0.95,
    ) -> Self:
        statistic = super().__new__(cls, value)
        statistic.unit, statistic.error, statistic.level = unit, error, level
        statistic.lower_limit, statistic.upper_limit = lower_limit, upper_limit
        return statistic

    def __lt__(self, other: object) -> Any:
        return self._below(other, float.__lt__)

    def __le__(self, other: object) -> Any:
        return self._below(other, float.__le__)

    def __gt__(self, other: object) -> Any:
        return self._above(other, float.__gt__)

    def __ge__(self, other: object) -> Any:
        return self._above(other, float.__ge__)

    def _below(self, other: object, compare: Any) -> Any:
        return compare(float(self) if isinstance(other, Statistic) else float(self.upper_limit), other)

    def _above(self, other: object, compare: Any) -> Any:
        return compare(float(self) if isinstance(other, Statistic) else float(self.lower_limit), other)

    def __repr__(self) -> str:
        if math.isnan(self.upper_limit):
            return f"{float(self):.4g} {self.unit} (no confidence limit: fewer than two clusters)"
        low, high = f"{self.lower_limit:.4g}", f"{self.upper_limit:.4g}"
        return (
            f"{float(self):.4g} {self.unit} ({self.level * 100:g} % limits, one-sided: at least {low}, at most {high})"
        )

    def __str__(self) -> str:
        return float.__repr__(self)


@dataclass(slots=True)
class Sample:
    """The responses whose tokens are summarised: the cluster of each response, and `alpha`, each limit's error rate."""

    clusters: Sequence[str]
    alpha: float
    groups: int = field(init=False)
    """Number of clusters."""
    _index: NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        import numpy

        _, self._index = numpy.unique(numpy.array(self.clusters, dtype=object).astype(str), return_inverse=True)
        self.groups = int(self._index.max()) + 1

    def reach(self, share: float) -> float:
        """The `share` quantile of Student's t; its degrees of freedom are clusters - 1. NaN for one cluster."""
        return _student(share, self.groups - 1) if self.groups > 1 else math.nan

    def mean(
        self, columns: Sequence[NDArray[Any]], unit: str, *, least: float = -math.inf, most: float = math.inf
    ) -> Statistic:
        """Mean over all tokens of the responses (micro mean); NaN without tokens. `least`, `most` bound its limits."""
        import numpy

        sums = numpy.array([column.sum(dtype=numpy.float64) for column in columns])
        return self.ratio(sums, numpy.array([len(column) for column in columns], float), unit, least=least, most=most)

    def ratio(
        self, sums: NDArray[Any], counts: NDArray[Any], unit: str, *, least: float = -math.inf, most: float = math.inf
    ) -> Statistic:
        """sum(sums) / sum(counts) with the linearised clustered error.

        The error is Cochran's, Sampling Techniques, 3rd ed., eq. 6.13, with the factor G / (G - 1) for G clusters.
        """
        total = float(counts.sum())
        mean = float(sums.sum() / total) if total else math.nan
        error = self._error(sums, counts, mean) if total else math.nan
        return self.statistic(mean, error, unit, least=least, most=most)

    def statistic(
        self, value: float, error: float, unit: str, *, least: float = -math.inf, most: float = math.inf
    ) -> Statistic:
        """A value with its error and Student's t limits."""
        reach = self.reach(1.0 - self.alpha) * error
        lower, upper = (
            (math.nan, math.nan) if math.isnan(reach) else (max(least, value - reach), min(most, value + reach))
        )
        return Statistic(value, unit, error=error, lower_limit=lower, upper_limit=upper, level=1.0 - self.alpha)

    def quantile(self, columns: Sequence[NDArray[Any]], share: float, unit: str) -> Statistic:
        """Quantile over all tokens, with limits by Woodruff's method (JASA 47, 1952).

        The method takes the limits of the share of tokens below the quantile and reads them off the ordered tokens. No
        limit lies beyond the largest token.
        """
        import numpy

        ordered = numpy.sort(numpy.concatenate(columns).astype(numpy.float64))
        value = quantile(ordered, share)
        below = self.mean([(column <= value).astype(float) for column in columns], "")
        reach = self.reach(1.0 - self.alpha) * below.error
        if math.isnan(reach):
            return Statistic(value, unit, level=1.0 - self.alpha)
        lower, upper = (quantile(ordered, min(1.0, max(0.0, share + sign * reach))) for sign in (-1, 1))
        return Statistic(value, unit, lower_limit=lower, upper_limit=upper, level=1.0 - self.alpha)

    def exactly(self, value: float, unit: str) -> Statistic:
        """A property of these tokens that is no estimate: both limits are the value."""
        return Statistic(value, unit, error=0.0, lower_limit=value, upper_limit=value, level=1.0 - self.alpha)

    def _error(self, sums: NDArray[Any], counts: NDArray[Any], mean: float) -> float:
        import numpy

        if self.groups < 2 or not math.isfinite(mean):
            return math.nan
        residuals = numpy.bincount(self._index, weights=sums - mean * counts)
        variance = self.groups / (self.groups - 1) * float((residuals**2).sum()) / float(counts.sum()) ** 2
        return math.sqrt(variance)


@cache
def _student(share: float, degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf(share, degrees))


def quantile(ordered: NDArray[Any], share: float) -> float:
    """Linear interpolation between order statistics; inf where the upper neighbour is inf."""
    place = share * (len(ordered) - 1)
    below = int(place)
    weight = place - below
    if weight == 0.0:
        return float(ordered[below])
    return float(ordered[below] * (1.0 - weight) + ordered[below + 1] * weight)
