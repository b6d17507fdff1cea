"""How several experts' answers become one. ``build_aggregators`` makes those that experts.yaml names.

A plug-in is named ``package.module:Class`` and is built exactly as a built-in is (see
:class:`coe.aggregators.base.AggregatorClass`);
:func:`coe.testing.conformance_aggregator.check_aggregator` checks it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from pydantic import ValidationError

from coe.aggregators.base import AggregatorClass, AggregatorOptions, Outcomes, Setting
from coe.aggregators.protocol import (
    Aggregator,
    Answers,
    Asked,
    Picked,
    Proposal,
    Proposing,
    Verdict,
    Write,
)
from coe.errors import ConfigError
from coe.registry.combining import AggregatorSpec
from coe.registry.models import Registry
from coe.suggest import suggest

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "first": "coe.aggregators.first:First",
        "vote": "coe.aggregators.vote:MajorityVote",
        "weighted_vote": "coe.aggregators.vote:WeightedVote",
        "self_consistency": "coe.aggregators.vote:SelfConsistency",
        "learned": "coe.aggregators.learned:Learned",
        "synthesise": "coe.aggregators.synthesise:Synthesise",
        "self_moa": "coe.aggregators.synthesise:SelfMoa",
        "self_moa_seq": "coe.aggregators.synthesise:SequentialSelfMoa",
        "best_of": "coe.aggregators.best_of:BestOf",
    }
)

NEEDS_OPTIONS = frozenset({"learned"})
"""Built-ins that exist only where experts.yaml configures them; the others can always be named."""


def build_aggregators(registry: Registry, setting: Setting) -> dict[str, Aggregator]:
    """All that a request may name: those of experts.yaml, then the built-ins that need no options.

    Blocking: it may read files. Raises ConfigError as :func:`build_aggregator` does.
    """
    specs = {spec.label: spec for spec in (registry.aggregator, *registry.aggregators)}
    for kind in BUILT_IN:
        if kind not in NEEDS_OPTIONS:
            specs.setdefault(kind, AggregatorSpec(kind=kind))
    return {name: build_aggregator(spec, setting) for name, spec in specs.items()}


def build_aggregator(spec: AggregatorSpec, setting: Setting | None = None) -> Aggregator:
    """The aggregator of ``spec.kind``: a built-in's short name or ``package.module:Class``.

    Raises :class:`coe.errors.ConfigError` for an unknown name, a class that cannot be imported, options that
    it does not take, or an option that names an unknown expert.
    """
    setting = setting or Setting()
    cls = aggregator_class(spec.kind)
    options = _options(spec, cls)
    known = [view.id for view in setting.experts]
    for expert in options.named_experts():
        if known and expert not in known:
            raise ConfigError(
                f'aggregator "{spec.label}": there is no expert "{expert}"; {suggest(expert, known)}',
                hint="Name an expert of experts.yaml in the aggregator's options.",
            )
    return cls(spec.label, options, setting)


def aggregator_class(kind: str) -> AggregatorClass:
    """The class behind a built-in's short name or ``package.module:Class``; imports its module only."""
    target = BUILT_IN.get(kind, kind)
    module, colon, name = target.partition(":")
    if not colon:
        raise ConfigError(
            f'aggregator.kind: "{kind}" is unknown; {suggest(kind, BUILT_IN)}',
            hint="Name a built-in aggregator, or your own as package.module:Class.",
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f'aggregator.kind: "{target}" cannot be imported: {error}',
            hint="Install the package that holds the class, and check its spelling.",
        ) from error
    if not (isinstance(found, type) and isinstance(getattr(found, "options_type", None), type)):
        raise ConfigError(
            f'aggregator.kind: "{target}" is no aggregator class: it must have options_type and combine',
            hint="See coe.aggregators.base.AggregatorClass for what such a class must offer.",
        )
    return cast(AggregatorClass, found)


def _options(spec: AggregatorSpec, cls: AggregatorClass) -> AggregatorOptions:
    try:
        return cls.options_type.model_validate_json(json.dumps(spec.options))
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(step) for step in detail['loc']) or 'options'}: {detail['msg']}"
            for detail in error.errors(include_url=False)
        )
        raise ConfigError(
            f'aggregator "{spec.label}" (kind {spec.kind}) has wrong options: {faults}',
            hint=f"Its options are: {', '.join(cls.options_type.model_fields) or 'none'}.",
        ) from None


__all__ = [
    "BUILT_IN",
    "Aggregator",
    "AggregatorClass",
    "AggregatorOptions",
    "Answers",
    "Asked",
    "Outcomes",
    "Picked",
    "Proposal",
    "Proposing",
    "Setting",
    "Verdict",
    "Write",
    "aggregator_class",
    "build_aggregator",
    "build_aggregators",
]
