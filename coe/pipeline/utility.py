"""From a router's estimates to the experts that are asked: quality against cost and waiting.

    utility = quality * P(right) - cost * price - waiting

``price`` is relative to the dearest expert of the ranking (1), an unknown price counting as the dearest;
``waiting`` is the expected wait as a share of the client's patience. All pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coe.core.types import Decision, ExpertId, ExpertView, Ranked


@dataclass(frozen=True)
class Preferences:
    """What a request says of quality, cost and time: weights, and seconds."""

    quality: float = 1.0
    cost: float = 0.0
    patience_s: float | None = None


def weighed(
    decision: Decision,
    experts: Sequence[ExpertView],
    preferences: Preferences,
    waits_s: Mapping[ExpertId, float],
) -> Decision:
    """The decision with the experts of highest utility, as many as were chosen.

    The ranking stays by probability. Where neither cost nor a wait counts the router's own choice stands.
    ``waits_s`` are expected waits; an expert without one does not wait.
    """
    hurried = preferences.patience_s is not None and any(waits_s.values())
    if not preferences.cost and not hurried:
        return decision
    count = len(decision.chosen)
    utilities = _utilities(decision.ranking, experts, preferences, waits_s)
    order = sorted(decision.ranking, key=lambda ranked: -utilities[ranked.expert])
    chosen = tuple(ranked.expert for ranked in order[:count])
    if chosen == decision.chosen:
        return decision
    best = order[0]
    reason = f"{best.expert} by cost and wait (utility {utilities[best.expert]:+.2f}); {decision.reason}"
    return replace(decision, chosen=chosen, confidence=best.probability, reason=reason)


def _utilities(
    ranking: Sequence[Ranked],
    experts: Sequence[ExpertView],
    preferences: Preferences,
    waits_s: Mapping[ExpertId, float],
) -> dict[ExpertId, float]:
    prices = relative_prices([view for view in experts if any(r.expert == view.id for r in ranking)])
    return {
        ranked.expert: preferences.quality * ranked.probability
        - preferences.cost * prices[ranked.expert]
        - _waiting(waits_s.get(ranked.expert, 0.0), preferences.patience_s)
        for ranked in ranking
    }


def relative_prices(experts: Sequence[ExpertView]) -> dict[ExpertId, float]:
    """List price of an output token over that of the dearest expert; 1 where it is unknown."""
    known = {view.id: view.usd_per_mtok_out for view in experts}
    dearest = max((price for price in known.values() if price is not None), default=0.0)
    return {
        expert: 1.0 if price is None else (price / dearest if dearest else 0.0)
        for expert, price in known.items()
    }


def _waiting(wait_s: float, patience_s: float | None) -> float:
    """A wait as long as the patience is worth a certain wrong answer."""
    if patience_s is None:
        return 0.0
    return wait_s / patience_s if patience_s > 0 else float(wait_s > 0)
