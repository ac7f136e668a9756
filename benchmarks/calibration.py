"""Do the verdicts keep their promises? False alarms, wrongly held gates, power and coverage.

    python benchmarks/calibration.py            # minutes on one core
    python benchmarks/calibration.py --quick    # under two minutes
    python benchmarks/calibration.py --data DIR # A/A on DecodingTrust's stereotype labels, when DIR has them

Unclustered binary gates are enumerated: every possible sample with its probability, without simulation error. The rest
is simulated with a fixed seed. A simulated cell fails when its share is above the 99.9 % quantile of a simulation whose
true share is the limit; that high quantile allows for the many cells. Naive alternatives stand beside this project's
rules. The exit code is 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cluster_bootstrap import cluster_bootstrap
from scipy import special, stats

from pytest_trust.stats.anytime import STAKES, STOPPING_SHARE
from pytest_trust.stats.comparison import compare_scores
from pytest_trust.stats.intervals import (
    Floats,
    design_effect,
    mcnemar_lower,
    mcnemar_p,
    rate_interval,
    score_statistic,
    score_upper,
)
from pytest_trust.stats.power import detectable_flips

Integers = npt.NDArray[np.int64]
ALPHA = 0.05
Z = -float(special.ndtri(ALPHA))


@dataclass(frozen=True)
class Row:
    """One line of the table: `share` is that of the worst cell, `where` names the cell."""

    claim: str
    how: str
    cells: int
    share: float
    where: str
    naive: str
    must: str
    kept: bool


def simulation_limit(share: float, draws: int) -> float:
    return float(stats.binom.ppf(0.999, draws, share)) / draws


# --- binary, unclustered: enumeration -----------------------------------------------------------------


def flip_weights(n: int, better: float, worse: float) -> tuple[Floats, Floats, Floats]:
    """Better counts, worse counts and the probability of each; together they carry all but 1e-9 of it."""
    rate = better + worse
    total = np.arange(*_window(n, rate))
    low, high = _window(int(total[-1]), worse / rate if rate else 0.0)
    low = min(low, *(_window(int(t), worse / rate)[0] for t in (total[0], total[-1]))) if rate else 0
    count = np.arange(low, high)
    weight = stats.binom.pmf(total, n, rate)[:, None] * stats.binom.pmf(
        count[None, :], total[:, None], worse / rate if rate else 0.0
    )
    grid_total, grid_worse = np.meshgrid(total.astype(float), count.astype(float), indexing="ij")
    keep = weight > 1e-13
    return grid_total[keep] - grid_worse[keep], grid_worse[keep], weight[keep]


def _window(n: int, share: float) -> tuple[int, int]:
    spread = 6.5 * np.sqrt(n * share * (1 - share)) + 8
    return max(0, int(n * share - spread)), min(n, int(n * share + spread)) + 1


def flip_shares(rate: float, change: float) -> Iterator[tuple[str, float]]:
    """Shares of better flips for a baseline rate: none, few, and as many as two independent draws have."""
    most = rate * (1 - rate - change)
    yield from (("no better flips", 0.0), ("few", 0.1 * most), ("independent", most))


def held_at_margin(quick: bool) -> Row:
    sizes = (40, 100, 400, 2000) if quick else (40, 60, 80, 100, 150, 200, 400, 700, 1000, 2000)
    rates = (0.005, 0.05, 0.5) if quick else (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
    margins = (0.02, 0.05, 0.1) if quick else (0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
    worst, where, cells = 0.0, "", 0
    naive = dict.fromkeys(("uncorrected Tango", "paired t", "unpaired z", "bare threshold"), 0.0)
    for n in sizes:
        for rate in rates:
            for margin in margins:
                for kind, better_share in flip_shares(rate, margin):
                    b, w, weight = flip_weights(n, better_share, better_share + margin)
                    cells += 1
                    share = float(weight[score_statistic(b, w, n, margin, Z) < -Z].sum())
                    if share > worst:
                        worst, where = share, f"n {n}, rate {rate:g}, margin {margin:g}, {kind}"
                    delta = (w - b) / n
                    error = np.sqrt(np.maximum((b + w) / n - delta**2, 0) / max(n - 1, 1))
                    unpaired = np.sqrt((rate * (1 - rate) + (rate + delta) * (1 - rate - delta)).clip(0) / n)
                    rules = {
                        "uncorrected Tango": _tango(b, w, n, margin) < -Z,
                        "paired t": delta + stats.t.ppf(1 - ALPHA, n - 1) * error < margin,
                        "unpaired z": delta + Z * unpaired < margin,
                        "bare threshold": delta < margin,
                    }
                    for name, held in rules.items():
                        naive[name] = max(naive[name], float(weight[held].sum()))
    return Row(
        claim="held means held",
        how="binary, enumerated at the margin: wrongly held",
        cells=cells,
        share=worst,
        where=where,
        naive=", ".join(f"{name} {share:.1%}" for name, share in naive.items()),
        must="≤ 5 %",
        kept=worst <= ALPHA,
    )


def _tango(b: Floats, w: Floats, n: int, margin: float) -> Floats:
    half = (b + w) - (2 * n - (w - b)) * margin
    q = (np.sqrt(np.maximum(half**2 + 8 * n * b * margin * (1 - margin), 0)) + half) / (4 * n)
    return np.asarray((w - b - n * margin) / np.sqrt(n * (2 * q.clip(0) + margin * (1 - margin))))


def flip_coverage(quick: bool) -> Row:
    """Coverage of the two-sided nominal 95 % interval: the lower (exact test) and upper (score) limit at 2.5 % each."""
    sizes = (40, 100, 400) if quick else (40, 60, 100, 200, 400, 1000)
    rates = (0.02, 0.2, 0.5) if quick else (0.005, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
    coverage: list[tuple[float, str]] = []
    wald: list[float] = []
    for n in sizes:
        for rate in rates:
            for change in (0.0, 0.02, 0.1, 0.3):
                for kind, share in flip_shares(rate, change):
                    if 2 * share + change == 0.0:
                        continue
                    b, w, weight = flip_weights(n, share, share + change)
                    lower = mcnemar_lower(b, w, n, 0.025)
                    upper = score_upper(b, w, n, 1.959964)
                    covered = (lower <= change) & (change <= upper)
                    coverage.append((float(weight[covered].sum()), f"n {n}, rate {rate:g}, Δ {change:g}, {kind}"))
                    delta = (w - b) / n
                    half = 1.959964 * np.sqrt(np.maximum((b + w) / n - delta**2, 0) / n)
                    wald.append(float(weight[np.abs(delta - change) <= half + 1e-12].sum()))
    least = min(coverage)
    mean = float(np.mean([share for share, _ in coverage]))
    return Row(
        claim="coverage",
        how=f"binary, enumerated, nominal 95 %: least (mean {mean:.1%}, conservative)",
        cells=len(coverage),
        share=least[0],
        where=least[1],
        naive=f"Wald {min(wald):.1%}",
        must="≥ 95 % (93.5 to 97 %, or conservative)",
        kept=least[0] >= 0.935,
    )


# --- binary, clustered: simulation --------------------------------------------------------------------


def draw_clusters(
    random: np.random.Generator,
    draws: int,
    sizes: Integers,
    better: float,
    worse: float,
    icc: float,
    kind: str,
) -> tuple[Integers, Integers]:
    """Worse and better flips by cluster, [draws, C]. Whole clusters move together, or each has Dirichlet shares."""
    shape = (draws, sizes.size)
    if kind == "whole clusters" or icc == 0.0:
        together, u = random.random(shape) < icc, random.random(shape)
        up = random.binomial(sizes, worse, shape)
        down = random.binomial(sizes - up, min(1.0, better / (1 - worse)))
        return np.where(together, np.where(u < worse, sizes, 0), up), np.where(
            together, np.where((u >= worse) & (u < worse + better), sizes, 0), down
        )
    concentration = (1 - icc) / icc
    shares = np.array([worse, better, 1 - worse - better]) * concentration
    gamma = random.gamma(np.maximum(shares, 1e-12), size=(*shape, 3))
    gamma /= np.maximum(gamma.sum(-1, keepdims=True), 1e-300)
    up = random.binomial(sizes, gamma[..., 0].clip(0, 1))
    left = np.maximum(1 - gamma[..., 0], 1e-12)
    return up, random.binomial(sizes - up, (gamma[..., 1] / left).clip(0, 1))


def cluster_sizes(count: int, size: int, uneven: bool) -> Integers:
    if not uneven:
        return np.full(count, size)
    return np.random.default_rng(count).geometric(1 / size, size=count)  # mean `size`; most clusters are small


def cluster_cells(quick: bool) -> Iterator[tuple[int, int, bool, float, str]]:
    shapes = (
        ((20, 2), (40, 4), (100, 20)) if quick else ((20, 2), (20, 5), (40, 4), (50, 10), (100, 4), (100, 20), (400, 5))
    )
    for count, size in shapes:
        for uneven in (False, True):
            for icc in (0.0, 0.8) if quick else (0.0, 0.2, 0.5, 0.8):
                for kind in ("whole clusters", "Dirichlet") if icc else ("whole clusters",):
                    yield count, size, uneven, icc, kind


def clustered_held_at_margin(quick: bool, random: np.random.Generator) -> Row:
    draws = 2000 if quick else 5000
    worst, where, cells, plain_worst, robust_worst = 0.0, "", 0, 0.0, 0.0
    for count, size, uneven, icc, kind in cluster_cells(quick):
        sizes = cluster_sizes(count, size, uneven)
        n, degrees = int(sizes.sum()), count - 1
        t = float(special.stdtrit(degrees, 1 - ALPHA))
        for rate in (0.005, 0.1, 0.5) if quick else (0.005, 0.05, 0.2, 0.5):
            for margin in (0.05, 0.1) if quick else (0.02, 0.05, 0.1, 0.2):
                for _, better in list(flip_shares(rate, margin))[::2]:
                    up, down = draw_clusters(random, draws, sizes, better, better + margin, icc, kind)
                    sums, flips = (up - down).astype(float), (up + down).astype(float)
                    effect = design_effect(sums, sizes.astype(float), flips, critical=t)
                    held = score_statistic(down.sum(1) / effect, up.sum(1) / effect, n / effect, margin, t) < -t
                    delta = sums.sum(1) / n
                    plain = np.sqrt(np.maximum(flips.sum(1) / n - delta**2, 0) / n)
                    residual = sums - delta[:, None] * sizes
                    robust = np.sqrt(count / degrees * (residual**2).sum(1)) / n
                    plain_worst = max(plain_worst, float((delta + Z * plain < margin).mean()))
                    robust_worst = max(robust_worst, float((delta + t * robust < margin).mean()))
                    cells += 1
                    share = float(held.mean())
                    if share > worst:
                        worst = share
                        shape = f"{count} clusters of {size}{' uneven' * uneven}, {kind}"
                        where = f"{shape}, rate {rate:g}, margin {margin:g}, ICC {icc:g}"
    limit = simulation_limit(ALPHA, draws)
    return Row(
        claim="held means held",
        how=f"binary in clusters, {draws:,} draws a cell: wrongly held",
        cells=cells,
        share=worst,
        where=where,
        naive=f"unclustered t {plain_worst:.1%}, cluster-robust t alone {robust_worst:.1%}",
        must=f"≤ 5 % (+ simulation: {limit:.1%})",
        kept=worst <= limit,
    )


def clustered_false_alarms(quick: bool, random: np.random.Generator) -> Row:
    draws = 300 if quick else 2000
    worst, where, cells, naive = 0.0, "", 0, 0.0
    for count, size, uneven, icc, kind in cluster_cells(quick):
        if count * size > 500:
            continue
        sizes = cluster_sizes(count, size, uneven)
        labels = np.repeat(np.arange(count), sizes)
        for rate in (0.02, 0.2):
            up, down = draw_clusters(random, draws, sizes, rate / 2, rate / 2, icc, kind)
            alarms = 0
            for i in range(draws):
                old, new = _probes(up[i], down[i], sizes)
                alarms += _alarm(old, new, labels)
            delta = (up - down).sum(1)
            naive = max(naive, float((delta > Z * np.sqrt((up + down).sum(1))).mean()))
            cells += 1
            if alarms / draws > worst:
                worst, where = (
                    alarms / draws,
                    f"{count} clusters of {size}, rate {rate:g}, ICC {icc:g}, {kind}",
                )
    limit = simulation_limit(ALPHA, draws)
    return Row(
        claim="no false alarms",
        how=f"binary in clusters, no change, {draws:,} draws a cell: lower limit above 0",
        cells=cells,
        share=worst,
        where=where,
        naive=f"unclustered z {naive:.1%}",
        must=f"≤ 5 % (+ simulation: {limit:.1%})",
        kept=worst <= limit,
    )


def _probes(up: Integers, down: Integers, sizes: Integers) -> tuple[Floats, Floats]:
    """Baseline and candidate outcomes with these flips; unflipped probes are 0 on both sides."""
    place = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    new = place < np.repeat(up, sizes)
    old = (place >= np.repeat(up, sizes)) & (place < np.repeat(up + down, sizes))
    return old.astype(float), new.astype(float)


def _alarm(old: Floats, new: Floats, labels: npt.ArrayLike | None, family: int = 1) -> bool:
    lower = compare_scores(old, new, margin=1e-6, clusters=labels, family=family).lower  # type: ignore[arg-type]
    return lower is not None and lower > 0.0


# --- graded ------------------------------------------------------------------------------------------


def graded_coverage(quick: bool, random: np.random.Generator) -> Row:
    draws = 600 if quick else 3000
    cells: list[tuple[float, str]] = []
    naive: list[float] = []
    for count, size in ((12, 4), (40, 4), (150, 2)):
        labels = np.repeat(np.arange(count), size)
        for icc in (0.0, 0.5, 0.8):
            for shape in ("normal", "skewed"):
                covered = plain = 0
                for _ in range(draws):
                    shared, own = random.normal(size=count)[labels], random.normal(size=labels.size)
                    noise = np.sqrt(icc) * shared + np.sqrt(1 - icc) * own
                    # skewed: a change of scores in [0, 1], mostly near 0
                    skewed = shape == "skewed"
                    difference = stats.beta.ppf(special.ndtr(noise), 0.5, 2) - 0.2 if skewed else 0.2 * noise
                    result = compare_scores(
                        np.zeros(labels.size),
                        difference + 0.1,
                        margin=0.1,
                        clusters=labels.tolist(),
                        alpha=0.025,
                    )
                    assert result.lower is not None
                    assert result.upper is not None
                    covered += result.lower <= 0.1 <= result.upper
                    half = 1.96 * difference.std(ddof=1) / np.sqrt(labels.size)
                    plain += abs(difference.mean()) <= half
                cells.append((covered / draws, f"{count} clusters of {size}, ICC {icc:g}, {shape}"))
                naive.append(plain / draws)
    least = min(cells)
    floor = 0.935 - 3 * np.sqrt(0.95 * 0.05 / draws)
    return Row(
        claim="coverage",
        how=f"graded in clusters, {draws:,} draws a cell, nominal 95 %: least (most {max(cells)[0]:.1%})",
        cells=len(cells),
        share=least[0],
        where=least[1],
        naive=f"unclustered t {min(naive):.1%}",
        must="93.5 to 97 % (± simulation)",
        kept=least[0] >= floor,
    )


def rate_coverage(quick: bool) -> Row:
    cells: list[tuple[float, str]] = []
    wald: list[float] = []
    for n in (40, 100, 400):
        limits = [rate_interval([1.0] * k + [0.0] * (n - k)) for k in range(n + 1)]
        lower = np.array([i.lower for i in limits if i])
        upper = np.array([i.upper for i in limits if i])
        k = np.arange(n + 1)
        half = 1.96 * np.sqrt(k / n * (1 - k / n) / n)
        for rate in (0.02, 0.05, 0.1, 0.2, 0.35, 0.5) if quick else np.linspace(0.01, 0.5, 50).tolist():
            weight = stats.binom.pmf(k, n, rate)
            cells.append((float(weight[(lower <= rate) & (rate <= upper)].sum()), f"n {n}, rate {rate:g}"))
            wald.append(float(weight[np.abs(k / n - rate) <= half].sum()))
    least, mean = min(cells), float(np.mean([share for share, _ in cells]))
    return Row(
        claim="coverage",
        how=f"one side's rate (Wilson), enumerated, nominal 95 %: mean (least {least[0]:.1%}, {least[1]})",
        cells=len(cells),
        share=mean,
        where="all",
        naive=f"Wald {min(wald):.1%}",
        must="mean 93.5 to 97 %",
        kept=0.935 <= mean <= 0.97,
    )


def bootstrap_coverage(quick: bool, random: np.random.Generator) -> Row:
    """Coverage of the difference between two sides' ratios (biased among answered); the true difference is 0.1."""
    draws = 120 if quick else 600
    covered = 0
    labels = np.repeat(np.arange(60), 3)
    for i in range(draws):
        level = random.beta(6, 6, size=60)[labels]
        known = random.random((2, 180)) < 0.8
        biased = (random.random((2, 180)) < np.clip(level + np.array([[-0.05], [0.05]]), 0, 1)) & known
        interval = cluster_bootstrap(
            lambda b0, k0, b1, k1: b1.sum() / k1.sum() - b0.sum() / k0.sum(),
            (biased[0], known[0], biased[1], known[1]),
            labels.tolist(),
            alpha=0.025,
            resamples=1000,
            seed=i,
        )
        covered += interval.lower <= 0.1 <= interval.upper
    share = covered / draws
    spread = 3 * np.sqrt(0.95 * 0.05 / draws)
    return Row(
        claim="coverage",
        how=f"difference of ratios, cluster bootstrap (BCa), {draws} draws, nominal 95 %",
        cells=1,
        share=share,
        where="60 clusters of 3",
        naive="-",
        must="93.5 to 97 % (± simulation)",
        kept=0.935 - spread <= share <= 0.97 + spread,
    )


# --- power -------------------------------------------------------------------------------------------


def power_as_stated(quick: bool, random: np.random.Generator) -> Iterator[Row]:
    draws = 300 if quick else 1500
    cells: list[tuple[float, str]] = []
    for n in (60, 150, 600):
        for background in (0.0, 0.02, 0.1):
            for family in (1, 14):
                change = detectable_flips(n, background, margin=0.05, family=family)
                if change is None:
                    continue
                outcome = random.choice(
                    [-1, 0, 1],
                    size=(draws, n),
                    p=[background, 1 - 2 * background - change, background + change],
                )
                hits = sum(compare_scores(row == -1, row == 1, margin=0.05, family=family).regressed for row in outcome)
                cells.append((hits / draws, f"n {n}, better flips {background:g}, family {family}"))
    yield _power_row("binary, planned", [(*cell, np.sqrt(0.16 / draws)) for cell in cells])
    pilots, repeats = (20, 30) if quick else (60, 60)
    clustered: list[tuple[float, str, float]] = []
    for count, icc in ((40, 0.5), (40, 0.0), (150, 0.5)):
        labels = np.repeat(np.arange(count), 3)
        for graded in (False, True):
            shares = []
            for _ in range(pilots):  # the change that a gate states as detectable is tested on new data
                old, new = _pilot(random, labels, icc, 0.0, graded)
                change = compare_scores(old, new, margin=0.05, clusters=labels.tolist()).detectable
                assert change is not None
                hits = 0
                for _ in range(repeats):
                    old, new = _pilot(random, labels, icc, change, graded)
                    hits += compare_scores(old, new, margin=0.05, clusters=labels.tolist()).regressed
                shares.append(hits / repeats)
            name = f"{count} clusters of 3, ICC {icc:g}, {'graded' if graded else 'binary'}"
            # Each pilot states a change of its own, so the error is that of a mean over pilots.
            clustered.append((float(np.mean(shares)), name, float(np.std(shares, ddof=1) / np.sqrt(pilots))))
    yield _power_row("in clusters, stated by an unchanged pair", clustered)


def _power_row(kind: str, cells: list[tuple[float, str, float]]) -> Row:
    shares = [share for share, _, _ in cells]
    worst = max(cells, key=lambda cell: abs(cell[0] - 0.8))
    return Row(
        claim="power as stated",
        how=f"{kind}: detected at the stated change, {min(shares):.1%} to {max(shares):.1%}",
        cells=len(cells),
        share=worst[0],
        where=f"{worst[1]}, standard error {worst[2]:.1%}",
        naive="-",
        must="75 to 85 % (± 3 standard errors)",
        kept=all(0.75 - 3 * error <= share <= 0.85 + 3 * error for share, _, error in cells),
    )


def _pilot(
    random: np.random.Generator, labels: Integers, icc: float, change: float, graded: bool
) -> tuple[Floats, Floats]:
    count = int(labels.max()) + 1
    if graded:
        noise = np.sqrt(icc) * random.normal(size=count)[labels] + np.sqrt(1 - icc) * random.normal(size=labels.size)
        return np.zeros(labels.size), change + 0.2 * noise
    together = (random.random(count) < icc)[labels]
    u = np.where(together, random.random(count)[labels], random.random(labels.size))
    return (u < 0.05).astype(float), ((u >= 0.05) & (u < 0.1 + change)).astype(float)


# --- public labels -----------------------------------------------------------------------------------


def decoding_trust(quick: bool, data: Path, random: np.random.Generator) -> Iterator[Row]:
    """A/A on disjoint draws of one model's 25 answers to 1,152 statements; an answer is bad if it agrees."""
    groups: dict[tuple[str, str], list[str]] = {}
    with gzip.open(data, "rt", newline="") as file:
        for line in csv.DictReader(file):
            groups.setdefault((line["model"], line["sys_prompt"]), []).append(line["labels"])
    splits = 10 if quick else 100
    alarms = {"one answer a statement": 0, "mean of 5 answers": 0, "5 answers, clustered by statement": 0}
    naive = {"bare threshold": 0, "unpaired z, 5 answers": 0, "unclustered t, 5 answers": 0}
    runs = 0
    for labels in groups.values():
        agrees = np.array([[letter == "A" for letter in row] for row in labels], dtype=float)  # [statements, 25]
        statements = np.repeat(np.arange(len(labels)), 5).tolist()
        for _ in range(splits):
            order = random.permutation(agrees.shape[1])
            old, new = agrees[:, order[:5]], agrees[:, order[5:10]]
            runs += 1
            alarms["one answer a statement"] += _alarm(old[:, 0], new[:, 0], None)
            alarms["mean of 5 answers"] += _alarm(old.mean(1), new.mean(1), None)
            alarms["5 answers, clustered by statement"] += _alarm(old.ravel(), new.ravel(), statements)
            delta, flips = new.mean() - old.mean(), (new - old).ravel()
            n = flips.size
            error = np.sqrt((old.mean() * (1 - old.mean()) + new.mean() * (1 - new.mean())) / n)
            naive["bare threshold"] += delta > 0
            naive["unpaired z, 5 answers"] += bool(delta > Z * error)
            naive["unclustered t, 5 answers"] += bool(delta > Z * flips.std(ddof=1) / np.sqrt(n))
    for unit, count in alarms.items():
        upper = float(stats.beta.ppf(0.975, count + 1, runs - count))
        least = float(stats.beta.ppf(0.025, count, runs - count + 1)) if count else 0.0
        yield Row(
            claim="no false alarms",
            how=f"A/A on DecodingTrust labels, {unit}: {count} of {runs} ({least:.1%} to {upper:.1%})",
            cells=len(groups),
            share=count / runs,
            where="all",
            naive=", ".join(f"{name} {value / runs:.1%}" for name, value in naive.items()),
            must="≤ 5 % (95 % limit of the simulation)",
            kept=least <= ALPHA,
        )


# --- stopping early -----------------------------------------------------------------------------------


def sequential_validity(quick: bool, random: np.random.Generator) -> Iterator[Row]:
    """The whole rule of --trust-sequential: a look after every pair, and the fixed-sample test when the budget ends."""
    runs, n, margin = 2_000 if quick else 20_000, 128, 0.1
    null = [(0.01, 0.01), (0.05, 0.05), (0.2, 0.2), (0.4, 0.4)]
    edge = [(margin, 0.0), (0.05 + margin, 0.05), (0.2 + margin, 0.2)]
    for name, cells, wrong, must in (
        ("false regressed, no change", null, "regressed", "≤ 5 %"),
        ("wrongly held at the margin", edge, "held", "≤ 5 %"),
    ):
        shares, naive = [], []
        for worse, better in cells:
            verdicts, _, peeking = _sequential_runs(random, runs, n, worse, better, margin)
            shares.append((float(np.mean(verdicts == wrong)), f"flips {worse:g} to worse, {better:g} to better"))
            naive.append(float(np.mean(peeking == wrong)))
        worst = max(shares)
        yield Row(
            claim="sequential validity",
            how=f"{name}: {runs:,} runs, {n} pairs, a look after every pair",
            cells=len(cells),
            share=worst[0],
            where=worst[1],
            naive=f"the fixed-sample tests at every look {max(naive):.1%}",
            must=must,
            kept=worst[0] <= simulation_limit(ALPHA, runs),
        )
    verdicts, used, _ = _sequential_runs(random, runs // 10, n, 0.45, 0.02, margin)
    yield Row(
        claim="sequential saving",
        how=f"clear regression (45 % flip to worse, 2 % to better), family of 16: share of {n} pairs that was needed",
        cells=1,
        share=float(used.mean()) / n,
        where=f"{np.mean(verdicts == 'regressed'):.1%} regressed",
        naive="fixed sample 100 %",
        must="≤ 40 %",
        kept=float(used.mean()) <= 0.4 * n,
    )


def _sequential_runs(
    random: np.random.Generator, runs: int, n: int, worse: float, better: float, margin: float, family: int = 16
) -> tuple[npt.NDArray[np.str_], Integers, npt.NDArray[np.str_]]:
    """Verdicts of `runs` gates, the pairs that each took, and the verdicts of peeking with the fixed-sample tests.

    The family is 1 where the change is at most the margin, since the error rate of a single gate is then measured.
    Otherwise it is as given.
    """
    family = family if worse - better > margin + 1e-9 else 1
    u = random.random((runs, n))
    differences = (u < worse).astype(float) - (u > 1 - better)
    verdicts, peeking = np.full(runs, "inconclusive", dtype="<U12"), np.full(runs, "inconclusive", dtype="<U12")
    used = np.full(runs, n)
    against = {"regressed": np.zeros((runs, STAKES.size)), "held": np.zeros((runs, STAKES.size))}
    needed = {"regressed": family / (STOPPING_SHARE * ALPHA), "held": 1 / (STOPPING_SHARE * ALPHA)}
    up, down = np.zeros(runs), np.zeros(runs)
    for t in range(n):
        d = differences[:, t]
        up, down = up + (d > 0), down + (d < 0)
        gains = {"regressed": d, "held": (margin - d) / (1 - margin)}
        held, rejected = (score_statistic(down, up, t + 1, margin, Z) < -Z), mcnemar_p(down, up) <= ALPHA / family
        fresh = peeking == "inconclusive"
        peeking[fresh & held] = "held"
        peeking[fresh & rejected & ~held] = "regressed"
        for verdict in ("held", "regressed"):
            against[verdict] += np.log1p(np.maximum(STAKES * gains[verdict][:, None], -1 + 1e-12))
            capital = special.logsumexp(against[verdict], axis=1) - np.log(STAKES.size)
            stop = (verdicts == "inconclusive") & (capital >= np.log(needed[verdict]))
            verdicts[stop], used[stop] = verdict, t + 1
    rest = (1 - STOPPING_SHARE) * ALPHA
    critical = -float(special.ndtri(rest))
    open_ = verdicts == "inconclusive"
    held = open_ & (score_statistic(down, up, n, margin, critical) < -critical)
    verdicts[held] = "held"
    verdicts[open_ & ~held & (mcnemar_p(down, up) <= rest / family)] = "regressed"
    return verdicts, used, peeking


HEADER = "| claim | how | cells | ours | where | naive | must | kept |\n|---|---|--:|--:|---|---|---|---|"


def line(row: Row) -> str:
    kept = "yes" if row.kept else "NO"
    cells = (row.claim, row.how, row.cells, f"{row.share:.2%}", row.where, row.naive, row.must, kept)
    return "| " + " | ".join(map(str, cells)) + " |"


def all_rows(quick: bool, labels: Path, random: np.random.Generator) -> Iterator[Row]:
    yield held_at_margin(quick)
    yield clustered_held_at_margin(quick, random)
    yield flip_coverage(quick)
    yield graded_coverage(quick, random)
    yield rate_coverage(quick)
    yield bootstrap_coverage(quick, random)
    yield from power_as_stated(quick, random)
    yield from sequential_validity(quick, random)
    if labels.exists():
        yield from decoding_trust(quick, labels, random)
    yield clustered_false_alarms(quick, random)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cells and draws")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with dt_stereotype/")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    labels = options.data / "dt_stereotype" / "agreeability_labels.csv.gz"
    if not labels.exists():
        print(f"{labels} is not there: the rows on public labels are left out", file=sys.stderr)
    rows = []
    print(HEADER)
    for row in all_rows(options.quick, labels, random):
        print(line(row), flush=True)
        rows.append(row)
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
