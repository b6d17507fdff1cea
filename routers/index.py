"""Nearest vectors among many: pilot embeddings, or the cards of very many experts.

Exact search reads every vector, which is best up to some ten thousand. Beyond, an inverted file (IVF) reads
only the cells nearest to the query, each vector in 8 bits a number. ``python -m eval.bench.index`` measures
recall, time and memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from routers.encoder import Vectors

Ids = npt.NDArray[np.int64]

EXACT_UP_TO = 50_000
PROBES = 64
_TRAINING_ROWS_PER_CELL = 40
_TRAINING_ROUNDS = 8


@dataclass(frozen=True)
class Nearest:
    """Parallel and best first."""

    ids: Ids
    similarities: npt.NDArray[np.float32]
    """Cosines; to about 0.01 where the index is approximate."""


class Index(Protocol):
    """Unit vectors by id. Searches may run in many threads; changes need the index for themselves."""

    def add(self, ids: Sequence[int], rows: Vectors) -> None:
        """Add ``rows``, shape (len(ids), dimensions). Ids are the caller's, and new to the index."""
        ...

    def remove(self, ids: Sequence[int]) -> None:
        """Forget these ids; one that is not there is no error. Takes time with the size of the index."""
        ...

    def nearest(self, row: Vectors, count: int) -> Nearest:
        """The ``count`` vectors most alike to ``row``, shape (dimensions,); fewer when there are fewer."""
        ...

    def __len__(self) -> int: ...


def build_index(ids: Sequence[int], rows: Vectors) -> Index:
    """Exact for few rows, approximate for many (:data:`EXACT_UP_TO`)."""
    if len(rows) <= EXACT_UP_TO:
        return ExactIndex(ids, rows)
    return ApproximateIndex(ids, rows)


class _FaissIndex:
    """What both kinds share. ``self._index`` is made by the kind."""

    _index: Any

    def add(self, ids: Sequence[int], rows: Vectors) -> None:
        self._index.add_with_ids(np.ascontiguousarray(rows, np.float32), np.asarray(ids, np.int64))

    def remove(self, ids: Sequence[int]) -> None:
        self._index.remove_ids(np.asarray(ids, np.int64))

    def nearest(self, row: Vectors, count: int) -> Nearest:
        wanted = min(count, len(self))
        if wanted < 1:
            return Nearest(np.empty(0, np.int64), np.empty(0, np.float32))
        similarities, ids = self._index.search(np.ascontiguousarray(row[None], np.float32), wanted)
        found = ids[0] >= 0  # faiss fills up with -1
        return Nearest(ids[0][found], similarities[0][found])

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def size_bytes(self) -> int:
        """Memory of the whole index, ids and cells included; found by writing it out, so not quick."""
        import faiss

        return int(faiss.serialize_index(self._index).nbytes)


class ExactIndex(_FaissIndex):
    """Compares with every vector: 4 bytes a number, a millisecond for 10,000 vectors."""

    def __init__(self, ids: Sequence[int], rows: Vectors) -> None:
        import faiss

        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(rows.shape[1]))
        self.add(ids, rows)


class ApproximateIndex(_FaissIndex):
    """Compares with the vectors of the ``probes`` cells nearest to the query: 1 byte a number.

    The cells are learned from the first rows given (k-means on a sample); rows added later join the cell
    they are nearest to. ``cells`` grows with the root of the number of rows unless given.
    """

    def __init__(
        self,
        ids: Sequence[int],
        rows: Vectors,
        *,
        cells: int | None = None,
        probes: int = PROBES,
        seed: int = 0,
    ) -> None:
        import faiss

        width = rows.shape[1]
        cells = cells or max(1, 2 * math.isqrt(len(rows)))
        quantiser = faiss.IndexFlatIP(width)
        self._index = faiss.IndexIVFScalarQuantizer(
            quantiser, width, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        self._index.cp.niter = _TRAINING_ROUNDS
        self._index.cp.seed = seed
        self._index.nprobe = min(probes, cells)
        draw = np.random.default_rng(seed)
        sample = draw.choice(len(rows), min(len(rows), cells * _TRAINING_ROWS_PER_CELL), replace=False)
        self._index.train(np.ascontiguousarray(rows[sample], np.float32))
        self.add(ids, rows)
