"""A generation: one accepted version of experts.yaml, with the routers and aggregators built for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coe.aggregators import Aggregator
from coe.feedback import Feedback
from coe.registry.models import Registry
from coe.types import ExpertId, ExpertView, Router


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
    feedback: Feedback | None = None
    """shared by all generations; None where clients' marks are not taken"""
    left: Mapping[ExpertId, int] = field(default_factory=dict)
    """experts of earlier generations that are gone, and the first generation without them"""


class Generations:
    """Holds the generation that new requests use.

    Only the service publishes. A request reads ``current`` once and keeps what it read, so that it never
    sees parts of two generations.
    """

    def __init__(self, first: Generation) -> None:
        self._current = first

    @property
    def current(self) -> Generation:
        return self._current

    def publish(self, generation: Generation) -> None:
        self._current = generation
