"""Faults in the aggregators and routes of experts.yaml, found on the raw data
(see :mod:`coe.registry.consistency`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from coe.registry.problems import Loc, describe
from coe.suggest import suggest


@dataclass(frozen=True)
class Fault:
    message: str
    loc: Loc


@dataclass(frozen=True)
class Names:
    """What other parts of the file define, for aggregators and routes to name."""

    experts: Sequence[str]
    routers: Sequence[str]
    model_name: str


def faults(data: Mapping[str, Any], names: Names) -> Iterator[Fault]:
    """All faults of ``aggregator``, ``aggregators`` and ``routes`` beside the rest of the file."""
    # Imported here: the table of aggregators stands above the registry's models, which aggregators use.
    from coe.aggregators import BUILT_IN, NEEDS_OPTIONS

    entries = [(("aggregator",), data.get("aggregator")), *_listed(data, "aggregators")]
    seen: list[str] = []
    for loc, spec in entries:
        if not isinstance(spec, dict):
            continue
        label = spec.get("name") or spec.get("kind", "first")
        if isinstance(label, str) and label in seen:
            yield Fault(f'two aggregators are called "{label}"; give one another name', (*loc, "name"))
        seen.append(label)
        yield from _aggregator(spec, loc, names.experts)
    known = [*seen, *(kind for kind in BUILT_IN if kind not in NEEDS_OPTIONS)]
    taken = [names.model_name, *names.experts]
    for loc, route in _listed(data, "routes"):
        if isinstance(route, dict):
            yield from _route(route, loc, names.routers, known, taken)
            taken.append(str(route.get("model")))


def _listed(data: Mapping[str, Any], key: str) -> list[tuple[Loc, Any]]:
    value = data.get(key)
    return [((key, index), each) for index, each in enumerate(value if isinstance(value, list) else ())]


def _aggregator(spec: dict[str, Any], loc: Loc, experts: Sequence[str]) -> Iterator[Fault]:
    from coe.aggregators import BUILT_IN, aggregator_class

    kind, options = spec.get("kind", "first"), spec.get("options", {})
    if not isinstance(kind, str) or ":" in kind:
        return
    if kind not in BUILT_IN:
        message = (
            f'unknown aggregator kind "{kind}"; {suggest(kind, BUILT_IN)}, or write "package.module:Class"'
        )
        yield Fault(message, (*loc, "kind"))
        return
    options_type = aggregator_class(kind).options_type
    where = (*loc, "options")
    try:
        checked = options_type.model_validate_json(json.dumps(options, default=str))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            step = () if detail["type"] == "missing" else detail["loc"]
            yield Fault(describe(detail, (*where, *step), options_type), (*where, *step))
        return
    for expert in checked.named_experts():
        if expert not in experts:
            message = (
                f'the aggregator names the expert "{expert}", which is not there; {suggest(expert, experts)}'
            )
            yield Fault(message, where)


def _route(
    route: dict[str, Any], loc: Loc, routers: Sequence[str], aggregators: Sequence[str], taken: Sequence[str]
) -> Iterator[Fault]:
    model, router, aggregator = route.get("model"), route.get("router"), route.get("aggregator")
    if model in taken:
        yield Fault(f'the model name "{model}" is taken; give the route another', (*loc, "model"))
    if isinstance(router, str) and router not in routers:
        yield Fault(f'unknown router "{router}"; {suggest(router, routers)}', (*loc, "router"))
    if isinstance(aggregator, str) and aggregator not in aggregators:
        message = f'unknown aggregator "{aggregator}"; {suggest(aggregator, aggregators)}'
        yield Fault(message, (*loc, "aggregator"))
