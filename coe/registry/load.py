"""experts.yaml -> :class:`Registry`, or every fault of the file at once with line and column."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from coe.errors import ConfigError
from coe.registry.consistency import inconsistencies
from coe.registry.models import Registry
from coe.registry.problems import Problem, RegistryError, describe
from coe.registry.source import Source, parse_source, read_text
from coe.types import ExpertId


def load_registry(path: Path | str) -> Registry:
    """Read, validate and freeze a registry file. Blocking (file I/O), no network, no side effects.

    Raises :class:`coe.errors.ConfigError` (as :class:`RegistryError`, which also carries the single
    problems) naming file, line, column, the fault and what to write instead.
    """
    return parse_registry(read_text(Path(path)), Path(path))


def parse_registry(text: str, path: Path, former: Mapping[ExpertId, str] | None = None) -> Registry:
    """The registry of ``text``, which stands in ``path`` or is to stand there; every expert has a host, where
    the text names none the one that it had (``former``). Pure; raises as above."""
    source = parse_source(text, path)
    problems: list[Problem] = []
    registry: Registry | None = None
    try:
        # Strict, and from JSON: "8000" is no port and true is no number, as in the JSON schema.
        registry = Registry.model_validate_json(json.dumps(source.data), strict=True)
    except ValidationError as error:
        problems += _validation_problems(source, error)
    problems += [Problem(found.message, source.position(found.loc)) for found in inconsistencies(source.data)]
    if registry is None or problems:
        raise RegistryError(source.path, problems)
    return _placed(registry, former, source)


def hosts_of(registry: Registry) -> dict[ExpertId, str]:
    """Where the experts are."""
    return {expert.id: expert.host for expert in registry.experts if expert.host is not None}


def without_host(text: str, path: Path) -> frozenset[ExpertId]:
    """Experts for which a valid ``text`` names no host. Pure."""
    entries = parse_source(text, path).data["experts"]
    return frozenset(entry["id"] for entry in entries if entry.get("host") is None)


def _placed(registry: Registry, former: Mapping[ExpertId, str] | None, source: Source) -> Registry:
    if all(expert.host is not None for expert in registry.experts):
        return registry
    from coe.placing import with_hosts

    try:
        return with_hosts(registry, former)
    except ConfigError as error:
        message = f"{error.message}; {error.hint}" if error.hint else error.message
        raise RegistryError(source.path, [Problem(message, source.position(("experts",)))]) from None


def _validation_problems(source: Source, error: ValidationError) -> list[Problem]:
    problems = []
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        if detail["type"] == "too_short" and detail["input"]:
            continue  # the list has entries; that they are faulty is reported for each of them
        if detail["type"] == "union_tag_invalid":
            loc = (*loc, "kind")
        problems.append(Problem(describe(detail, source.existing(loc), Registry), source.position(loc)))
    return problems
