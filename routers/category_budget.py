"""CoE's category-to-expert map by an exact integer programme (arXiv 2412.01868).

maximise    sum over categories c, experts m of  share_c * score_cm * z_cm
subject to  each category has one expert, and only experts that are hosted:  z_cm <= u_m
            sum of u_m * parameters_m                  <= total parameters
            sum of share_c * z_cm * active_m           <= average active parameters
            sum of share_c * z_cm * price_m            <= average price
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coe.core.errors import ConfigError

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
