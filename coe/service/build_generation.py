"""From a registry to a generation: its routers and its aggregators, taking over what did not change."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from coe.aggregators import Outcomes, Setting, build_aggregators
from coe.core.files import path_in
from coe.core.types import ExpertId, ExpertView, Router
from coe.pipeline.feedback import Feedback, NoFeedback
from coe.pipeline.generation import Generation
from coe.profiles.aggregating import best_aggregators
from coe.profiles.evidence import encoder_of, evidence_of
from coe.profiles.store import ProfileStore, digest, fitted_combiner, open_store, own_folders
from coe.registry.schema import Registry, RouterSpec
from coe.routers import build_router, renew_router, router_options
from coe.routers.encoders.encoder import Encoders
from coe.routers.learning.evidence import Evidence

log = logging.getLogger(__name__)


_Profiles = tuple[tuple[ExpertId, str], ...]
"""Experts that have a profile, each with a digest of it."""


@dataclass(frozen=True)
class _Recipe:
    """What a router was built from, but for the experts. ``files``: of its options, name, size and time of
    change, so that a file edited meanwhile is read again."""

    spec: str
    files: tuple[tuple[str, int, int], ...]
    profiles: _Profiles
    """none where the router reads none"""


@dataclass(frozen=True)
class _Built:
    recipe: _Recipe
    experts: tuple[ExpertView, ...]
    router: Router


_Known = dict[tuple[str, _Profiles], Evidence | None]
"""What the profiles say, by encoder and profiles: the routers of a generation share it."""


@dataclass(frozen=True)
class _Inputs:
    """What all routers of one build are made from; worked out once."""

    registry: Registry
    store: ProfileStore

    @cached_property
    def experts(self) -> tuple[ExpertView, ...]:
        return tuple(expert.view() for expert in self.registry.routed)

    @cached_property
    def profiles(self) -> _Profiles:
        return tuple((e.id, digest(found)) for e in self.registry.routed if (found := self.store.of(e)))


class GenerationBuilder:
    """Builds the generations of one service. ``root`` is the folder of experts.yaml.

    A router whose spec, files and experts are unchanged is taken over; one whose experts alone changed is
    renewed where its class can do that. One build at a time, in any thread.
    """

    def __init__(self, root: Path, feedback: Feedback | None = None) -> None:
        self._root, self._feedback = root, feedback or NoFeedback()
        self._built: dict[str, _Built] = {}
        self._encoders = Encoders()
        self._known: _Known = {}
        self._inputs: object = None

    def build(
        self, registry: Registry, number: int, left: Mapping[ExpertId, int] | None = None
    ) -> Generation:
        """Blocking (seconds, where a router is new). Raises ConfigError, and then changes nothing."""
        inputs = self.inputs(registry)
        store = open_store(registry, self._root)
        new, known = _Inputs(registry, store), _Known()
        built = {spec.name: self._router(spec, new, known) for spec in _specs(registry)}
        experts = new.experts
        generation = Generation(
            number=number,
            registry=registry,
            experts=experts,
            routers={name: each.router for name, each in built.items()},
            aggregators=build_aggregators(registry, self._setting(registry, experts, store)),
            created=int(time.time()),
            left=left or {},
            feedback=self._feedback,
        )
        self._built, self._known, self._inputs = built, known, inputs
        return generation

    def inputs(self, registry: Registry) -> object:
        """Differs after an edit of a file, other than experts.yaml, that a build reads. Blocking."""
        stamps = (place.stamp() for place in own_folders(registry, self._root))
        options = (tuple(_files(spec.options, self._root)) for spec in _specs(registry))
        return tuple(stamps), tuple(options)

    def is_outdated(self, registry: Registry) -> bool:
        """Whether a build of the ``registry`` that was built last would read other files. Blocking."""
        return self.inputs(registry) != self._inputs

    def _setting(self, registry: Registry, experts: tuple[ExpertView, ...], store: ProfileStore) -> Setting:
        """What aggregators may know: which experts err together, and who aggregates well."""
        evidence = evidence_of(store, registry.routed)
        outcomes = None if evidence is None else Outcomes(evidence.experts, evidence.scores)
        return Setting(
            experts,
            self._root,
            outcomes,
            fitted_combiner(registry, self._root),
            best_aggregators(registry, self._root, store),
        )

    def _router(self, spec: RouterSpec, new: _Inputs, evidence: _Known) -> _Built:
        experts, routed = new.experts, new.registry.routed
        reads = router_options(spec, routed, self._root).reads_profiles
        files = tuple(_files(spec.options, self._root))
        recipe = _Recipe(spec.model_dump_json(), files, new.profiles if reads else ())
        known = self._built.get(spec.name)
        if known is not None and known.recipe == recipe:
            if known.experts == experts:
                return known
            renewed = renew_router(known.router, spec, routed, self._root, self._encoders)
            if renewed is not None:
                return _Built(recipe, experts, renewed)
        log.info("building router %s", spec.name)
        said = None
        if reads:
            key = (encoder_of(spec, self._root), recipe.profiles)
            if key not in evidence:
                kept = self._known.get(key)
                evidence[key] = kept or evidence_of(new.store, routed, key[0])
            said = evidence[key]
        return _Built(recipe, experts, build_router(spec, routed, self._root, said, self._encoders))


def _specs(registry: Registry) -> tuple[RouterSpec, ...]:
    """Those of the registry, and the default one if it is a built-in that the registry does not list."""
    available, default = registry.routers.available, registry.routers.default
    if any(spec.name == default for spec in available):
        return available
    return (*available, RouterSpec(name=default, kind=default))


def _files(value: Any, root: Path) -> Iterator[tuple[str, int, int]]:
    """The files that options name."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _files(inner, root)
    elif isinstance(value, str) and "\0" not in value:
        try:
            stat = path_in(root, value).stat()
        except OSError:
            return
        yield value, stat.st_size, stat.st_mtime_ns
