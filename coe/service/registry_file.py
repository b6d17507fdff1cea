"""Reading experts.yaml whole: with the kinds that exist, and a host for every expert."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from coe.aggregators import AGGREGATOR_KIND, NEEDS_OPTIONS
from coe.core.errors import ConfigError
from coe.core.plugins import Plugins
from coe.core.types import ExpertId
from coe.engines import ENGINE_KIND
from coe.registry.errors import Issue, RegistryError
from coe.registry.load import validate
from coe.registry.schema import Registry
from coe.registry.source import Source, parse_source, read_text
from coe.routers import ROUTER_KIND
from coe.scheduler.policies import POLICY_KIND

log = logging.getLogger(__name__)

PLUGINS = Plugins(ROUTER_KIND, AGGREGATOR_KIND, POLICY_KIND, ENGINE_KIND, NEEDS_OPTIONS)


def load_registry(path: Path | str) -> Registry:
    """Read, validate and freeze a registry file. Blocking (file I/O), no network. Imports the plug-ins that
    it names, and logs what it warns of.

    Raises :class:`coe.core.errors.ConfigError` as :func:`coe.registry.load.validate` does.
    """
    text = read_text(Path(path))
    registry = parse_registry(text, Path(path))
    log_warnings(text, Path(path))
    return registry


def log_warnings(text: str, path: Path) -> None:
    """Of a valid ``text``: what works in this version only, with its line."""
    source = parse_source(text, path)
    for issue in source.located(source.issues):
        line = issue.position.line if issue.position else 1
        log.warning("%s:%d: %s %s", path, line, issue.message, issue.hint)


def parse_registry(text: str, path: Path, former: Mapping[ExpertId, str] | None = None) -> Registry:
    """The registry of ``text``, which stands in ``path`` or is to stand there; every expert has a host, where
    the text names none the one that it had (``former``). Reads no file but plug-ins; raises as above."""
    source = parse_source(text, path)
    return _placed(validate(source, PLUGINS), former, source)


def _placed(registry: Registry, former: Mapping[ExpertId, str] | None, source: Source) -> Registry:
    if all(expert.host is not None for expert in registry.experts):
        return registry
    from coe.placement.assign import with_hosts  # the solver is heavy, and most files name every host

    try:
        return with_hosts(registry, former)
    except ConfigError as error:
        issue = Issue(error.message, ("experts",), hint=error.hint)
        raise RegistryError(source.path, source.located([issue])) from None
