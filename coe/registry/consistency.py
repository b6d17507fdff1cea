"""Faults between entries of experts.yaml, which no single field shows.

They are found on the raw data, so that they are reported together with wrong types and unknown keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from coe.core.errors import ConfigError
from coe.core.plugins import PluginKind, PluginOptions, Plugins
from coe.core.suggest import suggest
from coe.registry.errors import Issue, Loc, describe


def inconsistencies(data: Mapping[str, Any], plugins: Plugins) -> list[Issue]:
    """All faults between entries of ``data`` (the raw file, perhaps invalid elsewhere)."""
    hosts = _entries(_mapping(data.get("pool")).get("hosts"), ("pool", "hosts"))
    experts = _entries(data.get("experts"), ("experts",))
    return [
        *_duplicates(hosts, "id", "host"),
        *_duplicates(experts, "id", "expert"),
        *_engines(hosts, plugins.engines),
        *_expert_places(experts, hosts),
        *_urls_for_names(experts, hosts),
        *_model_name_clashes(experts, data),
        *_only_shadows(experts),
        *_pinned(_mapping(data.get("pool")), experts),
        *_fallbacks(experts),
        *_policy(_mapping(data.get("pool")), experts, plugins.policies),
        *_routers(_mapping(data.get("routers")), experts, plugins.routers),
        *_combining(data, experts, plugins),
        *_nodes(_entries(_mapping(data.get("cluster")).get("nodes"), ("cluster", "nodes")), hosts),
    ]


@dataclass(frozen=True)
class _Entry:
    loc: Loc
    data: Mapping[str, Any]

    def text(self, key: str) -> str | None:
        value = self.data.get(key)
        return value if isinstance(value, str) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _entries(value: object, loc: Loc) -> list[_Entry]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    return [_Entry((*loc, index), item) for index, item in enumerate(value) if isinstance(item, Mapping)]


def _names(entries: Sequence[_Entry], key: str = "id") -> list[str]:
    return list(dict.fromkeys(name for entry in entries if (name := entry.text(key)) is not None))


def _duplicates(entries: Sequence[_Entry], key: str, noun: str) -> Iterator[Issue]:
    seen: set[str] = set()
    for entry in entries:
        name = entry.text(key)
        if name in seen:
            yield Issue(f'two {noun}s are called "{name}"; rename one', (*entry.loc, key))
        if name is not None:
            seen.add(name)


def _engines(hosts: Sequence[_Entry], kinds: PluginKind) -> Iterator[Issue]:
    for host in hosts:
        kind = host.text("kind")
        if kind is not None and ":" in kind:  # the others are models of their own
            yield from _plugin(kinds, kind, host.data.get("options", {}), host.loc, ())


def _expert_places(experts: Sequence[_Entry], hosts: Sequence[_Entry]) -> Iterator[Issue]:
    kinds = {name: host.data.get("kind", "vllm") for host in hosts if (name := host.text("id"))}
    if not kinds:
        return  # hosts are missing altogether, which is reported once, not for each expert
    for expert in experts:
        host, label = expert.text("host"), expert.text("id") or "?"
        if host is None:
            continue
        if host not in kinds:
            message = (
                f'expert "{label}" is on host "{host}", which is not in pool.hosts; {suggest(host, kinds)}'
            )
            yield Issue(message, (*expert.loc, "host"))
        elif kinds[host] == "adapter" and expert.data.get("adapter") is None:
            message = (
                f'expert "{label}" is on adapter host "{host}" but names no adapter; write "adapter: FOLDER"'
            )
            yield Issue(message, expert.loc)
        elif kinds[host] in ("vllm", "remote") and expert.data.get("adapter") is not None:
            message = (
                f'expert "{label}" names an adapter, but host "{host}" is of kind {kinds[host]}; put it on a'
                " host of kind adapter, or name a merged checkpoint as model"
            )
            yield Issue(message, (*expert.loc, "adapter"))


def _urls_for_names(experts: Sequence[_Entry], hosts: Sequence[_Entry]) -> Iterator[Issue]:
    """For some providers LiteLLM would send requests to a model that is a URL, past all checks of it."""
    providers = {host.text("id") for host in hosts if host.text("provider")}
    for expert in experts:
        host, label = expert.text("host"), expert.text("id") or "?"
        if host in providers and "://" in (expert.text("model") or ""):
            message = (
                f'the model of expert "{label}" is a URL, but host "{host}" names a provider; put it on a'
                " host of kind remote with that url"
            )
            yield Issue(message, (*expert.loc, "model"))


def _model_name_clashes(experts: Sequence[_Entry], data: Mapping[str, Any]) -> Iterator[Issue]:
    model_name = _mapping(data.get("service")).get("model_name", "coe")
    for expert in experts:
        if expert.text("id") == model_name:
            message = (
                f'expert "{model_name}" has the model name that asks for routing; rename the expert or change'
                " service.model_name"
            )
            yield Issue(message, (*expert.loc, "id"))


def _combining(data: Mapping[str, Any], experts: Sequence[_Entry], plugins: Plugins) -> Iterator[Issue]:
    routers = _mapping(data.get("routers"))
    available = _names(_entries(routers.get("available"), ("routers", "available")), "name")
    default = str(routers.get("default", "category"))
    model_name = str(_mapping(data.get("service")).get("model_name", "coe"))
    names = Names(_names(experts), [*dict.fromkeys([default, *available])], model_name)
    yield from _aggregation(data, names, plugins)


def _only_shadows(experts: Sequence[_Entry]) -> Iterator[Issue]:
    if experts and all(expert.data.get("shadow") is True for expert in experts):
        message = "every expert is a shadow, so no request can be routed; remove shadow from at least one"
        yield Issue(message, (*experts[0].loc, "shadow"))


def _holds_experts(host: _Entry) -> bool:
    """Whether it has experts in memory (see :attr:`coe.registry.hosts.HostBase.always_awake`)."""
    always_awake = host.data.get("experts_at_once") == "all" and host.data.get("memory_gb") is None
    return host.data.get("kind", "vllm") != "remote" and not always_awake


def _nodes(nodes: Sequence[_Entry], hosts: Sequence[_Entry]) -> Iterator[Issue]:
    """Where there are nodes, each host that holds memory belongs to exactly one."""
    yield from _duplicates(nodes, "id", "node")
    if not nodes or not hosts:
        return
    placeable = [name for h in hosts if (name := h.text("id")) and _holds_experts(h)]
    placed: dict[str, str] = {}
    for node in nodes:
        listed = node.data.get("hosts")
        for index, host in enumerate(listed if isinstance(listed, list) else ()):
            loc = (*node.loc, "hosts", index)
            if host in placed:
                yield Issue(f'host "{host}" is already on node "{placed[host]}"', loc)
            elif host not in placeable:
                message = f'"{host}" is not a host of kind vllm or adapter; {suggest(str(host), placeable)}'
                yield Issue(message, loc)
            else:
                placed[host] = node.text("id") or "?"
    for host in placeable:
        if host not in placed:
            message = f'host "{host}" belongs to no node; add it to the hosts of one under cluster.nodes'
            yield Issue(message, ("cluster", "nodes"))


def _pinned(pool: Mapping[str, Any], experts: Sequence[_Entry]) -> Iterator[Issue]:
    names, pinned = _names(experts), pool.get("pinned")
    for index, name in enumerate(pinned if isinstance(pinned, list) else ()):
        if isinstance(name, str) and name not in names:
            message = f'pool.pinned names "{name}", which is not an expert; {suggest(name, names)}'
            yield Issue(message, ("pool", "pinned", index))


def _policy(pool: Mapping[str, Any], experts: Sequence[_Entry], kinds: PluginKind) -> Iterator[Issue]:
    policy = pool.get("policy", "coe")
    if isinstance(policy, str):
        name = policy.partition("[")[0].strip()  # coe[-prefetch]: without a mechanism
        yield from _plugin(kinds, name, pool.get("options", {}), ("pool",), _names(experts), "policy")


def _fallbacks(experts: Sequence[_Entry]) -> Iterator[Issue]:
    names = _names(experts)
    for entry in experts:
        fallback, loc = entry.text("fallback"), (*entry.loc, "fallback")
        if fallback is not None and fallback == entry.text("id"):
            yield Issue(f'"{fallback}" cannot be its own fallback; name another expert', loc)
        elif fallback is not None and fallback not in names:
            yield Issue(f'the fallback "{fallback}" is not an expert; {suggest(fallback, names)}', loc)


def _routers(routers: Mapping[str, Any], experts: Sequence[_Entry], kinds: PluginKind) -> Iterator[Issue]:
    available = _entries(routers.get("available"), ("routers", "available"))
    yield from _duplicates(available, "name", "router")
    routed = [expert for expert in experts if expert.data.get("shadow") is not True]
    for entry in available:
        kind = entry.text("kind")
        if kind is not None:
            yield from _plugin(kinds, kind, entry.data.get("options", {}), entry.loc, _names(routed))
    default = routers.get("default", "category")
    choices = dict.fromkeys((*_names(available, "name"), *kinds.built_in))
    if isinstance(default, str) and default not in choices:
        message = f'the default router "{default}" is not known; {suggest(default, choices)}'
        yield Issue(message, ("routers", "default"))


def _plugin(
    kinds: PluginKind, kind: str, options: object, loc: Loc, experts: Sequence[str], key: str = "kind"
) -> Iterator[Issue]:
    """What is wrong with the ``kind`` (under ``key``) and the ``options`` of the entry at ``loc``."""
    try:
        options_type = kinds.find(kind).options_type
    except ConfigError as error:
        yield Issue(error.message, (*loc, key), hint=error.hint)
        return
    if not isinstance(options, Mapping):
        return  # which the models report
    loc = (*loc, "options")
    try:
        checked = options_type.model_validate_json(json.dumps(options), strict=True)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            # A missing option is no step of the text, so its message names the options as a whole.
            step = () if detail["type"] == "missing" else detail["loc"]
            yield Issue(describe(detail, (*loc, *step), options_type), (*loc, *step))
        return
    if isinstance(checked, PluginOptions):
        for option, message in checked.faults(experts).items():
            yield Issue(message, (*loc, option))


@dataclass(frozen=True)
class Names:
    """What other parts of the file define, for aggregators and routes to name."""

    experts: Sequence[str]
    routers: Sequence[str]
    model_name: str


def _aggregation(data: Mapping[str, Any], names: Names, plugins: Plugins) -> Iterator[Issue]:
    """All faults of ``aggregator``, ``aggregators`` and ``routes`` beside the rest of the file."""
    kinds = plugins.aggregators
    entries = [(("aggregator",), data.get("aggregator")), *_listed(data, "aggregators")]
    seen: list[str] = []
    for loc, spec in entries:
        if not isinstance(spec, dict):
            continue
        label = spec.get("name") or spec.get("kind", "first")
        if isinstance(label, str) and label in seen:
            yield Issue(f'two aggregators are called "{label}"; give one another name', (*loc, "name"))
        seen.append(label)
        kind = spec.get("kind", "first")
        if isinstance(kind, str):
            yield from _plugin(kinds, kind, spec.get("options", {}), loc, names.experts)
    known = [*seen, *(kind for kind in kinds.built_in if kind not in plugins.configured)]
    taken = [names.model_name, *names.experts]
    for loc, route in _listed(data, "routes"):
        if isinstance(route, dict):
            yield from _route(route, loc, names.routers, known, taken)
            taken.append(str(route.get("model")))


def _listed(data: Mapping[str, Any], key: str) -> list[tuple[Loc, Any]]:
    value = data.get(key)
    return [((key, index), each) for index, each in enumerate(value if isinstance(value, list) else ())]


def _route(
    route: dict[str, Any], loc: Loc, routers: Sequence[str], aggregators: Sequence[str], taken: Sequence[str]
) -> Iterator[Issue]:
    model, router, aggregator = route.get("model"), route.get("router"), route.get("aggregator")
    if model in taken:
        yield Issue(f'the model name "{model}" is taken; give the route another', (*loc, "model"))
    if isinstance(router, str) and router not in routers:
        yield Issue(f'unknown router "{router}"; {suggest(router, routers)}', (*loc, "router"))
    if isinstance(aggregator, str) and aggregator not in aggregators:
        message = f'unknown aggregator "{aggregator}"; {suggest(aggregator, aggregators)}'
        yield Issue(message, (*loc, "aggregator"))
