"""The trust tax: a candidate's gain in capability beside its loss in trust, a row per dimension, never one number."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_trust.records import VERDICTS, CandidateRecord, Capability, DimensionTax, TrustTax, dimension_rank
from pytest_trust.report.numbers import UNKNOWN, Numbers, count, magnitude
from pytest_trust.report.text import Column, table, visible, wrap
from pytest_trust.report.trace_dependence import LEGEND, tax_dependence


def tax_sentence(tax: TrustTax) -> str:
    """The tax in words, with no claim beyond the verdicts."""
    parts = [_in_words(row, row.dimension if len(tax.capability) == 1 else row.suite) for row in tax.capability]
    for verdict in VERDICTS:
        names = [name for name in _ordered(tax) if tax.dimensions[name].verdict == verdict]
        if names:
            listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
            parts.append(f"{listed} {verdict}")
    return "; ".join(parts)


def _in_words(row: Capability, name: str) -> str:
    if not row.measured or row.change is None:
        return f"{name} not measured"
    numbers = Numbers.of(row)
    unit = " points" if numbers.unit == "share" else numbers.change_unit
    limits = f"[{numbers.signed(row.lower, 0.0)}, {numbers.signed(row.upper, 0.0)}]"
    return f"{name} {numbers.signed(row.change, 0.0)}{unit} {limits}"


def _ordered(tax: TrustTax) -> list[str]:
    return sorted(tax.dimensions, key=dimension_rank)


_HEAD = (
    Column("dimension"),
    Column("verdict"),
    Column("lost", ">"),
    Column("gained", ">"),
    Column("drift AUC", drop=1),
    Column("probes lost", drop=2, shrink=12),
)
_SHOWN = 6  # ids of probes; the JSON report has them all
_AUC = (
    "drift AUC: the probability that a probe which flipped drifted more than one that did not, with limits; "
    "0.5 tells nothing."
)
_TITLE = "trust tax"
_INDENT = 2


def tax_lines(candidates: Sequence[CandidateRecord], width: int) -> list[tuple[str, dict[str, bool]]]:
    """The lines of the tax, each with its markup.

    Each candidate has its sentence, the probes of the controls that it gained and lost, and a row per dimension with
    the probes that it lost; where models have traces, also a row per dimension and model on how much their answers
    depend on them. Candidates without a control are left out.
    """
    lines: list[tuple[str, dict[str, bool]]] = []
    taxed = [candidate for candidate in candidates if candidate.tax.capability]
    for candidate in taxed:
        tax = candidate.tax
        name = f"{visible(candidate.model)}: " if len(taxed) > 1 else ""
        first = (_TITLE if not lines else "").ljust(len(_TITLE) + 2)
        lines += [
            (line, {"bold": True})
            for line in wrap(name + visible(tax_sentence(tax)), width, first=first, rest=" " * len(first))
        ]
        for key in ("gained", "lost"):
            probes = sorted({probe for row in tax.capability for probe in getattr(row, key)})
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
        rows = [_row(dimension, tax.dimensions[dimension]) for dimension in _ordered(tax)]
        if rows:
            # A column without any known value only takes room.
            full = [i for i in range(len(_HEAD)) if i < 4 or any(row[i] not in (UNKNOWN, "") for row in rows)]
            shown = table(
                [_HEAD[i] for i in full], [[row[i] for i in full] for row in rows], width=width, indent=_INDENT
            )
            lines += [(line, {}) for line in shown]
        lines += [(line, {}) for line in tax_dependence(candidate.drift, width)]
    if any(one.trace_dependence for candidate in taxed for one in candidate.drift.values()):
        lines += [(line, {"light": True}) for line in wrap(LEGEND, width, first=" " * _INDENT)]
    if any(found.drift_auc for candidate in taxed for found in candidate.tax.dimensions.values()):
        lines += [(line, {"light": True}) for line in wrap(_AUC, width, first=" " * _INDENT)]
    return lines


def _row(dimension: str, found: DimensionTax) -> list[str]:
    auc = found.drift_auc
    limits = f"{magnitude(auc.auc, 2)} [{magnitude(auc.lower, 2)}, {magnitude(auc.upper, 2)}]" if auc else UNKNOWN
    lost = [visible(probe) for probe in found.worse]
    return [
        visible(dimension),
        visible(found.verdict),
        count(len(lost)),
        count(len(found.better)),
        limits,
        ", ".join(lost[:_SHOWN]),
    ]


def _listed(probes: Sequence[str]) -> str:
    if not probes:
        return ""
    more = f" and {count(len(probes) - _SHOWN)} more" if len(probes) > _SHOWN else ""
    return f", {', '.join(map(visible, probes[:_SHOWN]))}{more}"
