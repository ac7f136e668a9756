"""A small sentence encoder in numpy, shared by the refusal and the toxicity judge.

A text becomes sub-words, these go through the first layers of a BERT, and the result is the mean of the last hidden
states. The architecture is that of Devlin et al. 2019 (post-norm layers, learnt positions) in the size of
MiniLM-L6-H384 (Wang et al. 2020). ``benchmarks/quantise_encoder.py`` quantises the weights: matrices to four bits with
a scale for each group of :data:`GROUP` inputs, the table of sub-words by product quantisation (Jégou et al. 2011).
numpy and safetensors are imported on first use.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADS: Final = 12
GROUP: Final = 32
MAX_TOKENS: Final = 128
_WEIGHTS: Final = Path(__file__).with_name("encoder.safetensors")
_EPSILON: Final = 1e-12
_PIECE = re.compile(r"[^\W_]+|[^\w\s]|_")
MATRICES: Final = ("query", "key", "value", "attended", "inner", "outer")
VECTORS: Final = (*(f"{name}_bias" for name in MATRICES), "norm1", "norm1_bias", "norm2", "norm2_bias")


def pack(weights: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Quantise a matrix [out, in] to four bits.

    Returns two four-bit numbers a byte [out, in / 2] and scales [out, in / GROUP]. The largest of a group becomes 7.
    """
    import numpy as np

    groups = weights.reshape(len(weights), -1, GROUP)
    scales = (np.abs(groups).max(2) / 7 + 1e-6).astype(np.float16)
    steps = np.clip(np.round(groups / scales[..., None].astype(np.float32)), -7, 7).astype(np.int8) + 8
    flat = steps.reshape(len(weights), -1).astype(np.uint8)
    return flat[:, ::2] | flat[:, 1::2] << 4, scales


def unpack(packed: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    """The inverse of :func:`pack`, up to rounding: [out, in]."""
    import numpy as np

    steps = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1).astype(np.float32) - 8
    return (steps.reshape(len(packed), -1, GROUP) * scales[..., None].astype(np.float32)).reshape(len(packed), -1)


@dataclass(frozen=True)
class Encoder:
    """The weights of the encoder.

    codes [vocabulary, parts] and codebooks [parts, 256, width / parts] stand for the table of sub-words. positions
    [MAX_TOKENS, width] include the token type.
    """

    vocabulary: Mapping[str, int]
    codes: NDArray[np.uint8]
    codebooks: NDArray[np.float32]
    positions: NDArray[np.float32]
    norm: tuple[NDArray[np.float32], NDArray[np.float32]]
    layers: tuple[Mapping[str, NDArray[np.float32]], ...]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Encoder:
        """The encoder from the named arrays of the weights' file."""
        import numpy as np

        def number(name: str) -> NDArray[np.float32]:
            return arrays[name].astype(np.float32)

        layers: list[Mapping[str, NDArray[np.float32]]] = []
        while f"layer{len(layers)}.query" in arrays:
            prefix = f"layer{len(layers)}."
            layer = {
                # [in, out] in memory: the product is a third faster than with a transposed view
                name: np.ascontiguousarray(
                    unpack(
                        arrays[prefix + name].astype(np.uint8), arrays[f"{prefix}{name}_scales"].astype(np.float16)
                    ).T
                )
                for name in MATRICES
            }
            layers.append(layer | {name: number(prefix + name) for name in VECTORS})
        tokens = arrays["vocabulary"].tobytes().decode("ascii").split("\n")
        return cls(
            vocabulary={token: index for index, token in enumerate(tokens)},
            codes=arrays["codes"].astype(np.uint8),
            codebooks=number("codebooks"),
            positions=number("positions"),
            norm=(number("norm"), number("norm_bias")),
            layers=tuple(layers),
        )

    def tokens(self, text: str) -> list[int]:
        """Ids of sub-words by greedy longest match, between [CLS] and [SEP]; at most :data:`MAX_TOKENS` in all.

        `text` must be in lower case.
        """
        plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        ids = [self.vocabulary["[CLS]"]]
        for word in _PIECE.findall(plain):
            ids += self._pieces(word)
            if len(ids) >= MAX_TOKENS - 1:
                break
        return [*ids[: MAX_TOKENS - 1], self.vocabulary["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        pieces: list[int] = []
        start = 0
        while start < len(word):
            end = min(len(word), start + 20)
            while end > start and ("##" if start else "") + word[start:end] not in self.vocabulary:
                end -= 1
            if end == start:
                return [self.vocabulary["[UNK]"]]
            pieces.append(self.vocabulary[("##" if start else "") + word[start:end]])
            start = end
        return pieces

    def __call__(self, text: str) -> NDArray[np.float32]:
        """The mean of the last hidden states over the tokens, [width]."""
        import numpy as np

        ids = self.tokens(text)
        parts = np.arange(self.codes.shape[1])
        embedded = self.codebooks[parts, self.codes[ids]].reshape(len(ids), -1)  # [tokens, width]
        hidden = _normalised(embedded + self.positions[: len(ids)], *self.norm)
        for layer in self.layers:
            hidden = _layer(hidden, layer)
        mean: NDArray[np.float32] = hidden.mean(0)
        return mean


@cache
def shipped_encoder() -> Encoder:
    """The encoder whose weights lie beside this file."""
    from safetensors.numpy import load_file

    return Encoder.from_arrays(load_file(_WEIGHTS))


def _normalised(x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    centred = x - x.mean(-1, keepdims=True)
    scaled: NDArray[np.float32] = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + _EPSILON)
    return scaled * weight + bias


def _layer(x: NDArray[np.float32], w: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    import numpy as np

    def heads(name: str) -> NDArray[np.float32]:  # [heads, tokens, width / heads]
        projected = x @ w[name] + w[f"{name}_bias"]
        return projected.reshape(len(x), HEADS, -1).transpose(1, 0, 2)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ value
    joined = mixed.transpose(1, 0, 2).reshape(len(x), -1)
    x = _normalised(x + joined @ w["attended"] + w["attended_bias"], w["norm1"], w["norm1_bias"])
    inner = x @ w["inner"] + w["inner_bias"]
    # the tanh form of GELU (Hendrycks and Gimpel 2016); numpy has no error function
    inner = 0.5 * inner * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner * inner * inner)))
    return _normalised(x + inner @ w["outer"] + w["outer_bias"], w["norm2"], w["norm2_bias"])
