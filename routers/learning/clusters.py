"""Groups of like questions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coe.routers.encoders.encoder import Vectors, unit

_ROUNDS = 8


def clusters(vectors: Vectors, count: int) -> npt.NDArray[np.intp]:
    """Spherical k-means with a fixed start: the same vectors give the same groups."""
    centres = vectors[np.random.default_rng(0).permutation(len(vectors))[:count]]
    for _ in range(_ROUNDS):
        nearest = (vectors @ centres.T).argmax(axis=1)
        sums = np.stack([vectors[nearest == i].sum(axis=0) for i in range(len(centres))])
        centres = np.stack(
            [unit(total) if total.any() else old for total, old in zip(sums, centres, strict=True)]
        )
    closest: npt.NDArray[np.intp] = (vectors @ centres.T).argmax(axis=1)
    return closest


def groups(vectors: Vectors, labels: npt.NDArray[np.object_], size: int) -> npt.NDArray[np.intp]:
    """(n,) the group of each row: about ``size`` like rows that share a label."""
    found, made = np.zeros(len(vectors), dtype=np.intp), 0
    for label in sorted(set(labels)):
        rows = np.flatnonzero(labels == label)
        parts = clusters(vectors[rows], max(1, len(rows) // size))
        found[rows] = made + np.unique(parts, return_inverse=True)[1]
        made = int(found[rows].max()) + 1
    return found
