"""How several experts' answers become one. ``build_aggregators`` makes those that experts.yaml names.

A plug-in is named ``module:Class`` and is built exactly as a built-in is (see
:class:`coe.aggregators.base.AggregatorClass`);
:func:`coe.testing.conformance_aggregator.check_aggregator` checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

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
from coe.core.plugins import PluginKind
from coe.registry.aggregation_settings import AggregatorSpec
from coe.registry.schema import Registry

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

AGGREGATOR_KIND = PluginKind("aggregator", "combine", "coe.aggregators.base.AggregatorClass", BUILT_IN)

NEEDS_OPTIONS = frozenset({"learned"})
"""Built-ins that exist only where experts.yaml configures them, or where a combiner was fitted; the others
can always be named."""


def build_aggregators(registry: Registry, setting: Setting) -> dict[str, Aggregator]:
    """All that a request may name: those of experts.yaml, then the built-ins that need no options.

    Blocking: it may read files. Raises ConfigError as :func:`build_aggregator` does.
    """
    specs = {spec.label: spec for spec in (registry.aggregator, *registry.aggregators)}
    for kind in BUILT_IN:
        if kind not in NEEDS_OPTIONS or setting.combiner is not None:
            specs.setdefault(kind, AggregatorSpec(kind=kind))
    return {name: build_aggregator(spec, setting) for name, spec in specs.items()}


def build_aggregator(spec: AggregatorSpec, setting: Setting | None = None) -> Aggregator:
    """The aggregator of ``spec.kind``: a built-in's short name or ``module:Class``.

    Raises :class:`coe.core.errors.ConfigError` for an unknown name, a class that cannot be imported,
    options that it does not take, or an option that names an unknown expert.
    """
    setting = setting or Setting()
    known = [view.id for view in setting.experts]
    kinds = AGGREGATOR_KIND.beside(setting.root)
    return cast(Aggregator, kinds.build(spec.kind, spec.label, spec.options, setting, known))


__all__ = [
    "AGGREGATOR_KIND",
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
    "build_aggregator",
    "build_aggregators",
]
