"""The parts of experts.yaml that say how many experts are asked and how their answers become one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from coe.registry.base import Model, Name


class Budget(Model):
    """Bounds on what one answer may cost, all its legs together. Fewer experts are asked where it binds."""

    max_experts: Annotated[int, Field(ge=1)] | None = None
    """legs of one request, the writer of a synthesis included"""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """completion tokens of all legs together"""
    max_usd: Annotated[float, Field(gt=0)] | None = None
    """estimated price of all legs together, by the experts' prices"""


class AggregatorSpec(Model):
    """How several answers become one, and how many experts are asked for them."""

    name: Name | None = None
    """what clients write in coe.aggregate; without it, the kind"""
    kind: str = "first"
    """a built-in's short name or package.module:Class"""
    options: dict[str, Any] = Field(default_factory=dict)
    proposers: Annotated[int, Field(ge=1, le=16)] = 1
    """the most experts that are asked for one request; 1: the best alone"""
    adaptive: bool = True
    """ask fewer experts where the router is sure; false: always as many as proposers says"""
    quorum: Annotated[int, Field(ge=1)] | None = None
    """answers that must come; the others may fail or be late. Without it, half of those asked"""
    budget: Budget = Budget()

    @property
    def label(self) -> str:
        return self.name or self.kind


class NamedRoute(Model):
    """A further model name that routes, with its own router and aggregator."""

    model: Name
    """the model name that clients write"""
    router: Name | None = None
    """a router's name; without it the default one"""
    aggregator: str | None = None
    """an aggregator's name; without it the default one"""
    experts: Annotated[int, Field(ge=1, le=16)] | None = None
    """ask exactly so many experts; without it, as the aggregator says"""
    description: str = ""
