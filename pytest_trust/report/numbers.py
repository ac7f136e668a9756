"""How numbers are written: their units, and no more digits than the measurement supports.

* A **share** is written in percent, a change of a share in points ("pts"). From 20 probes on it has one decimal: one
  probe of 40 is 2.5 points, and in whole points 5 % and 7.5 % would differ by 2. With fewer probes, one is more than
  5 points, and there are no decimals. There are never two: the standard error of a share of 10,000 probes is still up
  to half a point.
* A **score** or a number of **nats** has as many digits as its error supports. The error is half the width of the
  confidence interval of the change, or the standard error beside a mean. An error keeps two digits if they are below
  35, else one, as in the Particle Data Group's tables (Review of Particle Physics, Introduction, section 5.3).
* A limit that would look equal to its threshold (zero, the margin) gets up to two more digits, so that the text never
  contradicts the verdict.
* What a person set (margins, ceilings) is written in full. What is not known, NaN and infinity are a dash or a word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeGuard

UNKNOWN = "-"


def known(value: object) -> TypeGuard[float]:
    """Return whether `value` is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class Limited(Protocol):
    """A record of a change: its unit, the number of its probes and its limits."""

    @property
    def unit(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def lower(self) -> float | None: ...
    @property
    def upper(self) -> float | None: ...


@dataclass(frozen=True)
class Numbers:
    """How the numbers of one gate are written: `unit` is share, score, nats or one of the user's own."""

    unit: str
    decimals: int

    @classmethod
    def of(cls, record: Limited) -> Numbers:
        """Return the format for a record of a change."""
        return cls.sized(record.unit, record.n, record.lower, record.upper)

    @classmethod
    def sized(cls, unit: str, n: int, lower: float | None = None, upper: float | None = None) -> Numbers:
        """Return the format for a unit, a number of probes `n` and confidence limits."""
        if unit == "share":
            return cls(unit, 1 if n >= 20 else 0)
        if known(lower) and known(upper) and upper > lower:
            return cls(unit, min(6, _decimals((upper - lower) / 2)))
        return cls(unit, 3 if n >= 100 else 2)

    @property
    def scale(self) -> float:
        return 100.0 if self.unit == "share" else 1.0

    @property
    def change_unit(self) -> str:
        """The unit of a difference, with the space before it: `` pts``, `` nats`` or nothing."""
        return {"share": " pts", "score": ""}.get(self.unit, f" {self.unit}")

    def value(self, value: float | None) -> str:
        """Return a level: ``36 %``, ``0.43``, ``1.72 nats``."""
        text = self.bare(value)
        return text if text == UNKNOWN else text + {"share": " %", "score": ""}.get(self.unit, f" {self.unit}")

    def bare(self, value: float | None) -> str:
        """Return a level without its unit."""
        if value is None or not known(value):
            return UNKNOWN
        return f"{value * self.scale:.{self.decimals}f}"

    def change(self, value: float | None) -> str:
        """Return a difference with its sign and unit: ``+31 pts``."""
        text = self.signed(value, 0.0)
        return text if text == UNKNOWN else text + self.change_unit

    def signed(self, value: float | None, *apart_from: float | None) -> str:
        """Return a difference with its sign. It gets more digits where it would look equal to one of `apart_from`."""
        if value is None or not known(value):
            return UNKNOWN
        scaled = value * self.scale
        decimals = self.decimals
        for decimals in range(self.decimals, self.decimals + 3):
            text = f"{scaled:+.{decimals}f}"
            if all(
                other is None or other == value or float(text) != round(other * self.scale, decimals)
                for other in apart_from
            ):
                break
        text = f"{scaled:+.{decimals}f}"
        return text if float(text) else "0"

    def limits(self, lower: float | None, upper: float | None, margin: float | None) -> str:
        """Return the confidence limits of a difference: ``[+12, +44]``."""
        if not known(lower) and not known(upper):
            return UNKNOWN
        return f"[{self.signed(lower, 0.0)}, {self.signed(upper, margin)}]"

    def setting(self, value: float | None) -> str:
        """Return what a person set, in full and without its unit: ``5``, ``2.5``."""
        return UNKNOWN if value is None or not known(value) else f"{value * self.scale:.6g}"

    def size(self, value: float | None, *apart_from: float | None) -> str:
        """Return the size of a difference, without a sign: ``16 pts``."""
        text = self.signed(value, 0.0, *apart_from)
        return text if text == UNKNOWN else text.lstrip("+") + self.change_unit


def _decimals(error: float) -> int:
    """Return the digits after the point that an error supports."""
    exponent = math.floor(math.log10(error))
    return max(0, (1 if error / 10.0**exponent < 3.55 else 0) - exponent)


def magnitude(value: object, digits: int = 3) -> str:
    """Return a number to `digits` significant digits: ``0.0082``, ``17.3``, ``1.2e-9``."""
    if not isinstance(value, (int, float)) or not known(value):
        return UNKNOWN
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return _scientific(value, digits - 1)
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def _scientific(value: float, decimals: int) -> str:
    mantissa, exponent = f"{value:.{decimals}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def measured(mean: object, error: object) -> str:
    """Return a mean with its standard error, to the digits of the error: ``0.412 ± 0.031``."""
    if not isinstance(mean, (int, float)) or not isinstance(error, (int, float)) or not known(mean):
        return magnitude(mean)
    if not known(error) or error <= 0:
        return magnitude(mean)
    decimals = _decimals(error)
    if decimals > 6:
        return f"{magnitude(mean, 2)} ± {magnitude(error, 2)}"
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def percent(value: object, decimals: int = 1) -> str:
    """Return a share in percent. ``100 %`` and ``0 %`` mean exactly all and exactly none."""
    if not isinstance(value, (int, float)) or not known(value):
        return UNKNOWN
    if value in (0, 1):
        return f"{100 * value:.0f} %"
    step = 10.0**-decimals
    shown = min(100 - step, max(step, 100 * value)) if 0 < value < 1 else 100 * value
    return f"{shown:.{decimals}f} %"


def setting_percent(share: float) -> str:
    """Return a share that a person set, in full: ``80 %``, ``97.5 %``."""
    return f"{100 * share:.6g} %"


def probability(p: object) -> str:
    """Return a p-value as the right side of ``p``: ``= 0.0004``, ``< 0.0001``."""
    if not isinstance(p, (int, float)) or not known(p):
        return "not known"
    if p < 0.0001:
        return "< 0.0001"
    return f"= {p:.1g}" if p < 0.001 else f"= {p:.2g}"


def count(value: object) -> str:
    """Return a whole number with a comma between thousands: ``52,000``."""
    return f"{round(value):,}" if isinstance(value, (int, float)) and known(value) else UNKNOWN


def parameters(value: object) -> str:
    """Return a number of parameters in short: ``134.5M``, ``7.6B``."""
    if not isinstance(value, (int, float)) or not known(value):
        return UNKNOWN
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.1f}{suffix}".replace(".0", "")
    return f"{value:.0f}"


def memory(value: object) -> str:
    """Return a number of bytes in decimal units: ``1.3 GB``."""
    if not isinstance(value, (int, float)) or not known(value):
        return "an unknown amount of memory"
    for size, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if value >= size:
            return f"{value / size:.1f} {suffix}"
    return f"{value:.0f} bytes"


def duration(seconds: object) -> str:
    """Return a time in its two largest units: ``48 s``, ``4 min 10 s``, ``1 h 12 min``."""
    if not isinstance(seconds, (int, float)) or not known(seconds):
        return "an unknown time"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 >= 60 else "")
