"""A generation: one accepted version of experts.yaml, with the routers and aggregators built for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from coe.aggregators import Aggregator
from coe.core.types import ExpertId, ExpertView, Router
from coe.pipeline.feedback import Feedback, NoFeedback
from coe.registry.schema import Registry


@dataclass(frozen=True)
class Generation:
    """Everything that a request reads about the registry. Never changes; a new version is a new object."""

    number: int
    registry: Registry
    experts: tuple[ExpertView, ...]
    """those that routers may choose"""
    routers: Mapping[str, Router]
    aggregators: Mapping[str, Aggregator]
    """by the names that requests may give"""
    created: int
    """Unix time in seconds."""
    feedback: Feedback = field(default_factory=NoFeedback)
    """shared by all generations"""
    left: Mapping[ExpertId, int] = field(default_factory=dict)
    """experts of earlier generations that are gone, and the first generation without them"""
    reason: str = ""
    """what it changed, for people; "": the service began with it"""

    @cached_property
    def identity(self) -> str:
        """Of what answers depend on: the same wherever the registry says the same, whatever its number, and
        on whichever of several equal hosts its experts are."""
        parts = {"pool", "experts", "routers", "aggregator", "aggregators", "routes", "profiles"}
        where = [self.registry.host(expert.host) for expert in self.registry.experts]
        registry = self.registry.model_copy(
            update={"experts": tuple(e.model_copy(update={"host": None}) for e in self.registry.experts)}
        )
        texts = [registry.model_dump_json(include=parts)]
        texts += [host.model_dump_json(exclude={"id"}) for host in where if host is not None]
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()


class Generations:
    """Holds the generation that new requests use.

    Only the service publishes. A request reads ``current`` once and keeps what it read, so that it never
    sees parts of two generations.
    """

    def __init__(self, first: Generation) -> None:
        self.current = first

    def publish(self, generation: Generation) -> None:
        self.current = generation
