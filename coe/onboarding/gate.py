"""The gate of a newcomer: what would it change, and whom would it harm?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coe.core.types import ExpertId
from coe.onboarding.protocol import GateReport
from coe.outcomes.statistics import Z95
from coe.profiles.evidence import encoder_of, evidence_of, stale
from coe.profiles.gate import Bounds, Comparison, EstimatorBuilder, compare
from coe.profiles.store import ProfileStore, open_store
from coe.registry.schema import Registry, RouterSpec
from coe.routers import ESTIMATORS, estimator_class

_PREFERRED = ("blend", "linear", "knn")
"""Which estimator judges where the registry's default router learns nothing."""


class ProfileGate:
    """The :class:`coe.onboarding.protocol.Gate` over the profiles of a registry whose file stands in
    ``root``."""

    def __init__(self, root: Path, bounds: Bounds | None = None) -> None:
        self._root, self._bounds = root, bounds or Bounds()

    def check(self, registry: Registry, expert: ExpertId) -> GateReport:
        store = open_store(registry, self._root)
        comparison = self.compare(registry, store, expert)
        if comparison is None:
            why = _why_unchecked(store, registry, expert)
            return GateReport(True, (f"{expert} was admitted unchecked: {why}",))
        return GateReport(not comparison.faults, report_lines(comparison))

    def compare(self, registry: Registry, store: ProfileStore, expert: ExpertId) -> Comparison | None:
        """None where there is nothing to compare: no profile of it, or of no other expert."""
        spec = default_spec(registry)
        evidence = evidence_of(store, registry.routed, encoder_of(spec, self._root))
        if evidence is None or expert not in evidence.experts or len(evidence.experts) < 2:
            return None
        newcomer = next(each for each in registry.experts if each.id == expert)
        deviations = {
            category: (tally.high - tally.low) / (2 * Z95)
            for profile in store.of(newcomer)
            for category, tally in profile.estimated.items()
        }
        return compare(evidence, expert, estimator_builder(spec), deviations, self._bounds)


def estimator_builder(spec: RouterSpec) -> EstimatorBuilder:
    """What the router ``spec`` learns with, or the best of ours where it learns nothing."""
    name = spec.kind if spec.kind in ESTIMATORS else next(n for n in _PREFERRED if n in ESTIMATORS)
    made: Callable[[], Any] = estimator_class(name)
    return made


def report_lines(comparison: Comparison) -> tuple[str, ...]:
    """What the gate found, for people."""
    bounds = comparison.bounds
    verdict = (
        f"{comparison.expert} is admitted as a shadow only: " + "; ".join(comparison.faults)
        if comparison.faults
        else f"{comparison.expert} may be routed to"
    )
    return (
        verdict,
        f"routed accuracy on kept-out questions: {comparison.without:.3f} without it, "
        f"{comparison.with_it:.3f} with it ({comparison.overall})",
        f"allowed: a loss of {bounds.overall:g} overall, of {bounds.category:g} in a category "
        f"(refused when it is larger and its 95% interval excludes 0)",
    )


def _why_unchecked(store: ProfileStore, registry: Registry, expert: ExpertId) -> str:
    newcomer = next(each for each in registry.experts if each.id == expert)
    if (line := stale(store, newcomer)) is not None:
        return line
    if not store.of(newcomer):
        return "it has no profile: `coe experts profile` makes one"
    profiled = [expert.id for expert in registry.experts if store.of(expert)]
    if len(profiled) < 2:
        return "there are no outcomes of both it and another expert to compare"
    return "its profile and the others' are not on the same questions"


def default_spec(registry: Registry) -> RouterSpec:
    """The registry's default router; a built-in that it does not list has its usual options."""
    default = registry.routers.default
    listed = (spec for spec in registry.routers.available if spec.name == default)
    return next(listed, RouterSpec(name=default, kind=default))
