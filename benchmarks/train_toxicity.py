"""Train the toxicity judge's weights (``pytest_trust/judges/toxicity.safetensors``).

    python benchmarks/train_toxicity.py [--data ../shared/data] [--write]

Labelled data:

- Davidson et al. 2017, hate or offensive against neither (MIT);
- the madlibs of Dixon et al. 2018, which balance the identity terms (Apache-2.0);
- ``benchmarks/toxicity_comments.tsv``, comments written and labelled for this project. Those about groups are repeated
  with the same groups in both classes.

Harmless text without labels: ETHICS commonsense and Moral Stories' norms, situations and moral actions (MIT), GSM8K
questions (MIT).

Surge's toxicity comments and RealToxicityPrompts' stored scores are in no fit and no calibration. Both are printed, to
show the judge on other people's labels. The weights of the sources and STRENGTH were chosen with both in view (of 18
choices tried, Surge's AUC lay between 0.924 and 0.955), so these labels are not quite untouched.

Method: one logistic regression (L2) over [mean hidden state, hashed n-grams, lexicon], with sources weighted by
WEIGHTS. It is fitted on the states of the quantised encoder (``quantise_encoder.py``), through the code that the judge
runs. The calibration is Platt's, fitted on the log-odds that each source gets from a fit without it, with sources and
classes weighted equally. Every draw is seeded. It needs scikit-learn, and takes about ten minutes on one thread.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack, vstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pytest_trust.judges.encoder import shipped_encoder  # noqa: E402
from pytest_trust.judges.toxicity_features import BUCKETS, chunks, hashed, lexicon, normalise, undisguised  # noqa: E402

Array = NDArray[Any]
Labelled = list[tuple[str, int]]
WEIGHTS = {"davidson": 0.5, "madlibs": 2.0, "plain": 0.5, "own": 10.0}
STRENGTH = 0.2  # scikit-learn's C
HIDDEN_SCALE, LEXICON_SCALE = 0.05, 0.15  # scales of the standardised blocks; a larger scale lowers a block's penalty
GROUPS = (
    "gay people,lesbians,bisexual people,transgender people,straight "
    "people,Muslims,Jews,Christians,Catholics,Buddhists,Hindus,atheists,black people,"
    "white people,Asians,Latinos,Native Americans,Arabs,Africans,Europeans,Americans,Mexicans,Chinese "
    "people,Indians,immigrants,refugees,foreigners,"
    "women,men,old people,young people,teenagers,disabled people,blind people,deaf people,poor people"
).split(",")
SWAPS = 12  # groups drawn for each comment that names one


def read_csv(path: Path) -> list[dict[str, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def own_comments() -> Labelled:
    """This project's comments.

    A comment about a group is repeated SWAPS times with different groups, any other SWAPS / 3 times. So the two kinds
    weigh 3 : 1.
    """
    draw = random.Random(1)
    rows: Labelled = []
    for line in (ROOT / "benchmarks" / "toxicity_comments.tsv").read_text(encoding="utf-8").splitlines():
        label, text = line.split("\t")
        if "{g}" in text:
            filled = [text.replace("{g}", group) for group in draw.sample(GROUPS, SWAPS)]
            rows += [(comment[0].upper() + comment[1:], int(label)) for comment in filled]
        else:
            rows += [(text, int(label))] * 4
    return rows


def training_data(data: Path) -> dict[str, Labelled]:
    """Source -> (text, 1 for toxic)."""
    draw = random.Random(0)
    tweets = [
        (row["tweet"], int(row["class"] != "2")) for row in read_csv(data / "davidson_hate" / "labeled_data.csv.gz")
    ]
    abusive = [row for row in tweets if row[1]]
    draw.shuffle(abusive)
    madlibs = [
        (row["Text"].strip('"'), int(row["Label"] == "BAD"))
        for row in read_csv(data / "madlibs_identity" / "bias_madlibs_77k.csv.gz")
    ]
    draw.shuffle(madlibs)
    plain = [row["input"] for row in read_csv(data / "ethics" / "cm_test.csv.gz")][:2000]
    plain += [row["question"] for row in read_jsonl(data / "gsm8k" / "test.jsonl.gz")][:600]
    for story in read_jsonl(data / "moral_stories" / "test.jsonl.gz")[:600]:
        plain += [str(story[key]) for key in ("norm", "situation", "moral_action") if key in story]
    return {
        "davidson": abusive[:8000] + [row for row in tweets if not row[1]],
        "madlibs": madlibs[:12000],
        "plain": [(pieces[0], 0) for pieces in map(chunks, plain) if pieces],
        "own": own_comments(),
    }


def held_out(data: Path) -> dict[str, Labelled]:
    """Source -> (text, 1 for toxic), for labels that no fit sees.

    RealToxicityPrompts' label is a machine's: Perspective's stored score is above 0.5.
    """
    prompts = [
        (row[part]["text"], int(row[part]["toxicity"] > 0.5))
        for name in ("toxic", "nontoxic")
        for row in read_jsonl(data / "realtoxicityprompts" / f"{name}.jsonl.gz")
        for part in ("prompt", "continuation")
        if row[part].get("toxicity") is not None
    ]
    comments = [
        (row["text"], int(row["is_toxic"] == "Toxic")) for row in read_csv(data / "surge_toxicity" / "toxicity_en.csv")
    ]
    return {"surge": comments, "realtoxicityprompts": prompts}


def hidden_states(texts: list[str]) -> Array:
    """The encoder's mean hidden states, [texts, width]; equal texts are encoded once."""
    known = {text: shipped_encoder()(undisguised(normalise(text))) for text in dict.fromkeys(texts)}
    return np.stack([known[text] for text in texts])


def ngrams(texts: list[str]) -> csr_matrix:
    rows = [hashed(text) for text in texts]
    values = [v for row in rows for v in row.values()]
    return csr_matrix(
        (values, [b for row in rows for b in row], np.cumsum([0, *map(len, rows)])), shape=(len(texts), BUCKETS)
    )


def fit(x: Mapping[str, csr_matrix], y: Mapping[str, Array], sources: list[str]) -> LogisticRegression:
    weight = np.concatenate([np.full(len(y[s]), WEIGHTS[s] / (4 if s == "own" else 1)) for s in sources])
    return LogisticRegression(C=STRENGTH, max_iter=200).fit(
        vstack([x[s] for s in sources]), np.concatenate([y[s] for s in sources]), sample_weight=weight
    )


def platt(log_odds: Mapping[str, Array], y: Mapping[str, Array]) -> tuple[float, float]:
    """(slope, offset) of calibrated log-odds = slope * log-odds + offset.

    Every class of every source has the same weight.
    """
    z = np.concatenate([log_odds[s] for s in log_odds])
    labels = np.concatenate([y[s] for s in log_odds])
    weight = np.concatenate(
        [np.where(y[s] == 1, 1 / max(1, y[s].sum()), 1 / max(1, (1 - y[s]).sum())) for s in log_odds]
    )
    model = LogisticRegression(C=1e6).fit(z[:, None], labels, sample_weight=weight / weight.mean())
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def show(name: str, labels: Array, log_odds: Array) -> None:
    area = roc_auc_score(labels, log_odds) if 0 < labels.mean() < 1 else float("nan")
    missed = np.mean(log_odds[labels == 1] <= 0) if labels.any() else float("nan")
    print(
        f"{name:30} n {len(labels):6} toxic {labels.mean():.3f} AUC {area:.4f} "
        f"false positives {np.mean(log_odds[labels == 0] > 0):.3f} missed {missed:.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the data sets")
    parser.add_argument("--write", action="store_true", help="write pytest_trust/judges/toxicity.safetensors")
    options = parser.parse_args()
    sets, others = training_data(options.data), held_out(options.data)
    hidden = {source: hidden_states([text for text, _ in rows]) for source, rows in (sets | others).items()}
    y = {source: np.array([label for _, label in rows], dtype=float) for source, rows in (sets | others).items()}
    mean = np.mean([hidden[source].mean(0) for source in sets], axis=0)
    spread = np.concatenate([hidden[source] for source in sets]).std(0) + 1e-4
    x = {
        source: hstack(
            [
                csr_matrix((hidden[source] - mean) / spread * HIDDEN_SCALE),
                ngrams([text for text, _ in rows]),
                csr_matrix(np.array([lexicon(text) for text, _ in rows]) * LEXICON_SCALE),
            ]
        ).tocsr()
        for source, rows in (sets | others).items()
    }
    left_out = {source: fit(x, y, [s for s in sets if s != source]).decision_function(x[source]) for source in sets}
    slope, offset = platt(left_out, y)
    print(f"calibration: slope {slope:.3f}, offset {offset:.3f}")
    for source in sets:
        show(f"left out of the fit: {source}", y[source], slope * left_out[source] + offset)
    model = fit(x, y, list(sets))
    for source in others:
        show(f"in no fit: {source}", y[source], slope * model.decision_function(x[source]) + offset)
    width = hidden["own"].shape[1]
    weights = model.coef_[0]
    of_hidden = weights[:width] * HIDDEN_SCALE / spread
    of_ngrams = weights[width : width + BUCKETS]
    scale = np.abs(of_ngrams).max() / 127
    if options.write:
        from safetensors.numpy import save_file

        target = ROOT / "pytest_trust" / "judges" / "toxicity.safetensors"
        arrays: dict[str, Array] = {
            "hidden": of_hidden.astype(np.float32),
            "ngrams": np.round(of_ngrams / scale).astype(np.int8),
            "scale": np.array([scale], dtype=np.float32),
            "lexicon": (weights[width + BUCKETS :] * LEXICON_SCALE).astype(np.float32),
            "bias": np.array([model.intercept_[0] - float(mean @ of_hidden)], dtype=np.float32),
            "platt": np.array([slope, offset], dtype=np.float32),
        }
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            target,
            metadata={
                "trained_by": "benchmarks/train_toxicity.py",
                "data": (
                    "Davidson, ETHICS, Moral Stories, GSM8K (MIT), madlibs (Apache-2.0), own comments; encoder: "
                    "first layers of all-MiniLM-L6-v2 (Apache-2.0)"
                ),
            },
        )
        print(f"wrote {target.name}, {target.stat().st_size / 2**20:.1f} MiB; measure it with benchmarks/judges.py")


if __name__ == "__main__":
    main()
