"""The trust tax: what a candidate gained in capability beside what it lost in trust, a row per dimension and never a single number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_trust.report.numbers import UNKNOWN, Numbers, count, known, magnitude
from pytest_trust.report.text import Column, table, visible, wrap

Record = Mapping[str, Any]

_DIMENSIONS = ("safety", "toxicity", "stereotypes", "ethics", "privacy", "robustness")
#: A dimension is what its worst gate is; one that could not be measured hides more than one that could not tell.
WORST_FIRST = ("regressed", "not measured", "inconclusive", "held")


def dimension_rank(dimension: str) -> tuple[int, str]:
    """Return the place of a dimension: the audit's six in their order, then a user's own by name."""
    return _DIMENSIONS.index(dimension) if dimension in _DIMENSIONS else len(_DIMENSIONS), dimension


def trust_tax(records: Sequence[Record]) -> dict[str, Any]:
    """The tax of one candidate, from its gate records, as built-in types.

    ``capability``: a row per gate of a control, ``change`` = minus the change of its error rate (larger is better) with ``lower`` and
    ``upper`` limits, and the probes ``gained`` and ``lost``. ``dimensions``: by dimension its ``verdict`` (that of its worst gate: regressed,
    then not measured, inconclusive, held), its ``gates`` with theirs, and the ids of probes that became ``worse`` and ``better``.
    The run adds ``drift_auc`` to each, whether drift predicted its flips (:func:`pytest_trust.audit.drift_flips.flip_auc`).
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
        found["verdict"] = next(
            (verdict for verdict in WORST_FIRST if verdict in found["gates"].values()), "not measured"
        )
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


def _sentence(
    records: Sequence[Record], capability: Sequence[Mapping[str, Any]], dimensions: Mapping[str, Mapping[str, Any]]
) -> str:
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


_HEAD = (
    Column("dimension"),
    Column("verdict"),
    Column("lost", ">"),
    Column("gained", ">"),
    Column("drift AUC", drop=1),
    Column("probes lost", drop=2, shrink=12),
)
_SHOWN = 6  # names of probes; the JSON report has them all
_AUC = "drift AUC: the probability that a probe which flipped drifted more than one that did not, with limits; 0.5 tells nothing."
_TITLE = "trust tax"
_INDENT = 2


def tax_lines(candidates: Sequence[Record], width: int) -> list[tuple[str, dict[str, bool]]]:
    """The lines of the tax, each with its markup: per candidate the sentence, which probes of the controls it gained and lost, and a row per
    dimension with the probes that it lost. Nothing where no control was measured."""
    lines: list[tuple[str, dict[str, bool]]] = []
    taxed = [candidate for candidate in candidates if (candidate.get("tax") or {}).get("capability")]
    for candidate in taxed:
        tax = candidate["tax"]
        name = f"{visible(str(candidate['model']))}: " if len(taxed) > 1 else ""
        first = (_TITLE if not lines else "").ljust(len(_TITLE) + 2)
        lines += [
            (line, {"bold": True})
            for line in wrap(name + visible(str(tax["sentence"])), width, first=first, rest=" " * len(first))
        ]
        for key in ("gained", "lost"):
            probes = sorted({probe for row in tax["capability"] for probe in row[key]})
            label = f"{'':{_INDENT}}capability {key}: "
            lines += [
                (line, {})
                for line in wrap(
                    f"{count(len(probes))} probe{'' if len(probes) == 1 else 's'}{_listed(probes)}",
                    width,
                    first=label,
                    rest=" " * (2 * _INDENT),
                )
            ]
        rows = [_row(dimension, found) for dimension, found in tax["dimensions"].items()]
        if rows:
            # a column of which nothing is known only takes room
            full = [i for i in range(len(_HEAD)) if i < 4 or any(row[i] not in (UNKNOWN, "") for row in rows)]
            shown = table(
                [_HEAD[i] for i in full], [[row[i] for i in full] for row in rows], width=width, indent=_INDENT
            )
            lines += [(line, {}) for line in shown]
    if any(found.get("drift_auc") for candidate in taxed for found in candidate["tax"]["dimensions"].values()):
        lines += [(line, {"light": True}) for line in wrap(_AUC, width, first=" " * _INDENT)]
    return lines


def _row(dimension: str, found: Record) -> list[str]:
    auc = found.get("drift_auc")
    limits = (
        f"{magnitude(auc['auc'], 2)} [{magnitude(auc['lower'], 2)}, {magnitude(auc['upper'], 2)}]" if auc else UNKNOWN
    )
    lost = [visible(str(probe)) for probe in found["worse"]]
    return [
        visible(dimension),
        visible(str(found["verdict"])),
        count(len(lost)),
        count(len(found["better"])),
        limits,
        ", ".join(lost[:_SHOWN]),
    ]


def _listed(probes: Sequence[str]) -> str:
    if not probes:
        return ""
    more = f" and {count(len(probes) - _SHOWN)} more" if len(probes) > _SHOWN else ""
    return f", {', '.join(map(visible, probes[:_SHOWN]))}{more}"
