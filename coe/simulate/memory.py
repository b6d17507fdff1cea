"""The RAM of a node: which experts' weights are in it, and when a read from disk is done."""

from __future__ import annotations

import math
from collections import OrderedDict

from coe.simulate.cluster import Cluster
from coe.types import ExpertId


class Ram:
    """Weights read from disk stay until the room is needed; least recently used ones go first.

    Experts that fit at the start are there at the start. Reads do not slow each other down.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._there_at: OrderedDict[ExpertId, float] = OrderedDict(
            (expert, -math.inf) for expert in cluster.in_ram_at_start()
        )
        self._held_gb = sum(cluster.experts[expert].size.weights_gb for expert in self._there_at)

    def read(self, expert: ExpertId, now: float) -> float:
        """Seconds until the expert's weights are in RAM; starts the read where needed."""
        if expert not in self._there_at:
            self._there_at[expert] = now + self._cluster.disk_s(expert)
            self._held_gb += self._cluster.experts[expert].size.weights_gb
        self._there_at.move_to_end(expert)
        self._drop_oldest()
        return max(0.0, self._there_at[expert] - now)

    def _drop_oldest(self) -> None:
        while self._held_gb > self._cluster.preset.ram_gb and len(self._there_at) > 1:
            dropped, _ = self._there_at.popitem(last=False)
            self._held_gb -= self._cluster.experts[dropped].size.weights_gb
