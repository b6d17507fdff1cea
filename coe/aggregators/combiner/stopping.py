"""When another answer is worth asking for: an optimal stopping rule, learned from outcomes.

Experts are asked one after the other. After each answer a linear model of how the answers stand says what
going on gains: the chance of being right in the end, minus the price of the further answers, minus the chance
of being right now. It is fitted backwards from the last answer, each step against what the later rules come
to (least-squares Monte Carlo, Longstaff and Schwartz 2001). The price, in chances of being right, is the
least at which no more experts than wanted are asked on average. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from coe.aggregators.combiner.agreement import Standing
from coe.aggregators.combiner.tables import ABSENT, LOWEST_CHANCE, Floats, Table, log_odds
from coe.core.types import USUAL_QUALITY, Options

HIGHEST_PRICE = 0.2
WEIGHT = 0.02
"""What each 1.0 of a request's cost adds to the price, and what a quality of 1 takes off it."""
_HALVINGS = 20
_PENALTY = 10.0


@dataclass(frozen=True)
class Step:
    """After so many answers, on n known questions: how they stand, and the score of the answer then given."""

    features: Floats
    """(n, f) by :func:`standing_features`"""
    score: Floats
    """(n,)"""


@dataclass(frozen=True)
class Stopping:
    """``rules[t - 1]`` are the coefficients of what going on gains after ``t`` answers."""

    rules: tuple[Floats, ...]
    price: float

    @classmethod
    def fit(cls, steps: Sequence[Step], mean_experts: float) -> Self:
        """``steps[t - 1]`` is after t answers, the last one after all; at most ``mean_experts`` are asked on
        average, at least 1."""
        low, high = 0.0, HIGHEST_PRICE
        if _fitted(steps, low)[1] <= mean_experts:
            high = low
        for _ in range(_HALVINGS if high > low else 0):
            middle = (low + high) / 2
            low, high = (low, middle) if _fitted(steps, middle)[1] <= mean_experts else (middle, high)
        return cls(_fitted(steps, high)[0], high)

    def gain(self, answered: int, features: Floats) -> Floats:
        """(n,) what going on is worth after ``answered`` answers, net of its price; -inf where nothing was
        learned about that."""
        if not 1 <= answered <= len(self.rules):
            return np.full(len(features), -np.inf)
        return np.asarray(features @ self.rules[answered - 1])

    def state(self) -> dict[str, Any]:
        return {"rules": [rule.tolist() for rule in self.rules], "price": self.price}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError for what :meth:`state` did not give."""
        rules = tuple(np.asarray(rule, dtype=float) for rule in state["rules"])
        if any(rule.shape != (FEATURES,) for rule in rules):
            raise ValueError("the stopping rule has another number of features")
        return cls(rules, float(state["price"]))


def _fitted(steps: Sequence[Step], price: float) -> tuple[tuple[Floats, ...], float]:
    """The rules at this price, and how many experts they ask on average."""
    value, further = steps[-1].score, np.zeros(len(steps[-1].score))
    rules: list[Floats] = []
    for step in reversed(steps[:-1]):
        rule = _ridge(step.features, value - price - step.score)
        on = step.features @ rule > 0
        value = np.where(on, value - price, step.score)
        further = np.where(on, further + 1, 0.0)
        rules.append(rule)
    return tuple(reversed(rules)), 1.0 + float(further.mean())


def _ridge(features: Floats, target: Floats) -> Floats:
    """Least squares; all but the first coefficient, the constant's, are shrunk a little."""
    penalty = np.full(features.shape[1], _PENALTY)
    penalty[0] = 0.0
    return np.asarray(np.linalg.solve(features.T @ features + np.diag(penalty), features.T @ target))


def dearer(options: Options) -> float:
    """By how much a request's weights raise the price of another answer, in chances of being right."""
    return WEIGHT * ((options.cost or 0.0) - 2 * (options.weight_of_quality - USUAL_QUALITY))


FEATURES = 13


def standing_features(standing: Standing, table: Table, coming: Floats) -> Floats:
    """(n, FEATURES) how the answers of ``table`` stand; ``coming`` (n, r) are the chances of those who may be
    asked next, in order, NaN where there is none."""
    leader, runner_up = standing.score.T
    lead = leader - runner_up
    votes = (table.answers == standing.winner[:, None]) & (table.answers != ABSENT)
    given = (table.answers != ABSENT).sum(axis=1)
    if not coming.shape[1]:
        coming = np.full((len(table), 1), np.nan)
    odds = log_odds(np.where(np.isfinite(coming), coming, LOWEST_CHANCE))
    following, best = odds[:, 0], odds.max(axis=1)
    return np.column_stack([
        np.ones(len(table)), leader, leader**2, lead, lead**2, standing.share, votes.sum(axis=1), given,
        following, following * lead, best, table.plausible / 10.0, standing.share * following,
    ])  # fmt: skip
