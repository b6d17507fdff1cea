"""What ``coe experts add --outcomes`` learns before an expert joins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coe.cli._group import Failed

if TYPE_CHECKING:
    from coe.profiles.profile import ExpertProfile
    from coe.registry.schema import Registry


@dataclass(frozen=True)
class Lesson:
    """The outcome set to learn from, and how many of its training questions may be used (None: all)."""

    outcomes: Path
    probes: int | None
    seed: int
    split: str | None


def profiles_from(
    registry_file: Path, entries: Sequence[Mapping[str, Any]], lesson: Lesson
) -> list[ExpertProfile]:
    """Write and return the profiles of the experts that ``entries`` describe."""
    from coe.core.files import folder_of
    from coe.onboarding.profiler import Probes, profile_recorded, read_recorded
    from coe.registry.schema import Expert
    from coe.service.registry_file import load_registry

    registry = load_registry(registry_file)
    experts = [Expert.model_validate(entry) for entry in entries]
    data = read_recorded(lesson.outcomes, lesson.split)
    everyone = registry.model_copy(update={"experts": (*registry.experts, *experts)})
    how = Probes(lesson.probes, seed=lesson.seed)
    root = folder_of(registry_file)
    return [profile_recorded(everyone, root, expert, data, how) for expert in experts]


def guessed_entry(expert: str, registry_file: Path, host: str | None) -> dict[str, str]:
    """Host and model of an expert named by its id alone: the only host there is; its hub id where known."""
    from coe.profiles.names import HUB_IDS
    from coe.service.registry_file import load_registry

    registry: Registry = load_registry(registry_file)
    model = HUB_IDS.get(expert, (expert,))[0]
    if host is not None:
        return {"host": host, "model": model}
    if len(registry.pool.hosts) != 1:
        raise Failed(
            f"{registry_file} has {len(registry.pool.hosts)} hosts: on which one does {expert} run?",
            "Give --on HOST, and --model MODEL where its id is not its model's name.",
        )
    return {"host": registry.pool.hosts[0].id, "model": model}
