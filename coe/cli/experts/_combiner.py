"""What ``coe experts profile --combiner`` does."""

from __future__ import annotations

import json
from pathlib import Path


def teach(registry_file: Path, folder: Path, split: str | None, as_json: bool) -> str:
    """Fit, write, and say what was fitted."""
    from coe.core.files import folder_of
    from coe.onboarding.profiler import read_recorded
    from coe.onboarding.teach_combiner import teach_registry
    from coe.outcomes.combiner_fits import MEAN_EXPERTS
    from coe.service.registry_file import load_registry

    registry = load_registry(registry_file)
    root, data = folder_of(registry_file), read_recorded(folder, split)
    taught = teach_registry(registry, root, data, MEAN_EXPERTS)
    if as_json:
        facts = {"path": str(taught.path), "experts": taught.experts, "questions": taught.questions}
        return json.dumps({**facts, "limit": taught.limit, "price": taught.price}, indent=1)
    rule = (
        "always as many as asked for"
        if taught.price is None
        else f"up to {taught.limit} in stages, while another answer gains more than {taught.price:.3f}"
    )
    return (
        f"{taught.path}: the answers of {', '.join(taught.experts)} to {taught.questions} questions\n"
        f"the aggregator learned asks {rule}; a running service reads it with the next version of "
        f"{registry_file.name}"
    )
