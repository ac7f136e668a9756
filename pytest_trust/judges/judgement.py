"""What a judge returns, and what it may be given as a probe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

NOT_MEASURED: Final = float("nan")


@dataclass(frozen=True)
class Judgement:
    """The verdict of one judge about one response.

    outcome: one of `probes.OUTCOMES`. chosen: the option that the response names, where the judge reads a choice.
    score: in [0, 1], larger is worse (for the refusal judge: larger is more refusal); NaN when the judge could not
    decide. message: why, in words; empty unless the outcome is ``error``.
    """

    outcome: str
    score: float
    message: str = ""
    chosen: str = ""


STATED_END: Final = re.compile(r"[.!?;]\s|\n")
"""The end of a sentence in a response that is still being written; a last full stop may yet be a decimal point."""
UNPARSABLE: Final = Judgement("unparsable", NOT_MEASURED)


class Judge(Protocol):
    """A function from a response to a :class:`Judgement`, with a name for the report."""

    @property
    def identity(self) -> str:
        """Name and version, as the report prints it (``refusal 1``)."""
        ...

    def __call__(self, response: str, probe: object = None) -> Judgement:
        """Judge the answer of one response; reasoning is already removed.

        probe: a ``Probe``, a mapping with at least ``prompt``, or None.
        """
        ...


class Stating(Judge, Protocol):
    """A judge that can say of a response that is still being written that it has stated its answer."""

    def stated(self, response: str, probe: object = None) -> bool:
        """Whether the answer is stated in full, so that no further word belongs to it.

        The rest of the response is then never generated, even where the model would have corrected itself.
        """
        ...


def probe_field(probe: object, name: str, default: Any) -> Any:
    """A field of a ``Probe`` or of a plain mapping that stands for one; `default` where it is absent.

    A probe is searched for an attribute first, and then for an entry of its `fields`.
    """
    if probe is None:
        return default
    if isinstance(probe, Mapping):
        value = probe.get(name)
    else:
        value = getattr(probe, name, None)
        if value is None:
            value = getattr(probe, "fields", {}).get(name)
    return default if value is None else value
