"""From a router's estimates to the experts that are asked: quality against cost and waiting.

    utility = quality * P(right) - cost * price - waiting      (quality: 1 at the usual weight)

``price`` is relative to the dearest expert of the ranking (1), an unknown price counting as the dearest;
``waiting`` is the expected wait as a share of the client's patience. All pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from coe.core.decision import decide, generals
from coe.core.types import Decision, ExpertId, ExpertView, Ranked, Rule, Why


@dataclass(frozen=True)
class Preferences:
    """What a request says of quality, cost and time: weights, and seconds."""

    quality: float = 1.0
    cost: float = 0.0
    patience_s: float | None = None
    min_probability: float = 0.0
    """of an expert that a wish may choose, as a share of the likeliest one's"""


def weighed(
    decision: Decision,
    experts: Sequence[ExpertView],
    preferences: Preferences,
    waits_s: Mapping[ExpertId, float],
) -> Decision:
    """The decision with the experts of highest utility, as many as were chosen, of those that it allows.

    The ranking stays by probability. The router's own choice counts as likely as the best one, as that is
    what it was chosen as (a general expert where it was unsure). Where neither cost nor a wait counts it
    stands, and so it does where it goes by no probability. No wish makes up for an expert that cannot answer:
    one below ``min_probability`` is not considered unless it is general or the router's choice. ``waits_s``
    are expected waits; an expert without one does not wait.
    """
    hurried = preferences.patience_s is not None and any(waits_s.values())
    if not preferences.cost and not hurried:
        return decision
    rule = decision.rule or Rule(count=len(decision.chosen))
    if rule.fixed:
        return replace(decision, reason=f"{decision.reason}; cost and waiting do not count with this router")
    floor = preferences.min_probability * decision.ranking[0].probability
    able = {each.expert for each in decision.ranking if each.probability >= floor}
    able |= {*decision.chosen, *generals(experts)}
    allowed = [each for each in decision.ranking if rule.among is None or each.expert in rule.among]
    considered = [each for each in allowed if each.expert in able]
    utilities = _utilities(decision, considered, experts, preferences, waits_s)
    unhurried = _utilities(decision, considered, experts, preferences, {})
    prefers = partial(_by_utility, utilities, decision.expert)
    best = prefers(allowed)[0]
    why: Why = "cost" if best == _by_utility(unhurried, decision.expert, allowed)[0] else "patience"
    phrase = f"{best} by cost and wait (utility {utilities[best]:+.2f})"
    wish = replace(rule, unsure_below=0.0, prefers=prefers, why=why, phrase=phrase)
    because = decision.because or decision.reason
    found = decide(decision.router, decision.ranking, because, wish, decision.category)
    if found.chosen == decision.chosen:
        # A decision without substitutes has none that a wish could order.
        return replace(decision, substitutes=found.substitutes if decision.substitutes else ())
    # Also where it is the likeliest: the router itself chose another.
    return replace(found, why=why, reason=f"{phrase}; {because}")


def _by_utility(
    utilities: Mapping[ExpertId, float], chosen: ExpertId, ranking: Sequence[Ranked]
) -> tuple[ExpertId, ...]:
    """Of equal ones the router's choice first, then the likelier one; those not considered come last."""

    def place(expert: ExpertId) -> tuple[float, bool]:
        return -utilities.get(expert, -math.inf), expert != chosen

    return tuple(sorted((each.expert for each in ranking), key=place))


def _utilities(
    decision: Decision,
    allowed: Sequence[Ranked],
    experts: Sequence[ExpertView],
    preferences: Preferences,
    waits_s: Mapping[ExpertId, float],
) -> dict[ExpertId, float]:
    chances = {each.expert: each.probability for each in allowed}
    chances[decision.expert] = max(chances.values())
    ranked = {each.expert for each in decision.ranking}
    prices = relative_prices([view for view in experts if view.id in ranked])
    return {
        expert: preferences.quality * chance
        - preferences.cost * prices[expert]
        - _waiting(waits_s.get(expert, 0.0), preferences.patience_s)
        for expert, chance in chances.items()
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
