"""The rows beside a gate: the same gate on the reasoning, responses cut before their answer, and closed traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from pytest_trust.records import GateRecord, SideRecord, Trace
from pytest_trust.report.numbers import count

#: A side's counts, and what their rows are called.
COUNTS = (("truncated", "truncated"), ("closed", "closed by budget"))
THOUGHT = "in thought"


def in_thought(record: GateRecord) -> GateRecord | None:
    """The gate on the models' reasoning as a record; None where no model reasoned or the judge cannot read a trace."""
    if record.trace is None:
        return None
    shared = {one.name: getattr(record.trace, one.name) for one in fields(Trace) if one.name != "gated"}
    return replace(record, control=False, **shared)


def bracketed(record: GateRecord, verdict: str) -> str:
    """The verdict on the reasoning; in brackets where it does not count for the gate."""
    return verdict if record.trace and record.trace.gated else f"({verdict})"


def share_of(side: SideRecord, key: str) -> str:
    """A count of a side's responses, as ``3 of 40``."""
    return f"{count(getattr(side, key))} of {count(side.n)}"


def counted(records: Sequence[GateRecord], key: str) -> bool:
    """Whether the count `key` is above 0 on a side of any record."""
    return any(getattr(side, key) for record in records for side in (record.baseline, record.candidate))


def legend(records: Sequence[GateRecord]) -> str:
    """The meaning of the rows beside the gates, as far as there are any."""
    parts = []
    if any(record.trace for record in records):
        parts.append(f"{THOUGHT}: the same gate on the reasoning, in brackets where the policy does not gate it.")
    if counted(records, "truncated"):
        parts.append("truncated: responses that were cut before their answer; no other gate had any.")
    else:
        parts.append("No response was cut before its answer.")
    if counted(records, "closed"):
        parts.append("closed by budget: traces that the reasoning budget ended.")
    return " ".join(parts)
