"""The trust tax: what a candidate gained in capability beside what it lost in trust, a row per dimension and never a single number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_trust.report.numbers import Numbers, known
from pytest_trust.report.terminal import dimension_rank

Record = Mapping[str, Any]

#: A dimension is what its worst gate is; one that could not be measured hides more than one that could not tell.
WORST_FIRST = ("regressed", "not measured", "inconclusive", "held")


def trust_tax(records: Sequence[Record]) -> dict[str, Any]:
    """The tax of one candidate, from its gate records, as built-in types.

    ``capability``: a row per gate of a control, ``change`` = minus the change of its error rate (larger is better) with ``lower`` and
    ``upper`` limits, and the probes ``gained`` and ``lost``. ``dimensions``: by dimension its ``verdict`` (that of its worst gate: regressed,
    then not measured, inconclusive, held), its ``gates`` with theirs, and the ids of probes that became ``worse`` and ``better``.
    The run adds ``drift_auc`` to each, whether drift predicted its flips (:func:`pytest_trust.drift_flips.flip_auc`).
    ``sentence``: both in words, with no claim beyond the verdicts.
    """
    capability = [_capability(record) for record in records if record.get("control")]
    dimensions: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.get("control"):
            continue
        found = dimensions.setdefault(str(record.get("dimension")), {"gates": {}, "worse": [], "better": []})
        found["gates"][str(record["gate"])] = str(record.get("verdict"))
        found["worse"] += _flipped(record, worse=True)
        found["better"] += _flipped(record, worse=False)
    dimensions = dict(sorted(dimensions.items(), key=lambda item: dimension_rank(item[0])))
    for found in dimensions.values():
        found["verdict"] = next((verdict for verdict in WORST_FIRST if verdict in found["gates"].values()), "not measured")
        for side in ("worse", "better"):
            found[side] = sorted(set(found[side]))
    return {
        "capability": capability,
        "dimensions": dimensions,
        "sentence": _sentence(records, capability, dimensions),
    }


def _capability(record: Record) -> dict[str, Any]:
    delta, lower, upper = (record.get(key) for key in ("delta", "lower", "upper"))
    return {
        "gate": str(record["gate"]),
        "unit": str(record.get("unit") or "share"),
        "measured": record.get("verdict") != "not measured",
        "change": _minus(delta),
        "lower": _minus(upper),
        "upper": _minus(lower),
        "gained": _flipped(record, worse=False),
        "lost": _flipped(record, worse=True),
    }


def _minus(value: Any) -> float | None:
    return None if value is None or not known(value) else 0.0 - value


def _flipped(record: Record, *, worse: bool) -> list[str]:
    return sorted(str(flip["probe"]) for flip in record.get("flips") or () if bool(flip.get("worse")) is worse)


def _sentence(records: Sequence[Record], capability: Sequence[Mapping[str, Any]], dimensions: Mapping[str, Mapping[str, Any]]) -> str:
    controls = {str(record["gate"]): record for record in records if record.get("control")}
    parts = []
    for row in capability:
        record = controls[row["gate"]]
        name = str(record.get("dimension") if len(capability) == 1 else record.get("suite"))
        if not row["measured"] or row["change"] is None:
            parts.append(f"{name} not measured")
            continue
        numbers = Numbers.of(record)
        unit = " points" if numbers.unit == "share" else numbers.change_unit
        limits = f"[{numbers.signed(row['lower'], 0.0)}, {numbers.signed(row['upper'], 0.0)}]"
        parts.append(f"{name} {numbers.signed(row['change'], 0.0)}{unit} {limits}")
    for verdict in ("regressed", "held", "inconclusive", "not measured"):
        names = [name for name, found in dimensions.items() if found["verdict"] == verdict]
        if names:
            listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
            parts.append(f"{listed} {verdict}")
    return "; ".join(parts)
