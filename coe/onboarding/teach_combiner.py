"""Teaching the aggregator ``learned`` of a registry from recorded answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coe.aggregators.combiner.fitted import FittedCombiner
from coe.core.errors import ConfigError
from coe.core.types import ExpertId
from coe.onboarding.gate import default_spec, estimator_builder
from coe.outcomes.combiner_fits import InStages, Learned, available_top
from coe.outcomes.combiner_tables import Lessons
from coe.profiles.names import name_among
from coe.profiles.outcomes import Recorded
from coe.profiles.store import combiner_file
from coe.registry.schema import Registry

USUAL_LIMIT = 5
"""Experts that answer a question at most, where no aggregator of the registry says more than one."""


@dataclass(frozen=True)
class Taught:
    """``price`` of another answer in chances of being right; None where only fixed numbers can be asked."""

    path: Path
    experts: tuple[ExpertId, ...]
    questions: int
    limit: int
    price: float | None


def teach_registry(registry: Registry, root: Path, data: Recorded, mean_experts: float) -> Taught:
    """Fit the combiner and its stopping rule to the answers of the registry's experts in ``data``, with what
    the default router's method estimates for each question without it. Writes it next to the profiles.

    Raises ConfigError where fewer than two experts have answers, or where none of them is right.
    """
    named = {e.id: name for e in registry.routed if (name := name_among(e, data.outcomes.experts))}
    if data.outcomes.answers is None or len(named) < 2:
        raise ConfigError(
            f"{data.outcomes.name} has answers of {len(named)} experts of the registry; two are needed"
            if data.outcomes.answers is not None
            else f"{data.outcomes.name} records no answers, only scores",
            hint="The set's outcomes.parquet needs a column answer, and its experts must be the registry's.",
        )
    experts = list(named.values())
    columns = [data.outcomes.experts.index(name) for name in experts]
    rows = np.flatnonzero(np.isfinite(data.outcomes.scores[:, columns]).any(axis=1))
    outcomes, evidence = data.outcomes.rows(rows).pool(experts), data.evidence(experts).rows(rows)
    estimates = np.asarray(estimator_builder(default_spec(registry))().fit(evidence).cross_fitted_, float)
    limit = min(_limit(registry), len(experts))
    lessons = Lessons(outcomes, estimates, available_top(estimates, outcomes.scores, limit))
    fitted = InStages(mean_experts).fit(lessons).fitted_ or Learned().fit(lessons).fitted_
    if fitted is None:
        raise ConfigError(f"no expert of the registry answered any question of {outcomes.name} correctly")
    path = combiner_file(registry, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    FittedCombiner(replace(fitted.combiner, experts_=tuple(named)), fitted.stopping).save(path)
    price = None if fitted.stopping is None else fitted.stopping.price
    return Taught(path, tuple(named), len(rows), limit, price)


def _limit(registry: Registry) -> int:
    specs = [spec for spec in (registry.aggregator, *registry.aggregators) if spec.kind == "learned"]
    return max((spec.proposers for spec in specs if spec.proposers > 1), default=USUAL_LIMIT)
