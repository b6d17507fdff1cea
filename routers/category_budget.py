"""CoE's category-to-expert map by an exact integer programme (arXiv 2412.01868).

maximise    sum over categories c, experts m of  share_c * score_cm * z_cm
subject to  each category has one expert, and only experts that are hosted:  z_cm <= u_m
            sum of u_m * parameters_m                  <= total parameters
            sum of share_c * z_cm * active_m           <= average active parameters
            sum of share_c * z_cm * price_m            <= average price
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coe.core.errors import ConfigError

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
    categories, experts = scores.shape
    hosted_at = categories * experts
    value = np.concatenate([(shares[:, None] * scores).ravel(), np.zeros(experts)])
    value[hosted_at:] -= 1e-9 * np.arange(experts)
    found = _solve(value, _constraints(shares, sizes, budget, categories, experts), hosted_at)
    chosen: npt.NDArray[np.intp] = found[:hosted_at].reshape(categories, experts).argmax(axis=1)
    return chosen


@dataclass(frozen=True)
class _Rows:
    """lower <= matrix @ variables <= upper."""

    matrix: Floats
    lower: Floats
    upper: Floats


def _constraints(shares: Floats, sizes: Sizes, budget: Budget, categories: int, experts: int) -> list[_Rows]:
    width = categories * experts + experts
    one_each = np.zeros((categories, width))
    hosted = np.zeros((categories * experts, width))
    for c in range(categories):
        one_each[c, c * experts : (c + 1) * experts] = 1.0
    hosted[:, : categories * experts] = np.eye(categories * experts)
    hosted[:, categories * experts :] = -np.tile(np.eye(experts), (categories, 1))
    rows = [
        _Rows(one_each, np.ones(categories), np.ones(categories)),
        _Rows(hosted, np.full(len(hosted), -np.inf), np.zeros(len(hosted))),
    ]
    unused = np.zeros(categories * experts)
    bounds = (
        (budget.total_parameters, np.concatenate([unused, _large(sizes.parameters)])),
        (budget.average_active, _on_average(shares, sizes.active)),
        (budget.average_price, _on_average(shares, sizes.price)),
    )
    return rows + [
        _Rows(taken[None, :], np.array([-np.inf]), np.array([limit]))
        for limit, taken in bounds
        if limit is not None
    ]


def _on_average(shares: Floats, each: Floats) -> Floats:
    taken = (shares[:, None] * _large(each)[None, :]).ravel()
    return np.concatenate([taken, np.zeros(len(each))])


def _large(sizes: Floats) -> Floats:
    """An expert of unknown size could be any size: it fits no budget."""
    filled: Floats = np.where(np.isfinite(sizes), sizes, 1e9)
    return filled


def _solve(value: Floats, rows: list[_Rows], binaries: int) -> Floats:
    from scipy.optimize import Bounds, LinearConstraint, milp

    found = milp(
        c=-value,
        constraints=[LinearConstraint(row.matrix, row.lower, row.upper) for row in rows],
        integrality=np.ones(len(value)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise ConfigError(
            "no map from categories to experts keeps the budget",
            hint="Raise the budget, or give the experts' parameters_b and price in experts.yaml.",
        )
    solution: Floats = np.round(found.x)
    return solution[: len(value)] if binaries else solution
