"""How well experts aggregate, kept in their profiles, and the aggregator that they make advisable."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from coe.core.types import ExpertId
from coe.outcomes.statistics import Share
from coe.profiles.profile import ExpertProfile, Outcomes, Provenance, Tally
from coe.profiles.store import ProfileStore, open_store, own_folder
from coe.registry.schema import Registry

GUESSING = 1 / 3
"""What an expert gets that picks blindly among one right and two wrong answers."""


def keep(
    registry: Registry, root: Path, expert_id: ExpertId, found: Mapping[str, Share], source: str
) -> None:
    """Write ``found`` (by category, and over ``all``) under ``aggregation`` of the expert's own profile; an
    expert without one gets a profile that says nothing else."""
    folder = own_folder(registry, root)
    profile = next((p for p in folder.profiles() if p.expert == expert_id), None) or _bare(expert_id, source)
    tallies = {name: Tally.of(s.value, s.total) for name, s in found.items()}
    folder.write(profile.model_copy(update={"aggregation": tallies}))


def best_aggregators(
    registry: Registry, root: Path, store: ProfileStore | None = None
) -> dict[str, ExpertId]:
    """For each category, and for ``all``, the expert that was best at picking the right answer. None for a
    category in which nobody is better than guessing (the lower end of the 95% interval counts)."""
    store = store or open_store(registry, root)
    best: dict[str, tuple[float, ExpertId]] = {}
    for expert in registry.routed:
        for profile in store.of(expert):
            for category, tally in profile.aggregation.items():
                if tally.low > GUESSING and tally.mean > best.get(category, (0.0, ""))[0]:
                    best[category] = (tally.mean, expert.id)
    return {category: expert for category, (_, expert) in best.items()}


def _bare(expert_id: ExpertId, source: str) -> ExpertProfile:
    return ExpertProfile(
        expert=expert_id,
        overall=Tally.of(0.0, 0),
        outcomes=Outcomes(table="", rows=(), scores=()),
        provenance=Provenance(source=source, date=datetime.now(UTC).date().isoformat()),
    )
