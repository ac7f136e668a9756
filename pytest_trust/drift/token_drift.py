"""The divergences of one response's tokens, as the store keeps them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from pytest_trust.drift.kernels.divergence import TokenDivergences

    Floats = NDArray[numpy.float32]

__all__ = ["TokenDrift"]

_FLOAT_COLUMNS = ("kl_pq", "kl_qp", "js", "total_variation", "entropy_p", "entropy_q", "p_label", "q_label")
_MASK_COLUMNS = ("masked_p", "masked_q", "tail")  # absent where all ids are shared and all probabilities are known
_RANK_COLUMNS = ("rank_p", "rank_q")
_MAGIC = b"trust-drift\x01"


@dataclass(frozen=True, slots=True, eq=False)
class TokenDrift:
    """Divergences of p and q at the counted tokens of one response; every array has one entry a token."""

    probe: str
    """Id of the probe."""
    cluster: str
    """Cluster of the probe; the errors of the statistics are clustered by it."""
    suite: str
    """Suite of the probe."""
    p: str
    """What p is: ``candidate`` or ``baseline`` in an audit."""
    q: str
    """What q is."""
    kl_pq: Floats
    """KL(p || q), nats."""
    kl_qp: Floats
    """KL(q || p), nats."""
    js: Floats
    """Jensen-Shannon divergence, nats, at most log 2."""
    total_variation: Floats
    """Total variation, 0 to 1."""
    entropy_p: Floats
    """Entropy of p, nats."""
    entropy_q: Floats
    """Entropy of q, nats."""
    same_top: NDArray[numpy.bool_]
    """Whether both have the same most likely token."""
    p_label: Floats
    """Probability under p of the token that follows."""
    q_label: Floats
    """Probability under q of the token that follows."""
    rank_p: NDArray[numpy.int32]
    """Rank of that token under p; 1 is the most likely."""
    rank_q: NDArray[numpy.int32]
    """Rank of that token under q."""
    masked_p: Floats | None = None
    """Mass of p on ids that q does not have; None where all are shared."""
    masked_q: Floats | None = None
    """Mass of q on ids that p does not have."""
    tail: Floats | None = None
    """Mass beyond the known tokens of a side of which only the top k are known. Divergences are then lower bounds."""
    answer_start: int = 0
    """Index of the first token of the answer, after the reasoning; the number of tokens when there is no answer."""
    masked_tokens: int = 0
    """Tokens of the response that are not counted here (template, think markers)."""
    sample: int = 0
    """Which sample of the probe."""
    windowed: bool = False
    """Whether a side read the response in overlapping windows, because it is longer than the side's context."""

    def __len__(self) -> int:
        """Number of counted tokens."""
        return len(self.kl_pq)

    @property
    def delta_p(self) -> Floats:
        """``p_label - q_label`` per token."""
        return self.p_label - self.q_label

    @classmethod
    def of(
        cls,
        divergences: TokenDivergences,
        *,
        probe: str,
        cluster: str,
        suite: str = "",
        p: str = "candidate",
        q: str = "baseline",
        answer_start: int = 0,
        masked_tokens: int = 0,
        sample: int = 0,
        windowed: bool = False,
    ) -> TokenDrift:
        """From the divergences of one response's tokens, computed with labels and Jensen-Shannon.

        Raises:
            InvalidInput: the label fields or ``js`` are missing.
        """
        columns: dict[str, Any] = {}
        for name in (*_FLOAT_COLUMNS, *_MASK_COLUMNS, *_RANK_COLUMNS, "same_top"):
            tensor = getattr(divergences, name)
            if tensor is None and name not in _MASK_COLUMNS:
                raise InvalidInput(f"divergences without {name}; expected them computed with labels and Jensen-Shannon")
            columns[name] = None if tensor is None else tensor.reshape(-1).cpu().numpy().copy()
        return cls(
            probe=probe,
            cluster=cluster,
            suite=suite,
            p=p,
            q=q,
            answer_start=answer_start,
            masked_tokens=masked_tokens,
            sample=sample,
            windowed=windowed,
            **columns,
        )

    @classmethod
    def joined(cls, parts: Sequence[TokenDrift], *, cluster: str, masked_tokens: int = 0) -> TokenDrift:
        """The pieces of one text joined in order, with the names of the first piece."""
        import numpy

        columns: dict[str, Any] = {}
        for name in (*_FLOAT_COLUMNS, *_MASK_COLUMNS, *_RANK_COLUMNS, "same_top"):
            values = [getattr(part, name) for part in parts]
            columns[name] = None if values[0] is None else numpy.concatenate(values)
        return replace(parts[0], cluster=cluster, masked_tokens=masked_tokens, **columns)

    def to_bytes(self) -> bytes:
        """A JSON header and the compressed columns: lossless, about 40 bytes a token, no pickle."""
        import numpy

        present = [name for name in (*_FLOAT_COLUMNS, *_MASK_COLUMNS) if getattr(self, name) is not None]
        names = ("probe", "cluster", "suite", "p", "q", "answer_start", "masked_tokens", "sample", "windowed")
        header = {name: getattr(self, name) for name in names} | {"tokens": len(self), "columns": present}
        head = json.dumps(header, sort_keys=True).encode()
        body = [numpy.asarray(getattr(self, name), dtype="<f4").tobytes() for name in present]
        body += [numpy.asarray(getattr(self, name), dtype="<i4").tobytes() for name in _RANK_COLUMNS]
        body.append(numpy.packbits(numpy.asarray(self.same_top, dtype=bool)).tobytes())
        return _MAGIC + struct.pack("<I", len(head)) + head + zlib.compress(b"".join(body), 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> TokenDrift:
        """The inverse of `to_bytes`; executes nothing and never inflates past the announced size.

        Raises:
            InvalidInput: the data is damaged, truncated, or of a format that this version does not know.
        """
        try:
            return cls._parse(data)
        except (ValueError, KeyError, TypeError, AttributeError, struct.error, zlib.error) as error:
            raise InvalidInput(f"stored drift cannot be read ({error}); delete that entry and run again") from error

    @classmethod
    def _parse(cls, data: bytes) -> TokenDrift:
        import numpy

        if data[: len(_MAGIC)] != _MAGIC:
            raise ValueError("unknown format")
        start = len(_MAGIC) + 4
        (length,) = struct.unpack("<I", data[start - 4 : start])
        header = json.loads(data[start : start + length])
        tokens, present = header.pop("tokens"), header.pop("columns")
        if not (isinstance(tokens, int) and tokens >= 0) or not set(present) <= {
            *_FLOAT_COLUMNS,
            *_MASK_COLUMNS,
        }:
            raise ValueError("impossible header")
        size = 4 * tokens * (len(present) + len(_RANK_COLUMNS)) + (tokens + 7) // 8
        inflate = zlib.decompressobj()
        body = inflate.decompress(data[start + length :], size + 1)
        if len(body) != size or not inflate.eof:
            raise ValueError("wrong size")
        columns: dict[str, Any] = {}
        at = 0
        for name, kind in [(name, "<f4") for name in present] + [(name, "<i4") for name in _RANK_COLUMNS]:
            native = numpy.dtype(kind).newbyteorder("=")
            columns[name] = numpy.frombuffer(body, dtype=kind, count=tokens, offset=at).astype(native)
            at += 4 * tokens
        packed = numpy.frombuffer(body, dtype=numpy.uint8, offset=at)
        columns["same_top"] = numpy.unpackbits(packed, count=tokens).astype(bool)
        return cls(**header, **columns)
