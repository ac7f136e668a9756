"""Make the encoder of the refusal and the toxicity judge (``pytest_trust/judges/encoder.safetensors``).

    python benchmarks/quantise_encoder.py --encoder DIRECTORY [--write]

``--encoder`` is a directory with all-MiniLM-L6-v2 (Reimers and Gurevych's sentence-transformers; Apache-2.0):
model.safetensors, vocab.txt and its configuration. The first LAYERS layers, the ASCII sub-words and the first
MAX_TOKENS positions are kept. Matrices become four-bit numbers with a scale for each group of inputs. Each sub-word
becomes PARTS bytes, by product quantisation (k-means, seeded). Nothing is trained; the judges' regressions are fitted
on the states of this encoder. It needs scikit-learn, torch and transformers, and takes about two minutes on one thread.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pytest_trust.judges.encoder import MATRICES, MAX_TOKENS, pack  # noqa: E402

Array = NDArray[Any]
LAYERS = 3
PARTS = 96  # parts of a sub-word's vector; each is one of 256 centroids


def quantised_encoder(directory: Path) -> dict[str, Array]:
    """The arrays that :meth:`Encoder.from_arrays` reads."""
    from transformers import AutoModel

    tokens = (directory / "vocab.txt").read_text(encoding="utf-8").split("\n")
    special = ("[UNK]", "[CLS]", "[SEP]")
    kept = [i for i, token in enumerate(tokens) if token in special or (token and token.isascii() and token[0] != "[")]
    kept += [tokens.index("[")]
    model = AutoModel.from_pretrained(directory).eval()
    state = {name: value.detach().numpy().astype(np.float32) for name, value in model.state_dict().items()}
    table = state["embeddings.word_embeddings.weight"][kept]
    codes, books = [], []
    for block in np.split(table, PARTS, axis=1):
        clusters = MiniBatchKMeans(256, n_init=1, batch_size=4096, max_iter=30, random_state=0).fit(block)
        codes.append(clusters.predict(block).astype(np.uint8))
        books.append(clusters.cluster_centers_.astype(np.float16))
    positions = state["embeddings.position_embeddings.weight"][:MAX_TOKENS]
    arrays: dict[str, Array] = {
        "vocabulary": np.frombuffer("\n".join(tokens[i] for i in kept).encode("ascii"), dtype=np.uint8),
        "codes": np.stack(codes, 1),
        "codebooks": np.stack(books),
        "positions": (positions + state["embeddings.token_type_embeddings.weight"][0]).astype(np.float16),
        "norm": state["embeddings.LayerNorm.weight"].astype(np.float16),
        "norm_bias": state["embeddings.LayerNorm.bias"].astype(np.float16),
    }
    names = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    names += ("intermediate.dense", "output.dense")
    for index in range(LAYERS):
        origin = f"encoder.layer.{index}."
        for name, source in zip(MATRICES, names, strict=True):
            packed, scales = pack(state[f"{origin}{source}.weight"])
            arrays[f"layer{index}.{name}"], arrays[f"layer{index}.{name}_scales"] = packed, scales
            arrays[f"layer{index}.{name}_bias"] = state[f"{origin}{source}.bias"].astype(np.float16)
        for name, source in (("norm1", "attention.output.LayerNorm"), ("norm2", "output.LayerNorm")):
            arrays[f"layer{index}.{name}"] = state[f"{origin}{source}.weight"].astype(np.float16)
            arrays[f"layer{index}.{name}_bias"] = state[f"{origin}{source}.bias"].astype(np.float16)
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", type=Path, required=True, help="directory with all-MiniLM-L6-v2")
    parser.add_argument("--write", action="store_true", help="write pytest_trust/judges/encoder.safetensors")
    options = parser.parse_args()
    arrays = quantised_encoder(options.encoder)
    print(f"{sum(array.nbytes for array in arrays.values()) / 2**20:.1f} MiB")
    if options.write:
        from safetensors.numpy import save_file

        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            ROOT / "pytest_trust" / "judges" / "encoder.safetensors",
            metadata={
                "made_by": "benchmarks/quantise_encoder.py",
                "from": "all-MiniLM-L6-v2 (Apache-2.0), first layers, quantised",
            },
        )


if __name__ == "__main__":
    main()
