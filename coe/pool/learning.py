"""What the scheduler learns from what it sees: what moves and runs cost, and how often experts are wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEARNING_RATE = 0.2
"""Weight of the newest observation in a moving mean."""
FADING = 0.999
"""What is left of an extreme at the next observation."""
RATE_HORIZON_S = 60.0
"""How far back arrivals count in a rate; older ones fade."""


@dataclass(slots=True)
class MovingMean:
    """Follows the first observation at once, later ones slowly."""

    value: float
    seen: bool = False

    def add(self, observation: float) -> None:
        rate = LEARNING_RATE if self.seen else 1.0
        self.value += rate * (observation - self.value)
        self.seen = True


@dataclass(slots=True)
class Longest:
    """The longest run and the longest swap (sleep and load) of late; old extremes fade."""

    run_s: float = 1.0
    load_s: float = 0.0
    sleep_s: float = 0.0

    @property
    def swap_s(self) -> float:
        return self.load_s + self.sleep_s

    def ran(self, seconds: float) -> None:
        self.run_s = max(seconds, self.run_s * FADING)

    def loaded(self, seconds: float) -> None:
        self.load_s = max(seconds, self.load_s * FADING)

    def slept(self, seconds: float) -> None:
        self.sleep_s = max(seconds, self.sleep_s * FADING)


@dataclass(slots=True)
class Rate:
    """Arrivals a second, of the last ``RATE_HORIZON_S`` or so."""

    count: float = 0.0
    counted_at: float = 0.0

    def add(self, now: float) -> None:
        self.count = self._faded(now) + 1.0
        self.counted_at = now

    def at(self, now: float) -> float:
        return self._faded(now) / RATE_HORIZON_S

    def _faded(self, now: float) -> float:
        return self.count * math.exp((self.counted_at - now) / RATE_HORIZON_S) if self.count else 0.0
