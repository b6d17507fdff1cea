"""CoE's category-to-expert map by an exact integer programme (arXiv 2412.01868).

maximise    sum over categories c, experts m of  share_c * score_cm * z_cm
subject to  each category has one expert, and only experts that are hosted:  z_cm <= u_m
            sum of u_m * parameters_m                  <= total parameters
            sum of share_c * z_cm * active_m           <= average active parameters
            sum of share_c * z_cm * price_m            <= average price
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from coe.core.decision import before_all
from coe.core.errors import ConfigError, RoutingError
from coe.core.types import ExpertId, ExpertView, Rule
from coe.routers.per_pool import PerPool

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """Upper bounds of a map; None does not bind. Billions of parameters; any unit of price."""

    total_parameters: float | None = None
    average_active: float | None = None
    average_price: float | None = None


@dataclass(frozen=True)
class Sizes:
    """What experts take, (m,) each; NaN where unknown, which fits no budget."""

    parameters: Floats
    active: Floats
    price: Floats


@dataclass(frozen=True)
class BudgetMap:
    """Who is asked about each category, and who may be asked in whose place."""

    experts: tuple[ExpertId, ...]
    """of each category"""
    allowed: tuple[frozenset[ExpertId], ...]
    """of each category: hosted, and no dearer on average than the map's expert"""
    alone: bool
    """a budget is of one question's average, so that one expert answers"""

    def rule(self, rule: Rule, category: int) -> Rule:
        """``rule`` within the budget, for a question of the category in this place."""
        return replace(
            rule,
            among=self.allowed[category],
            alone=self.alone,
            prefers=partial(before_all, (self.experts[category],)),
            why="budget",
            phrase="the category is {expert}'s within the budget",
        )


def budget_map(scores: Floats, shares: Floats, experts: Sequence[ExpertView], budget: Budget) -> BudgetMap:
    """The best map of ``experts``, see :func:`best_map`."""
    sizes = _sizes(experts)
    places = best_map(scores, shares, sizes, budget)
    ids, hosted = [view.id for view in experts], np.unique(places)
    bounded = [
        _large(each)
        for each, limit in ((sizes.active, budget.average_active), (sizes.price, budget.average_price))
        if limit is not None
    ]
    allowed = (
        frozenset(ids[other] for other in hosted if all(each[other] <= each[own] for each in bounded))
        for own in places
    )
    return BudgetMap(tuple(ids[place] for place in places), tuple(allowed), bool(bounded))


def require_a_map(counts: Sequence[int], experts: Sequence[ExpertView], budget: Budget) -> None:
    """Raises ConfigError where no map of categories that come this often keeps ``budget``."""
    shares = np.asarray(counts) / sum(counts)
    budget_map(np.zeros((len(shares), len(experts))), shares, experts, budget)


T = TypeVar("T")


def kept(maps: PerPool[T], experts: Sequence[ExpertView], make: Callable[[tuple[ExpertView, ...]], T]) -> T:
    """What ``maps`` has of ``experts``. Raises RoutingError where fewer are here than the budget was checked
    with and no map keeps it."""
    try:
        return maps.of(experts, make)
    except ConfigError as error:
        raise RoutingError(error.message, hint=error.hint) from error


def _sizes(experts: Sequence[ExpertView]) -> Sizes:
    def numbers(*values: float | None) -> Floats:
        return np.asarray([np.nan if value is None else value for value in values])

    return Sizes(
        parameters=numbers(*(view.parameters_b for view in experts)),
        active=numbers(*(view.active_b or view.parameters_b for view in experts)),
        price=numbers(*(view.usd_per_mtok_out for view in experts)),
    )


def best_map(scores: Floats, shares: Floats, sizes: Sizes, budget: Budget) -> npt.NDArray[np.intp]:
    """(c,) the expert of each category. ``scores`` (c, m) in 0..1, ``shares`` (c,) of the traffic, sum 1.

    Of equal maps the one with the earlier experts. Raises ConfigError when no map keeps the budget.
    """
    if budget == Budget():
        free: npt.NDArray[np.intp] = scores.argmax(axis=1)
        return free
    from scipy.optimize import Bounds, LinearConstraint, milp

    categories, experts = scores.shape
    # The variables: z row by row, then u.
    value = np.concatenate([(shares[:, None] * scores).ravel(), -1e-9 * np.arange(experts)])
    one_each = np.kron(np.eye(categories), np.ones(experts))
    no_host = np.zeros((categories, experts))
    hosted = np.hstack([np.eye(categories * experts), -np.tile(np.eye(experts), (categories, 1))])
    constraints = [
        LinearConstraint(np.hstack([one_each, no_host]), 1, 1),
        LinearConstraint(hosted, -np.inf, 0),
    ]
    constraints += _bounds(shares, sizes, budget)
    found = milp(
        -value, constraints=constraints, integrality=1, bounds=Bounds(0, 1), options={"mip_rel_gap": 0}
    )
    if found.x is None:
        raise ConfigError(
            "no map from categories to experts keeps the budget",
            hint="Raise the budget, or give the experts' parameters_b and price in experts.yaml.",
        )
    z = np.round(found.x[: categories * experts]).reshape(categories, experts)
    chosen: npt.NDArray[np.intp] = z.argmax(axis=1)
    return chosen


def _bounds(shares: Floats, sizes: Sizes, budget: Budget) -> list[LinearConstraint]:
    from scipy.optimize import LinearConstraint

    def on_average(each: Floats) -> Floats:
        return np.concatenate([np.outer(shares, _large(each)).ravel(), np.zeros(len(each))])

    hosted = np.concatenate([np.zeros(len(shares) * len(sizes.parameters)), _large(sizes.parameters)])
    bounds = (
        (budget.total_parameters, hosted),
        (budget.average_active, on_average(sizes.active)),
        (budget.average_price, on_average(sizes.price)),
    )
    return [LinearConstraint(taken, -np.inf, limit) for limit, taken in bounds if limit is not None]


def _large(sizes: Floats) -> Floats:
    """An expert of unknown size could be any size: it fits no budget."""
    filled: Floats = np.where(np.isfinite(sizes), sizes, 1e9)
    return filled
