"""The drift of a drift diff: a row per direction, then notes on where it is, what is left out and what replaces KL."""

from __future__ import annotations

from pytest_trust.records import DriftRecord, DriftSummary, GateRecord
from pytest_trust.report.numbers import UNKNOWN, count, known, magnitude, measured, percent
from pytest_trust.report.text import UNBROKEN, Column, table, visible, wrap
from pytest_trust.report.trace_dependence import dependence_lines


def drift_lines(record: GateRecord, width: int) -> list[str]:
    """Return the lines of a gate record's drift, none wider than `width` columns."""
    drift = record.drift
    if drift is None:
        return []
    head = [
        Column("drift, nats per token", shrink=25),  # wide enough for the direction
        Column("mean ± error", ">"),
        Column("median", ">", drop=4),
        Column("p90", ">", drop=5),
        Column("p99", ">", drop=2),
        Column("max", ">", drop=3),
        Column("per response", ">", drop=1),
        Column("same top", ">", drop=1),
        Column("Δp", ">", drop=7),
        Column("RMS Δp", ">", drop=6),
        Column("tokens", ">", drop=8),
    ]
    rows, notes = [], []
    for name, side, reason in (
        ("KL(candidate || baseline)", drift.candidate_baseline, drift.candidate_baseline_reason),
        ("KL(baseline || candidate)", drift.baseline_candidate, drift.baseline_candidate_reason),
    ):
        if side is None:
            # The record says why there is no KL.
            if reason:
                notes.append(f"no {name.replace(' ', UNBROKEN)}: {visible(reason)}")
            continue
        forth = side is drift.candidate_baseline
        direction = visible(side.direction)
        rows.append(
            [
                direction,
                measured(side.mean, side.error),
                *map(magnitude, (side.median, side.p90, side.p99, side.maximum, side.per_sequence)),
                percent(side.same_top),
                percent(side.delta_p),
                percent(side.rms_delta_p),
                count(side.tokens),
            ]
        )
        if known(side.reasoning_mean):
            thought, said = magnitude(side.reasoning_per_sequence), magnitude(side.answer_per_sequence)
            notes.append(f"per response {thought} nats in the reasoning and {said} in the answer given it")
            alone = drift.answer_without_trace
            if forth and alone and known(alone.per_sequence):
                of = "" if alone.responses == side.responses else f" ({count(alone.responses)} responses)"
                drifted = magnitude(alone.per_sequence)
                notes.append(f"{drifted} in the answer against a baseline that has not read the reasoning{of}")
        notes += _where(side, forth)
        notes.append(f"{direction.replace(' ', UNBROKEN)} on the {visible(side.on)}")
    notes += _texts(drift)
    lines = [""] if rows or notes else []
    if rows:
        # A column without any known value only takes room.
        full = [i for i in range(len(head)) if i < 2 or any(row[i] != UNKNOWN for row in rows)]
        lines += table([head[i] for i in full], [[row[i] for i in full] for row in rows], width=width)
        if known(drift.floor):
            notes.append(f"noise floor {magnitude(drift.floor, 2)}")
        outcomes = record.drift_by_outcome
        if len(outcomes) > 1:
            parts = [
                f"{magnitude(found.mean)} where {visible(name)} (n{UNBROKEN}{found.probes})"
                for name, found in outcomes.items()
            ]
            notes.append(f"by the candidate's outcome {', '.join(parts)}")
        auc = record.drift_auc
        if auc:
            limits = f"[{magnitude(auc.lower, 2)}, {magnitude(auc.upper, 2)}]"
            notes.append(f"probes that flipped drifted more with probability {magnitude(auc.auc, 2)} {limits}")
        if drift.identical:
            notes.append("the two distributions are identical on every token")
    lines += wrap("; ".join(notes), width, first="  " if rows else "  drift      ") if notes else []
    return lines + dependence_lines(drift.trace_dependence, width)


def _where(side: DriftSummary, first: bool) -> list[str]:
    """Notes on where a drift is (by place, by the baseline's confidence, by response) and on what is left out."""
    notes = []
    if first:
        parts = [
            f"{magnitude(side.first.get(number))} over the first {number}"
            for number in ("1", "5", "20")
            if known(side.first.get(number))
        ]
        parts += [f"{magnitude(side.rest)} over the rest"] if known(side.rest) else []
        notes += [f"by place in the answer {', '.join(parts)}"] if len(parts) > 1 else []
        parts = [
            f"{magnitude(side.by_confidence.get(name))} where it was {name}"
            for name in ("sure", "unsure", "open")
            if known(side.by_confidence.get(name))
        ]
        notes += [f"by the baseline's confidence {', '.join(parts)}"] if len(parts) > 1 else []
        if known(side.macro_mean):
            notes.append(f"macro mean, each response counting the same, {magnitude(side.macro_mean)}")
    if known(side.tail_mass):
        name = visible(side.direction).replace(" ", UNBROKEN)
        notes.append(f"{name} is a lower bound: {percent(side.tail_mass)} of the mass is beyond the recorded tokens")
    masked = side.masked_mass
    if any(known(mass) and mass > 0 for mass in masked.values()):
        parts = [f"{name} {percent(masked.get(name))}" for name in ("baseline", "candidate") if known(masked.get(name))]
        notes.append(f"mass on tokens that only one has, left out: {', '.join(parts)}")
    if side.masked_tokens:
        notes.append(f"{count(side.masked_tokens)} template and think-marker tokens not counted")
    if side.windowed:
        notes.append(f"{count(side.windowed)} longer than the context, read in overlapping windows")
    return notes


def _texts(drift: DriftRecord) -> list[str]:
    """What replaces KL where the tokenizers differ."""
    notes = []
    for found in drift.texts.values():
        bits = found.bits_per_byte
        notes.append(
            f"bits per byte of the {visible(found.on)} {magnitude(bits.baseline)} -> {magnitude(bits.candidate)} "
            f"(Δ {measured(bits.difference, bits.error)})"
        )
        bound = found.chunk_bound
        if bound:
            notes.append(
                f"chunk bound {measured(bound.per_chunk, bound.error)} nats per chunk, "
                f"{magnitude(bound.per_response)} per response ({count(bound.chunks)} chunks): "
                f"at least that much is {visible(bound.of)}"
            )
    return notes
