"""The parts of experts.yaml that say how many experts are asked and how their answers become one."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from coe.registry.base import Model, Name


class Budget(Model):
    """Bounds on what one answer may cost, all its legs together. At a bound fewer experts are asked."""

    max_experts: Annotated[int, Field(ge=1)] | None = None
    """most legs of one request, the writer of a synthesis included"""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """most completion tokens of all legs together"""
    max_usd: Annotated[float, Field(gt=0)] | None = None
    """highest estimated price of all legs together, by the experts' prices"""


class TopP(Model):
    """How many experts to ask, by top-p of their chances of being right with a null expert among them."""

    p: Annotated[float, Field(gt=0, le=1)] = 0.6
    """ask experts until they hold this share of the mass that the null expert leaves"""
    clear: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """when the best expert's chance is at least this, it is asked alone"""


class AggregatorSpec(Model):
    """How several answers become one, and how many experts are asked for them."""

    name: Name | None = None
    """what clients write in coe.aggregate; default: the kind"""
    kind: str = "first"
    """a built-in's short name or module:Class"""
    options: dict[str, Any] = Field(default_factory=dict)
    proposers: Annotated[int, Field(ge=1, le=16)] = 1
    """the most experts that are asked for one request; 1: the best alone"""
    adaptive: bool = True
    """ask fewer experts where the router is sure; false: always as many as proposers says"""
    top_p: TopP | None = None
    """choose how many, at most proposers, by top-p with a null expert, and ask them at once"""
    quorum: Annotated[int, Field(ge=1)] | None = None
    """answers that are needed; the others may fail or be late. Default: half of those asked"""
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _one_way_to_count(self) -> Self:
        if self.top_p is not None and (self.proposers == 1 or not self.adaptive):
            raise ValueError("top_p chooses among several: give proposers above 1, and leave adaptive out")
        return self

    @property
    def label(self) -> str:
        return self.name or self.kind


class NamedRoute(Model):
    """Another model name that routes, with its own router and aggregator."""

    model: Name
    """the model name that clients write"""
    router: Name | None = None
    """a router's name; default: the default router"""
    aggregator: str | None = None
    """an aggregator's name; default: the default aggregator"""
    experts: Annotated[int, Field(ge=1, le=16)] | None = None
    """ask exactly this many experts; without it, as the aggregator says"""
    description: str = ""
