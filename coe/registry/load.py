"""experts.yaml -> :class:`Registry`, or every fault of the file at once with line and column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coe.core.errors import ConfigError
from coe.core.plugins import PluginKind, Plugins
from coe.core.types import ExpertId
from coe.registry.consistency import inconsistencies
from coe.registry.errors import Issue, RegistryError, describe
from coe.registry.schema import Registry
from coe.registry.source import Source, parse_source


def validate(source: Source, plugins: Plugins) -> Registry:
    """The registry that ``source`` describes; experts may still lack a host. Imports the
    plug-ins that it names, and is pure besides.

    Raises :class:`coe.registry.errors.RegistryError` with all errors: file, line, column, what is wrong and
    what to write instead.
    """
    plugins = plugins.beside(source.path.parent)
    data = _completed(source.data, plugins.engines)
    issues = [issue for issue in source.issues if issue.severity == "error"]
    registry: Registry | None = None
    try:
        # Strict, and from JSON: "8000" is no port and true is no number, as in the JSON schema.
        registry = Registry.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        issues += _validation_issues(source, error)
    issues += inconsistencies(data, plugins)
    if registry is None or issues:
        raise RegistryError(source.path, source.located(issues))
    return registry


def _completed(data: Mapping[str, Any], engines: PluginKind) -> Mapping[str, Any]:
    """``data``, the raw file, with what the classes of its engines say of themselves where it does not."""
    pool = data.get("pool")
    hosts = pool.get("hosts") if isinstance(pool, Mapping) else None
    if not isinstance(pool, Mapping) or not isinstance(hosts, list):
        return data
    return {**data, "pool": {**pool, "hosts": [_completed_host(host, engines) for host in hosts]}}


def _completed_host(host: Any, engines: PluginKind) -> Any:
    kind = host.get("kind") if isinstance(host, Mapping) else None
    if not isinstance(kind, str) or ":" not in kind:
        return host
    try:
        return {"experts_at_once": getattr(engines.find(kind), "experts_at_once", 1), **host}
    except ConfigError:
        return host  # which is reported with the other inconsistencies


def hosts_of(registry: Registry) -> dict[ExpertId, str]:
    """Where the experts are."""
    return {expert.id: expert.host for expert in registry.experts if expert.host is not None}


def without_host(text: str, path: Path) -> frozenset[ExpertId]:
    """Experts for which a valid ``text`` names no host. Pure."""
    entries = parse_source(text, path).data["experts"]
    return frozenset(entry["id"] for entry in entries if entry.get("host") is None)


def _validation_issues(source: Source, error: ValidationError) -> Iterator[Issue]:
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        if detail["type"] == "too_short" and detail["input"]:
            continue  # the list has entries; that they are faulty is reported for each of them
        if detail["type"] == "union_tag_invalid":
            loc = (*loc, "kind")
        elif detail["type"] == "missing":
            loc = loc[:-1]
        yield Issue(describe(detail, source.existing(loc), Registry), loc)
