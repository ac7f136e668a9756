"""The drift of a drift diff: a row per direction, and in words where it is, what was not counted, and what stands in place of KL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_trust.report.numbers import UNKNOWN, count, known, magnitude, measured, percent
from pytest_trust.report.text import UNBROKEN, Column, table, visible, wrap

Record = Mapping[str, Any]


def drift_lines(record: Record, width: int) -> list[str]:
    """Return the lines of a gate record's drift, none wider than `width` columns."""
    drift = record.get("drift")
    if not isinstance(drift, Mapping):
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
    for key, name in (
        ("candidate_baseline", "KL(candidate || baseline)"),
        ("baseline_candidate", "KL(baseline || candidate)"),
    ):
        side = drift.get(key)
        if not isinstance(side, Mapping):
            # Where no KL can be claimed, the record says why.
            if drift.get(f"{key}_reason"):
                notes.append(f"no {name.replace(' ', UNBROKEN)}: {visible(str(drift[f'{key}_reason']))}")
            continue
        direction = visible(str(side.get("direction") or name))
        rows.append(
            [
                direction,
                measured(side.get("mean"), side.get("error")),
                *(magnitude(side.get(name)) for name in ("median", "p90", "p99", "maximum", "per_sequence")),
                percent(side.get("same_top")),
                *(percent(side.get(name)) for name in ("delta_p", "rms_delta_p")),
                count(side.get("tokens")),
            ]
        )
        if known(side.get("reasoning_mean")):
            thought, said = (magnitude(side.get(f"{part}_per_sequence")) for part in ("reasoning", "answer"))
            notes.append(f"per response {thought} nats in the reasoning and {said} in the answer given it")
            alone = drift.get("answer_without_trace")
            if key == "candidate_baseline" and isinstance(alone, Mapping) and known(alone.get("per_sequence")):
                of = (
                    ""
                    if alone.get("responses") == side.get("responses")
                    else f" ({count(alone.get('responses'))} responses)"
                )
                notes.append(
                    f"{magnitude(alone['per_sequence'])} in the answer against a baseline that has not read the reasoning{of}"
                )
        notes += _where(side, key == "candidate_baseline")
        if side.get("on"):
            notes.append(f"{direction.replace(' ', UNBROKEN)} on the {visible(str(side['on']))}")
    notes += _texts(drift)
    lines = [""] if rows or notes else []
    if rows:
        # A column of which nothing is known only takes room.
        full = [i for i in range(len(head)) if i < 2 or any(row[i] != UNKNOWN for row in rows)]
        lines += table([head[i] for i in full], [[row[i] for i in full] for row in rows], width=width)
        if known(drift.get("floor")):
            notes.append(f"noise floor {magnitude(drift['floor'], 2)}")
        outcomes = record.get("drift_by_outcome") or {}
        if len(outcomes) > 1:
            parts = [
                f"{magnitude(found['mean'])} where {visible(str(name))} (n{UNBROKEN}{found['probes']})"
                for name, found in outcomes.items()
            ]
            notes.append(f"by the candidate's outcome {', '.join(parts)}")
        auc = record.get("drift_auc")
        if auc:
            limits = f"[{magnitude(auc['lower'], 2)}, {magnitude(auc['upper'], 2)}]"
            notes.append(f"probes that flipped drifted more with probability {magnitude(auc['auc'], 2)} {limits}")
        if drift.get("identical"):
            notes.append("the two distributions are identical on every token")
    return lines + (wrap("; ".join(notes), width, first="  " if rows else "  drift      ") if notes else [])


def _where(side: Record, first: bool) -> list[str]:
    """Where a drift is: early or late, where the baseline was sure, by response; and what was not counted."""
    notes = []
    means = side.get("first")
    if first and isinstance(means, Mapping):
        parts = [
            f"{magnitude(means.get(number))} over the first {number}"
            for number in ("1", "5", "20")
            if known(means.get(number))
        ]
        parts += [f"{magnitude(side.get('rest'))} over the rest"] if known(side.get("rest")) else []
        notes += [f"by place in the answer {', '.join(parts)}"] if len(parts) > 1 else []
    confidence = side.get("by_confidence")
    if first and isinstance(confidence, Mapping):
        parts = [
            f"{magnitude(confidence.get(name))} where it was {name}"
            for name in ("sure", "unsure", "open")
            if known(confidence.get(name))
        ]
        notes += [f"by the baseline's confidence {', '.join(parts)}"] if len(parts) > 1 else []
    if first and known(side.get("macro_mean")):
        notes.append(f"macro mean, each response counting the same, {magnitude(side['macro_mean'])}")
    if known(side.get("tail_mass")):
        name = visible(str(side.get("direction") or "KL")).replace(" ", UNBROKEN)
        notes.append(f"{name} is a lower bound: {percent(side['tail_mass'])} of the mass is beyond the recorded tokens")
    masked = side.get("masked_mass")
    if isinstance(masked, Mapping) and any(known(mass) and mass > 0 for mass in masked.values()):
        parts = [f"{name} {percent(masked.get(name))}" for name in ("baseline", "candidate") if known(masked.get(name))]
        notes.append(f"mass on tokens that only one has, left out: {', '.join(parts)}")
    if side.get("masked_tokens"):
        notes.append(f"{count(side['masked_tokens'])} template and think-marker tokens not counted")
    if side.get("windowed"):
        notes.append(f"{count(side['windowed'])} longer than the context, read in overlapping windows")
    return notes


def _texts(drift: Record) -> list[str]:
    """What there is in place of KL where the tokenizers differ, under names of its own."""
    notes = []
    for found in (drift.get("texts") or {}).values():
        bits = found["bits_per_byte"]
        notes.append(
            f"bits per byte of the {visible(str(found['on']))} {magnitude(bits['baseline'])} -> {magnitude(bits['candidate'])} "
            f"(Δ {measured(bits['difference'], bits['error'])})"
        )
        bound = found.get("chunk_bound")
        if bound:
            notes.append(
                f"chunk bound {measured(bound['per_chunk'], bound['error'])} nats per chunk, {magnitude(bound['per_response'])} per response "
                f"({count(bound['chunks'])} chunks): at least that much is {visible(str(bound['of']))}"
            )
    return notes
