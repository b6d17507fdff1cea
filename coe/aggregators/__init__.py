"""How several experts' answers become one. ``build_aggregator`` makes the one that experts.yaml names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

from coe.aggregators.protocol import Aggregator, ExpertAnswer
from coe.errors import ConfigError
from coe.registry.models import AggregatorSpec
from coe.suggest import suggest

BUILT_IN: Mapping[str, str] = {
    "first": "coe.aggregators.first:First",
}


def build_aggregator(spec: AggregatorSpec) -> Aggregator:
    """The aggregator of ``spec.kind``: a built-in's short name or ``package.module:Class``.

    Raises :class:`coe.errors.ConfigError` for an unknown name, a class that cannot be imported, or options
    that it does not take.
    """
    target = BUILT_IN.get(spec.kind, spec.kind)
    if ":" not in target:
        raise ConfigError(
            f'aggregator.kind: "{spec.kind}" is unknown; {suggest(spec.kind, BUILT_IN)}',
            hint="Name a built-in aggregator, or your own as package.module:Class.",
        )
    try:
        return cast(Aggregator, _load(target)(**spec.options))
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f'aggregator.kind: "{target}" cannot be imported: {error}',
            hint="Install the package that holds the class, and check its spelling.",
        ) from error
    except TypeError as error:
        raise ConfigError(f"aggregator.options: {error}", hint=f"See the arguments of {target}.") from error


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


__all__ = ["BUILT_IN", "Aggregator", "ExpertAnswer", "build_aggregator"]
