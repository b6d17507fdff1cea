"""The synthetic test of aggregators behind ``coe experts profile --aggregation``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from coe.cli._group import Failed
from coe.cli._progress import collected

if TYPE_CHECKING:
    from coe.cli._client import ServiceClient
    from coe.outcomes.statistics import Share


def ask_and_keep(
    registry: Path,
    only: str | None,
    service: ServiceClient,
    items_file: Path | None,
    per_skill: int,
    record: Path | None,
) -> dict[str, dict[str, Share]]:
    """Ask the experts (or ``only`` one) through the service, write the figures into their profiles, return
    them by expert and category."""
    from coe.core.files import folder_of
    from coe.eval.demo.choosing import WRONG, by_expert, choose_all, demo_items, read_items
    from coe.profiles.aggregating import keep
    from coe.service.registry_file import load_registry

    loaded = load_registry(registry)
    experts = [expert.id for expert in loaded.routed]
    if only is not None:
        if loaded.expert(only) is None:
            raise Failed(f'{registry} has no expert "{only}"', "See `coe experts list`.")
        experts = [only]
    items = demo_items(per_skill) if items_file is None else read_items(items_file)
    answers = choose_all(service.url.rstrip("/"), experts, items, record, trust=service.trust)
    total = len(experts) * len(items) * (WRONG + 1)
    rows = asyncio.run(collected(answers, total, lambda row: str(row["expert"]), service.url))
    found = by_expert(rows)
    source = "demonstration, training phrasings" if items_file is None else items_file.name
    for expert, by_category in found.items():
        keep(loaded, folder_of(registry), expert, by_category, source)
    return found


def readable(found: dict[str, dict[str, Share]]) -> list[str]:
    """Best first; guessing gets a third."""
    order = sorted(found, key=lambda expert: -found[expert]["all"].value)
    width = max((len(expert) for expert in order), default=0)
    return [
        "picked the right one of three answers (guessing: 0.333):",
        *(f"  {expert:<{width}}  {found[expert]['all']}  {found[expert]['all'].total}" for expert in order),
    ]
