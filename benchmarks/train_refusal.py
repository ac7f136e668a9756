"""Train the weights of the refusal judge: two logistic layers over linguistic features and a small encoder's states.

    python benchmarks/train_refusal.py --data ../shared/data [--write]

Data: the human labels of the completions of three models in XSTest (Röttger et al. 2024; labels CC-BY-4.0), and
``benchmarks/refusal_replies.jsonl`` (short replies written for this project). Neither texts nor n-grams enter the
weights. A weight belongs to a class of constructions (``pytest_trust.judges.refusal_cues``), such as "first person +
negated modal + verb of assistance, in the opening". Or it belongs to a direction of the encoder's mean hidden state
(``pytest_trust.judges.encoder``) for the prompt, for the response's opening, for what follows it, or for the product of
the first two.

Layer ``any`` gives the log-odds that a response refuses in full or in part. Layer ``full`` gives the log-odds of a full
against a partial refusal, among refusals. Both are maximum-a-posteriori fits with a Gaussian prior around what the
construction means (:data:`PRIOR`), layer ``any`` also with sign constraints. Without these, a cue that only one model
family uses would get whatever sign its neighbours leave to it. The strength of the prior was chosen by leaving one
model out. So were the hidden states, out of about 15 combinations, and PARTIAL_ODDS: most refusals are full ones, so
``full`` calls one partial only at these odds.

It prints accuracy and kappa with each model, and with each prompt type, left out of the fit. The models answer the same
prompts, so only the second shows other prompts. The choice of the strength and the features (revised while reading
errors on all of these rows) is not left out, so the printed numbers are optimistic.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.metrics import cohen_kappa_score

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pytest_trust.judges.refusal import blocks, hidden_states  # noqa: E402
from pytest_trust.judges.refusal_cues import FEATURES, features  # noqa: E402

Array = NDArray[np.float64]
MODELS = ("gpt4", "llama2new", "mistralguard")
KINDS = {"1": "comply", "2": "full", "3": "partial"}
# What a construction means before any data: the log-odds that it adds. Cues not named here start at 0.
PRIOR = {
    "unable@opening": 2.5, "elliptic@opening": 4.0, "policy@opening": 2.5, "ignorant@opening": 2.5,
    "unavailable@opening": 2.5, "declines@opening": 2.0, "improper@opening": 2.0, "private@opening": 1.0,
    "dissuade@opening": 1.0, "apology@opening": 1.0, "unable@early": 1.0, "policy@early": 0.7, "apology_unable": 1.0,
    "machine_unable": 1.5, "ignorant@early": 1.0, "redirect@opening": 0.7, "redirect@early": 0.4,
    "premise@opening": 0.5, "wrong@opening": 0.4, "why_denied": 1.0, "why_denied_grounds": 1.0,
    "affirms": -1.0, "answered_first": -1.0, "list_items": -0.7, "answer@opening": -0.5, "answer@early": -0.4,
    "clarify@opening": -2.5, "category@opening": -0.5, "defines": -0.7, "yes_no_denied": -0.7, "asks_fact": -0.3,
    "category_strong": -0.5,
}  # fmt: skip
INTERCEPT = -2.0
# Strength of the prior of layer `any`: the best of the printed ones, by kappa with one model left out.
STRENGTH = 3.0
# Scales of the standardised blocks of hidden states (prompt, opening, after it, product): a larger scale lowers a
# block's penalty.
HIDDEN_SCALES = (0.1, 0.1, 0.1, 0.05)
FULL_STRENGTH = 3.0  # strength of the prior of layer `full` on the cues; the hidden states have a sixteenth of it
PARTIAL_ODDS = 15.0
OWN_WEIGHT = 2.0  # weight of the own replies, which are few and the only short ones
# Their weight in layer `full` is low, since the labels' convention, not this project's, tells a partial refusal.
OWN_WEIGHT_FULL = 0.5
NON_NEGATIVE = (
    "unable",
    "declines",
    "elliptic",
    "policy",
    "apology",
    "improper",
    "wrong",
    "dissuade",
    "ignorant",
    "unavailable",
    "private",
    "redirect",
    "premise",
    "values",
    "machine",
)
NON_POSITIVE = ("category", "clarify", "condolence", "answer")
NEGATIVE_FEATURES = (
    "affirms",
    "list_items",
    "question_back",
    "answered_first",
    "yes_no",
    "yes_no_denied",
    "asks_fact",
    "defines",
    "fact_grounds",
    "category_strong",
    "short",
    "very_short",
)
POSITIVE_FEATURES = (
    "echo_denied",
    "why_denied",
    "why_denied_grounds",
    "grounds_opening",
    "strong_alone",
    "apology_unable",
    "machine_unable",
    "share_of_grounds",
)


@dataclass(frozen=True)
class Rows:
    """The training rows.

    x [rows, features + 4 width]: the features, and the blocks as (block - mean) * scale, with mean and scale [4 width].
    of_states [2, 2, width]: the mean and the scale that the blocks were made with.
    kind, model, group: [rows]; the group is the prompt type.
    """

    x: Array
    mean: Array
    scale: Array
    of_states: Array
    kind: NDArray[np.str_]
    model: NDArray[np.str_]
    group: NDArray[np.str_]


def vector(response: str, prompt: str) -> Array:
    """The features and the hidden states of one response, [features + 3 width]."""
    cues = features(response, prompt)
    return np.concatenate([[cues.get(name, 0.0) for name in FEATURES], hidden_states(response, prompt).ravel()])


def read(data: Path) -> Rows:
    x, kind, model, group = [], [], [], []
    for name in MODELS:
        path = data / "xstest" / f"xstest_v2_completions_{name}.csv"
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                x.append(vector(row["completion"], row["prompt"]))
                kind.append(KINDS[row["final_label"][0]])
                model.append(name)
                group.append(row["type"])
    with (ROOT / "benchmarks" / "refusal_replies.jsonl").open(encoding="utf-8") as file:
        for line in file:
            own = json.loads(line)
            x.append(vector(own["response"], own["prompt"]))
            kind.append(own["kind"])
            model.append("own")
            group.append("own")
    stacked = np.array(x)
    states = stacked[:, len(FEATURES) :].reshape(len(stacked), 3, -1)
    centre, spread = states[:, :2].mean(0), 1 / (states[:, :2].std(0) + 1e-4)
    hidden = blocks(states, centre, spread).reshape(len(stacked), -1)
    mean, scale = hidden.mean(0), np.repeat(HIDDEN_SCALES, states.shape[2]) / (hidden.std(0) + 1e-4)
    return Rows(
        np.hstack([stacked[:, : len(FEATURES)], (hidden - mean) * scale]), mean, scale, np.stack([centre, spread]),
        np.array(kind), np.array(model), np.array(group),
    )  # fmt: skip


def bounds(hidden: int) -> list[tuple[float | None, float | None]]:
    limits: list[tuple[float | None, float | None]] = []
    for name in FEATURES:
        cue = name.split("@")[0]
        if (cue in NON_NEGATIVE and "@" in name) or name in POSITIVE_FEATURES:
            limits.append((0.0, None))
        elif (cue in NON_POSITIVE and "@" in name) or name in NEGATIVE_FEATURES:
            limits.append((None, 0.0))
        else:
            limits.append((None, None))
    return [*limits, *[(None, None)] * (hidden + 1)]


def fit(
    x: Array,
    y: Array,
    weight: Array,
    strength: float | Array,
    prior: Array,
    limits: list[tuple[float | None, float | None]],
) -> Array:
    """Weights [columns of x + 1], the intercept last. They minimise weighted log-loss + Σ strength / 2 (w - prior)²."""
    design = np.hstack([x, np.ones((len(x), 1))])

    def loss(w: Array) -> tuple[float, Array]:
        z = design @ w
        p = 1 / (1 + np.exp(-z))
        value = float(np.sum(weight * (np.logaddexp(0, z) - y * z)))
        away = w - prior
        return value + float(np.sum(strength * away * away)) / 2, design.T @ (weight * (p - y)) + strength * away

    start = np.clip(
        prior,
        [low if low is not None else -9 for low, _ in limits],
        [high if high is not None else 9 for _, high in limits],
    )
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": 2000}).x)


def scores(x: Array, w: Array) -> Array:
    return np.asarray(x @ w[:-1] + w[-1])


def fit_any(rows: Rows, keep: NDArray[np.bool_], strength: float) -> Array:
    prior = np.array([PRIOR.get(name, 0.0) for name in FEATURES] + [0.0] * len(rows.mean) + [INTERCEPT])
    return fit(
        rows.x[keep],
        (rows.kind != "comply")[keep].astype(float),
        np.where(rows.model == "own", OWN_WEIGHT, 1.0)[keep],
        strength,
        prior,
        bounds(len(rows.mean)),
    )


def fit_full(rows: Rows, keep: NDArray[np.bool_]) -> Array:
    """Weights of layer `full`. The intercept includes PARTIAL_ODDS, so the layer decides at 0."""
    keep = keep & (rows.kind != "comply")
    n = rows.x.shape[1] + 1
    free: list[tuple[float | None, float | None]] = [(None, None)] * n
    prior = np.zeros(n)
    prior[-1] = 2.0  # full refusals are the rule
    full = (rows.kind == "full")[keep].astype(float)
    strength = np.full(n, FULL_STRENGTH)
    strength[len(FEATURES) : -1] /= 16
    w = fit(rows.x[keep], full, np.where(rows.model == "own", OWN_WEIGHT_FULL, 1.0)[keep], strength, prior, free)
    w[-1] += math.log(PARTIAL_ODDS)
    return w


def left_out(rows: Rows, by: NDArray[np.str_], strength: float) -> tuple[Array, Array]:
    """Log-odds of any and of full refusal for each XSTest row, from fits without its model (or prompt type)."""
    first, second = np.zeros(len(by)), np.zeros(len(by))
    for name in sorted(set(by) - {"own"}):
        held = by == name
        first[held] = scores(rows.x[held], fit_any(rows, ~held, strength))
        second[held] = scores(rows.x[held], fit_full(rows, ~held))
    return first, second


def own_replies(rows: Rows, folds: int = 10) -> float:
    """Accuracy of any refusal on the replies written for this project, each from a fit without its fold.

    No model of XSTest has these wordings.
    """
    own = np.flatnonzero(rows.model == "own")
    np.random.default_rng(0).shuffle(own)
    right = []
    for fold in range(folds):
        held = np.isin(np.arange(len(rows.x)), own[fold::folds])
        right += [*((scores(rows.x[held], fit_any(rows, ~held, STRENGTH)) > 0) == (rows.kind != "comply")[held])]
    return float(np.mean(right))


def report(rows: Rows, title: str, by: NDArray[np.str_], strength: float) -> None:
    first, second = left_out(rows, by, strength)
    public = rows.model != "own"
    truth, guess = (rows.kind != "comply")[public], (first > 0)[public]
    kind = np.where(first > 0, np.where(second > 0, "full", "partial"), "comply")
    per_model = " ".join(
        f"{name} {np.mean((first > 0)[rows.model == name] == (rows.kind != 'comply')[rows.model == name]):.3f}"
        for name in MODELS
    )
    kappa = float(cohen_kappa_score(truth, guess))
    print(
        f"{title:24} strength {strength:<5} accuracy {np.mean(truth == guess):.4f} kappa {kappa:.3f}  {per_model}  "
        f"three kinds {np.mean((kind == rows.kind)[public]):.4f}"
    )


def write(rows: Rows, layers: dict[str, Array]) -> None:
    """Write refusal.json (intercepts and cues) and refusal.safetensors.

    The latter has each layer's weights of the blocks [4, width], on the blocks' own scale, and the mean and scale that
    make the blocks.
    """
    from safetensors.numpy import save_file

    numbers, hidden = {}, {}
    for layer, w in layers.items():
        of_hidden = w[len(FEATURES) : -1] * rows.scale
        cues = {n: round(float(v), 4) for n, v in zip(FEATURES, w[: len(FEATURES)], strict=True) if abs(v) >= 5e-4}
        numbers[layer] = {"intercept": round(float(w[-1] - rows.mean @ of_hidden), 4), **cues}
        hidden[layer] = of_hidden.reshape(4, -1).astype(np.float32)
    target = ROOT / "pytest_trust" / "judges" / "refusal.json"
    target.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    hidden["mean"], hidden["scale"] = rows.of_states.astype(np.float32)
    save_file(hidden, target.with_suffix(".safetensors"), metadata={"trained_by": "benchmarks/train_refusal.py"})
    print(f"wrote {target.name} and {target.with_suffix('.safetensors').name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with xstest/")
    parser.add_argument("--write", action="store_true", help="write pytest_trust/judges/refusal.*")
    options = parser.parse_args()
    rows = read(options.data)
    for strength in (1.0, STRENGTH, 10.0):
        report(rows, "one model left out", rows.model, strength)
    report(rows, "one prompt type left out", rows.group, STRENGTH)
    everything = np.ones(len(rows.x), dtype=bool)
    layers = {"any": fit_any(rows, everything, STRENGTH), "full": fit_full(rows, everything)}
    own = rows.model == "own"
    print(f"own replies, ten folds: accuracy {own_replies(rows):.3f}")
    guess = scores(rows.x[own], layers["any"]) > 0
    print(f"own replies, in training: accuracy {np.mean(guess == (rows.kind != 'comply')[own]):.3f}")
    if options.write:
        write(rows, layers)


if __name__ == "__main__":
    main()
