"""A registry in sentences: what the service will do with it."""

from __future__ import annotations

from collections.abc import Sequence

from coe.registry.hosts import Host
from coe.registry.schema import Expert, Registry

_LISTED = 12


def summary(registry: Registry) -> tuple[str, ...]:
    """Lines for people. Pure."""
    service, standard = registry.service, registry.pool.classes.standard
    return (
        f"{_count(registry.experts, 'expert')} on {_count(registry.pool.hosts, 'host')}, behind the model"
        f' name "{service.model_name}" at http://{service.host}:{service.port}/v1',
        *(_host_line(host, registry.experts_on(host.id)) for host in registry.pool.hosts),
        *_router_lines(registry),
        f"scheduling: policy {registry.pool.policy}; requests that waited {standard.ageing_s:g} s go first;"
        f" at most {registry.limits.max_queue} requests wait",
        _aggregation_line(registry),
    )


def _aggregation_line(registry: Registry) -> str:
    spec = registry.aggregator
    if spec.proposers == 1:
        return (
            f"one expert answers each request; if a client asks for several, the aggregator is {spec.label}"
        )
    amount = f"up to {spec.proposers}" if spec.adaptive else str(spec.proposers)
    if spec.top_p is not None:
        amount += f" (top-p {spec.top_p.p:g})"
    return f"{amount} experts answer each request; their answers are combined by {spec.label}"


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def _host_line(host: Host, experts: Sequence[Expert]) -> str:
    ids = [expert.id for expert in experts]
    names = ", ".join(ids[:_LISTED]) + (f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else "")
    return f"host {host.id}: {host.way(len(ids))}; experts: {names or 'none'}"


def _router_lines(registry: Registry) -> list[str]:
    routers = registry.routers
    lines = []
    for spec in routers.available:
        options = ", ".join(f"{key}: {value}" for key, value in spec.options.items())
        mark = " (default)" if spec.name == routers.default else ""
        lines.append(f"router {spec.name}{mark}: kind {spec.kind}" + (f", {options}" if options else ""))
    if all(spec.name != routers.default for spec in routers.available):
        lines.insert(0, f"router {routers.default} (default): built in, with its own defaults")
    return lines
