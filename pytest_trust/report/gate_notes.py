"""What is reported beside a gate: the same gate in the reasoning, and the responses that never came to an answer or were made to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_trust.report.numbers import UNKNOWN, count

Record = Mapping[str, Any]

#: A side's counts, and what their rows are called.
COUNTS = (("truncated", "truncated"), ("closed", "closed by budget"))
THOUGHT = "in thought"


def in_thought(record: Record) -> dict[str, Any] | None:
    """The gate on the models' reasoning, as a record of its own; None where no model reasoned or the judge cannot read a trace."""
    trace = record.get("trace")
    return {**record, "control": False, **trace} if isinstance(trace, Mapping) else None


def bracketed(trace: Record, verdict: str) -> str:
    """The verdict as it is shown: in brackets where it does not decide."""
    return verdict if trace.get("gated") else f"({verdict})"


def share_of(side: Any, key: str) -> str:
    """``3 of 40``."""
    if not isinstance(side, Mapping) or side.get("n") is None:
        return UNKNOWN
    return f"{count(side.get(key) or 0)} of {count(side['n'])}"


def counted(records: Sequence[Record], key: str) -> bool:
    """Whether a side of any record has such responses."""
    return any((record.get(name) or {}).get(key) for record in records for name in ("baseline", "candidate"))


def legend(records: Sequence[Record]) -> str:
    """What the rows beside the gates mean, as far as there are any."""
    parts = []
    if any(record.get("trace") for record in records):
        parts.append(f"{THOUGHT}: the same gate on the reasoning, in brackets where the policy does not gate it.")
    if counted(records, "truncated"):
        parts.append("truncated: responses that were cut before their answer; no other gate had any.")
    else:
        parts.append("No response was cut before its answer.")
    if counted(records, "closed"):
        parts.append("closed by budget: traces that the reasoning budget ended.")
    return " ".join(parts)
