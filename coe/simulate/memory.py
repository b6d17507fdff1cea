"""The RAM of a node: which experts' weights are in it, and when a read from disk is done."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict

from coe.core.types import ExpertId
from coe.simulate.cluster import Cluster


class Ram:
    """Weights read from disk stay until the room is needed; least recently used ones go first, but not those
    that the scheduler keeps there (asleep at level 1, or read ahead). What finds no room passes through.

    Experts that fit at the start are there at the start. Reads do not slow each other down.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._there_at: OrderedDict[ExpertId, float] = OrderedDict(
            (expert, -math.inf) for expert in cluster.in_ram_at_start()
        )
        self._kept: Counter[ExpertId] = Counter()
        self._held_gb = sum(map(self._gb, self._there_at))
        self.peak_gb = self._held_gb

    def read(self, expert: ExpertId, now: float) -> float:
        """Seconds until the expert's weights are in RAM; starts the read where needed."""
        if expert not in self._there_at:
            self._there_at[expert] = now + self._cluster.disk_s(expert)
            self._held_gb += self._gb(expert)
        self._there_at.move_to_end(expert)
        seconds = max(0.0, self._there_at[expert] - now)
        self._drop_oldest()
        return seconds

    def prefetch(self, expert: ExpertId, now: float) -> float:
        """As :meth:`read`, and keep them."""
        self._kept[expert] += 1
        return self.read(expert, now)

    def keep(self, expert: ExpertId, now: float) -> None:
        """Its weights are there and stay until they are let go as often as they were kept."""
        self._kept[expert] += 1
        if expert not in self._there_at:
            self._there_at[expert] = now
            self._held_gb += self._gb(expert)
        self._drop_oldest()

    def let_go(self, expert: ExpertId) -> None:
        """The room may be used for others."""
        self._kept[expert] -= 1

    def _gb(self, expert: ExpertId) -> float:
        return self._cluster.experts[expert].size.weights_gb

    def _drop_oldest(self) -> None:
        if self._held_gb > self._cluster.preset.ram_gb:
            for expert in [e for e in self._there_at if self._kept[e] <= 0]:
                del self._there_at[expert]
                self._held_gb -= self._gb(expert)
                if self._held_gb <= self._cluster.preset.ram_gb:
                    break
        self.peak_gb = max(self.peak_gb, self._held_gb)
