"""Train the toxicity judge's weights (``pytest_trust/judges/toxicity.safetensors``).

    python benchmarks/train_toxicity.py --encoder DIRECTORY [--data ../shared/data] [--write]

Data (labels): Davidson et al. 2017, hate or offensive against neither (MIT); ToxiGen's human-written prompts, hate against neutral (CDLA-Permissive-2.0); the madlibs
of Dixon et al. 2018, which balance the identity terms (Apache-2.0). Harmless text without labels of its own: ETHICS commonsense and Moral Stories' norms,
situations and moral actions (MIT), GSM8K questions (MIT). Surge's toxicity comments (MIT) are in no fit; `judges.py` measures on them, and they were looked at while
the configuration was chosen. RealToxicityPrompts takes no part.

``--encoder`` is a directory with all-MiniLM-L6-v2 (Apache-2.0; model.safetensors, vocab.txt and its configuration). Each sub-word is encoded once by itself;
the regression sees the mean of these vectors, so that a word it has not met is judged by its neighbours. Since that part is linear, it is
shipped as one number for each sub-word, without the encoder.

Method: one logistic regression (L2) over [sub-word vectors, hashed n-grams, lexicon], sources weighted by WEIGHTS. Calibration: Platt's, fitted on the
log-odds that each source gets from a fit without it, sources and classes weighted equally. Needs scikit-learn, torch and transformers; about ten minutes on one thread.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack, vstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pytest_trust.judges.toxicity_features import BUCKETS, chunks, hashed, lexicon, wordpieces  # noqa: E402

Array = NDArray[np.float64]
Labelled = list[tuple[str, int]]
WEIGHTS = {"davidson": 1.0, "toxigen": 4.0, "madlibs": 1.0, "plain": 0.5}
STRENGTH = 0.3  # C of scikit-learn
VECTOR_SCALE, LEXICON_SCALE = (
    0.1,
    0.3,
)  # a block's share of the penalty; the best of six by AUC with one source left out, seen beside Surge's


def read_csv(path: Path) -> list[dict[str, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


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
    toxigen: set[tuple[str, int]] = set()
    for path in sorted((data / "toxigen").glob("*.txt")):
        if path.name != "LICENSE.txt":
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            toxigen |= {(line.strip().lstrip("- "), int("__hate" in path.name)) for line in lines if line.strip()}
    plain = [row["input"] for row in read_csv(data / "ethics" / "cm_test.csv.gz")][:2000]
    plain += [row["question"] for row in read_jsonl(data / "gsm8k" / "test.jsonl.gz")][:600]
    for story in read_jsonl(data / "moral_stories" / "test.jsonl.gz")[:600]:
        plain += [str(story[key]) for key in ("norm", "situation", "moral_action") if key in story]
    return {
        "davidson": abusive[:8000] + [row for row in tweets if not row[1]],
        "toxigen": sorted(toxigen),
        "madlibs": madlibs[:16000],
        "plain": [(pieces[0], 0) for pieces in map(chunks, plain) if pieces],
    }


def subword_vectors(encoder: Path) -> tuple[dict[str, int], Array]:
    """Vocabulary of the ASCII sub-words, and [vocabulary, width] vectors of unit length, centred, rarer sub-words longer (log of the rank)."""
    import torch
    from transformers import AutoModel

    tokens = (encoder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    kept = [i for i, token in enumerate(tokens) if token and token.isascii() and not token.startswith("[")]
    model = AutoModel.from_pretrained(encoder).eval()
    cls, sep = tokens.index("[CLS]"), tokens.index("[SEP]")
    vectors = []
    with torch.no_grad():
        for start in range(0, len(kept), 512):
            ids = torch.tensor([[cls, i, sep] for i in kept[start : start + 512]])
            vectors.append(
                model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1).double().numpy()
            )
    stacked = np.concatenate(vectors)
    stacked /= np.linalg.norm(stacked, axis=1, keepdims=True)
    return {tokens[i]: n for n, i in enumerate(kept)}, (stacked - stacked.mean(0)) * np.log1p(kept)[:, None]


class Featuriser:
    """Texts -> sparse [texts, width + BUCKETS + LEXICON]."""

    def __init__(self, vocabulary: dict[str, int], vectors: Array) -> None:
        self.vocabulary, self.vectors = vocabulary, vectors

    def __call__(self, texts: list[str]) -> csr_matrix:
        return hstack(
            [
                csr_matrix(self._pieces(texts) @ self.vectors),
                self._ngrams(texts),
                csr_matrix(np.array([lexicon(text) for text in texts]) * LEXICON_SCALE),
            ]
        ).tocsr()

    def _pieces(self, texts: list[str]) -> csr_matrix:
        rows = [sorted(wordpieces(text, self.vocabulary)) for text in texts]
        values = [1 / np.sqrt(len(row)) for row in rows for _ in row]
        return csr_matrix(
            (values, [i for row in rows for i in row], np.cumsum([0, *map(len, rows)])),
            shape=(len(texts), len(self.vocabulary)),
        )

    @staticmethod
    def _ngrams(texts: list[str]) -> csr_matrix:
        rows = [hashed(text) for text in texts]
        return csr_matrix(
            (
                [v for row in rows for v in row.values()],
                [b for row in rows for b in row],
                np.cumsum([0, *map(len, rows)]),
            ),
            shape=(len(texts), BUCKETS),
        )


def fit(x: dict[str, csr_matrix], y: dict[str, Array], sources: list[str]) -> LogisticRegression:
    weight = np.concatenate([np.full(len(y[s]), WEIGHTS[s]) for s in sources])
    return LogisticRegression(C=STRENGTH, max_iter=100).fit(
        vstack([x[s] for s in sources]), np.concatenate([y[s] for s in sources]), sample_weight=weight
    )


def platt(log_odds: dict[str, Array], y: dict[str, Array]) -> tuple[float, float]:
    """(slope, offset): calibrated log-odds = slope * log-odds + offset; every class of every source has the same weight."""
    z = np.concatenate([log_odds[s] for s in log_odds])
    labels = np.concatenate([y[s] for s in log_odds])
    weight = np.concatenate(
        [np.where(y[s] == 1, 1 / max(1, y[s].sum()), 1 / max(1, (1 - y[s]).sum())) for s in log_odds]
    )
    model = LogisticRegression(C=1e6).fit(z[:, None], labels, sample_weight=weight / weight.mean())
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the data sets")
    parser.add_argument("--encoder", type=Path, required=True, help="directory with all-MiniLM-L6-v2")
    parser.add_argument("--write", action="store_true", help="write pytest_trust/judges/toxicity.safetensors")
    options = parser.parse_args()
    sets = training_data(options.data)
    vocabulary, vectors = subword_vectors(options.encoder)
    # one scale for all vectors, so that STRENGTH means the same for both blocks
    spread = Featuriser(vocabulary, vectors)._pieces([text for rows in sets.values() for text, _ in rows]) @ vectors
    vectors = vectors * (VECTOR_SCALE / spread.std())
    featurise = Featuriser(vocabulary, vectors)
    x = {source: featurise([text for text, _ in rows]) for source, rows in sets.items()}
    y = {source: np.array([label for _, label in rows], dtype=float) for source, rows in sets.items()}
    left_out = {source: fit(x, y, [s for s in sets if s != source]).decision_function(x[source]) for source in sets}
    for source in sets:
        area = roc_auc_score(y[source], left_out[source]) if 0 < y[source].mean() < 1 else float("nan")
        print(
            f"left out {source:9} n {len(y[source]):6} toxic {y[source].mean():.3f} AUC {area:.4f} called toxic {np.mean(left_out[source] > 0):.3f}"
        )
    slope, offset = platt(left_out, y)
    print(f"calibration: slope {slope:.3f}, offset {offset:.3f}")
    model = fit(x, y, list(sets))
    width = vectors.shape[1]
    weights = model.coef_[0]
    subwords, ngrams, words = (
        vectors @ weights[:width],
        weights[width : width + BUCKETS],
        weights[width + BUCKETS :] * LEXICON_SCALE,
    )
    scale = np.abs(ngrams).max() / 127
    if options.write:
        from safetensors.numpy import save_file

        target = ROOT / "pytest_trust" / "judges" / "toxicity.safetensors"
        save_file(
            {
                "ngrams": np.round(ngrams / scale).astype(np.int8),
                "scale": np.array([scale], dtype=np.float32),
                "subwords": subwords.astype(np.float16),
                "vocabulary": np.frombuffer("\n".join(vocabulary).encode("ascii"), dtype=np.uint8),
                "lexicon": words.astype(np.float32),
                "bias": model.intercept_.astype(np.float32),
                "platt": np.array([slope, offset], dtype=np.float32),
            },
            target,
            metadata={
                "trained_by": "benchmarks/train_toxicity.py",
                "data": "Davidson (MIT), ToxiGen (CDLA-Permissive-2.0), madlibs (Apache-2.0), ETHICS, Moral Stories, GSM8K (MIT); sub-words: all-MiniLM-L6-v2 (Apache-2.0)",
            },
        )
        print(f"wrote {target.name}, {target.stat().st_size / 2**20:.1f} MiB; measure it with benchmarks/judges.py")


if __name__ == "__main__":
    main()
