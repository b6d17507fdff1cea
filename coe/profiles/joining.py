"""Profiling experts of a registry from an outcome set, and deciding whether a newcomer may be routed to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from coe.admission import Ask, GateReport, ProfileReport
from coe.errors import BadRequest, ConfigError
from coe.profiles.evidence import DEFAULT_ENCODER, encoder_of, evidence_of
from coe.profiles.gate import Bounds, Comparison, EstimatorBuilder, compare
from coe.profiles.names import name_among
from coe.profiles.outcomes import (
    Recorded,
    Source,
    full_profile,
    probe_recorded,
    probed_profile,
    recorded,
    training_rows,
)
from coe.profiles.probing import Design
from coe.profiles.profile import ENOUGH, ExpertProfile
from coe.profiles.store import ProfileFolder, ProfileStore, open_store, own_folder
from coe.registry.models import Expert, Registry, RouterSpec
from coe.types import ExpertId
from eval.statistics import Z95
from routers import ESTIMATORS, estimator_class

_PREFERRED = ("blend", "linear", "knn")
"""Which estimator judges where the registry's default router learns nothing."""


@dataclass(frozen=True)
class Probes:
    """How a newcomer is probed: ``count`` questions, or with None all that it has answers to."""

    count: int | None = None
    design: Design = "adaptive"
    seed: int = 0


def read_recorded(folder: Path, split: str | None = None, encoder: str = DEFAULT_ENCODER) -> Recorded:
    """The training part of an outcome set with its vectors. Blocking: minutes when the texts are new."""
    from eval.recorded.outcomes import read_outcomes
    from eval.recorded.run import question_vectors
    from routers.encoder import open_encoder

    whole = read_outcomes(folder)
    part = whole.rows(training_rows(whole, split))
    vectors = question_vectors(part, open_encoder(encoder, Path()))
    return recorded(part, vectors, encoder, Source(whole.name))


def profile_recorded(
    registry: Registry, root: Path, expert: Expert, data: Recorded, probes: Probes
) -> ExpertProfile:
    """Write the profile of ``expert`` from its recorded answers (and what :func:`prepare` writes).

    Raises ConfigError when the set has no answers of ``expert``.
    """
    name = name_among(expert, data.outcomes.experts)
    if name is None:
        raise ConfigError(
            f"{data.outcomes.name} has no outcomes of {expert.id} (model {expert.model})",
            hint=f"Write `profile: NAME` at the expert; the set has {', '.join(data.outcomes.experts)}.",
        )
    source = Source(data.table.source, data.table.licence)
    folder = prepare(registry, root, expert, data)
    if probes.count is None:
        profile = full_profile(data, name, source, expert.profile or expert.id)
    else:
        known = [each for each in data.outcomes.experts if each != name]
        probing = probe_recorded(data, name, known, probes.count, probes.design, probes.seed)
        profile = probed_profile(data, name, probing, source, expert.profile or expert.id)
    folder.write(profile)
    return profile


def profile_asked(
    registry: Registry, root: Path, expert: Expert, data: Recorded, url: str, probes: Probes, model: str = ""
) -> ExpertProfile:
    """Write the profile of ``expert`` from its answers through ``url``, where it is called ``model`` (its id
    by default, which pins it on a CoE service). Blocking; goes on from the answers of an interrupted run.
    """
    from coe.profiles.asking import Asking, ask_profile, through_url

    folder = prepare(registry, root, expert, data)
    asking = Asking(through_url(url, model or expert.id), _record(folder, expert, data))
    profile = ask_profile(data, expert, asking, probes.count or ENOUGH, probes.design, probes.seed)
    folder.write(profile)
    return profile


def _record(folder: ProfileFolder, expert: Expert, data: Recorded) -> Path:
    """By model too: what another one answered under this id says nothing of it."""
    model = hashlib.sha256(f"{expert.model}\0{expert.adapter}".encode()).hexdigest()[:12]
    return folder.path / "asked" / f"{quote(expert.id, safe='')}-{model}-{data.table.fingerprint}.jsonl"


class ProbeProfiler:
    """The :class:`coe.admission.Profiler` of a service whose file stands in ``root``: asks the expert
    :data:`ENOUGH` questions of the registry's ``probes``, each batch chosen by the answers so far."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def require(self, registry: Registry) -> None:
        if registry.probes is None:
            raise BadRequest(
                "experts.yaml names no questions to ask a new expert",
                code="no_probes",
                hint="Set `probes: DIR`, a set of questions with gold answers, or leave `profile` out.",
            )

    async def profile(self, registry: Registry, expert: ExpertId, ask: Ask) -> ProfileReport:
        self.require(registry)
        newcomer = next(each for each in registry.experts if each.id == expert)
        loop = asyncio.get_running_loop()

        def run(asking: Coroutine[Any, Any, None]) -> None:
            asyncio.run_coroutine_threadsafe(asking, loop).result()

        profile = await asyncio.to_thread(self._profiled, registry, newcomer, ask, run)
        lines = (profile.caution,) if profile.caution else ()
        return ProfileReport(expert, round(profile.overall.count), lines)

    def _profiled(
        self, registry: Registry, expert: Expert, ask: Ask, run: Callable[[Coroutine[Any, Any, None]], None]
    ) -> ExpertProfile:
        from coe.profiles.asking import Asking, Reply, ask_profile

        async def put(question: str) -> Reply:
            return Reply(await ask(question))

        data = read_recorded(self._root / Path(registry.probes or "").expanduser())
        folder = prepare(registry, self._root, expert, data)
        profile = ask_profile(data, expert, Asking(put, _record(folder, expert, data), run), ENOUGH)
        folder.write(profile)
        return profile


def prepare(registry: Registry, root: Path, expert: Expert, data: Recorded) -> ProfileFolder:
    """Write the question table and the profiles of the registry's other experts that the set has answers of
    and that have none on these questions; returns the folder."""
    source = Source(data.table.source, data.table.licence)
    folder = own_folder(registry, root)
    folder.write_table(data.table)
    store = open_store(registry, root)
    for other in registry.experts:
        theirs = name_among(other, data.outcomes.experts)
        missing = all(p.outcomes.table != data.table.fingerprint for p in store.of(other))
        if other.id != expert.id and theirs is not None and missing:
            folder.write(full_profile(data, theirs, source, other.profile or other.id))
    return folder


class ProfileGate:
    """The :class:`coe.admission.Gate` over the profiles of a registry whose file stands in ``root``."""

    def __init__(self, root: Path, bounds: Bounds | None = None) -> None:
        self._root, self._bounds = root, bounds or Bounds()

    def check(self, registry: Registry, expert: ExpertId) -> GateReport:
        store = open_store(registry, self._root)
        comparison = self.compare(registry, store, expert)
        if comparison is None:
            return GateReport(True, (f"{expert} was admitted unchecked: {_why_unchecked(store, registry)}",))
        return GateReport(not comparison.faults, report_lines(comparison))

    def compare(self, registry: Registry, store: ProfileStore, expert: ExpertId) -> Comparison | None:
        """None where there is nothing to compare: no profile of it, or of no other expert."""
        spec = default_spec(registry)
        evidence = evidence_of(store, registry.routed, encoder_of(spec))
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


def _why_unchecked(store: ProfileStore, registry: Registry) -> str:
    profiled = [expert.id for expert in registry.experts if store.of(expert)]
    if len(profiled) < 2:
        return "there are no outcomes of it and of another expert to compare"
    return "its profile and the others' are not on the same questions"


def default_spec(registry: Registry) -> RouterSpec:
    """The registry's default router; a built-in that it does not list has its usual options."""
    default = registry.routers.default
    listed = (spec for spec in registry.routers.available if spec.name == default)
    return next(listed, RouterSpec(name=default, kind=default))
