"""Routers choose experts by a query's content: one file per method, and the table of built-ins.

A plug-in is named ``module:Class`` in experts.yaml and is built exactly as a built-in is (see
:class:`coe.routers.base.RouterClass`); :func:`coe.testing.conformance_router.check_router` checks it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import cast

from coe.core.plugins import PluginKind
from coe.core.types import ExpertId, Router
from coe.registry.schema import Expert, RouterSpec
from coe.routers.base import RouterClass, RouterOptions, Setting
from coe.routers.encoders.encoder import Encoders
from coe.routers.learning.evidence import Estimator, Evidence

__all__ = ["BUILTINS", "ESTIMATORS", "ROUTER_KIND", "build_router", "estimator_class", "router_class"]

BUILTINS: Mapping[str, str] = MappingProxyType(
    {
        "category": "coe.routers.category:CategoryRouter",
        "skill": "coe.routers.skill:SkillRouter",
        "pilot": "coe.routers.pilot:PilotRouter",
        "instruction": "coe.routers.instruction:InstructionRouter",
        "knn": "coe.routers.knn:KnnRouter",
        "linear": "coe.routers.linear:LinearRouter",
        "traits": "coe.routers.traits:TraitsRouter",
        "transfer": "coe.routers.transfer:TransferRouter",
        "cascade": "coe.routers.cascade:CascadeRouter",
        "blend": "coe.routers.blend:BlendRouter",
        "static": "coe.routers.static:StaticRouter",
        "random": "coe.routers.uniform:RandomRouter",
        "oracle": "coe.routers.oracle:OracleRouter",
    }
)
ROUTER_KIND = PluginKind("router", "route", "coe.routers.base.RouterClass", BUILTINS)

ESTIMATORS: Mapping[str, str] = MappingProxyType(
    {
        "category": "coe.routers.category_evidence:CategoryEstimator",
        "skill": "coe.routers.skill:SkillEstimator",
        "pilot": "coe.routers.pilot:PilotEstimator",
        "instruction": "coe.routers.instruction:InstructionEstimator",
        "knn": "coe.routers.knn:KnnEstimator",
        "linear": "coe.routers.linear:LinearEstimator",
        "traits": "coe.routers.traits:TraitsEstimator",
        "transfer": "coe.routers.transfer:TransferEstimator",
        "blend": "coe.routers.blend:BlendEstimator",
    }
)
"""What the learning routers learn with; each is built without arguments."""


def estimator_class(name: str) -> type[Estimator]:
    """The estimator of a built-in router. Raises KeyError for one that learns nothing."""
    module_name, _, class_name = ESTIMATORS[name].partition(":")
    return cast(type[Estimator], getattr(importlib.import_module(module_name), class_name))


def build_router(
    spec: RouterSpec,
    experts: Sequence[Expert],
    root: Path,
    evidence: Evidence | None = None,
    encoders: Encoders | None = None,
) -> Router:
    """Build a router. Blocking: it may load an encoder and learn from examples (seconds).

    ``root`` is the folder of experts.yaml, where relative paths in options start. ``evidence`` is what
    the experts' profiles say; ``encoders`` are shared with other routers.
    Raises :class:`ConfigError` for an unknown kind, a plug-in that cannot be imported, or bad options.
    """
    kinds, setting = ROUTER_KIND.beside(root), _setting(experts, root, evidence, encoders or Encoders())
    return cast(Router, kinds.build(spec.kind, spec.name, spec.options, setting, _ids(experts)))


def renew_router(
    router: Router, spec: RouterSpec, experts: Sequence[Expert], root: Path, encoders: Encoders
) -> Router | None:
    """``router``, built of this ``spec``, for other experts, with what it has learned; None where its class
    has no ``renewed`` and it has to be built anew. Blocking; raises as :func:`build_router`."""
    renewed = getattr(router, "renewed", None)
    if renewed is None:
        return None
    router_options(spec, experts, root)
    return cast(Router, renewed(_setting(experts, root, None, encoders)))


def router_options(spec: RouterSpec, experts: Sequence[Expert], root: Path) -> RouterOptions:
    """Validated. Raises ConfigError."""
    options_type = router_class(spec.kind, root).options_type
    return ROUTER_KIND.checked(options_type, spec.options, spec.name, spec.kind, _ids(experts))


def _setting(experts: Sequence[Expert], root: Path, evidence: Evidence | None, encoders: Encoders) -> Setting:
    return Setting(tuple(expert.view() for expert in experts), root, evidence, encoders)


def _ids(experts: Sequence[Expert]) -> list[ExpertId]:
    return [expert.id for expert in experts]


def router_class(kind: str, root: Path | None = None) -> RouterClass:
    """The class behind a built-in's short name or ``module:Class``; imports its module only."""
    return cast(RouterClass, ROUTER_KIND.beside(root).find(kind))
