"""One expert's profile: what it can do, how that is known, what it costs. A JSON file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from coe.outcomes.statistics import wilson

ENOUGH = 200
"""Answers; a profile from fewer is a guess (docs/measurements/profiles-results.md)."""

Part = Annotated[float, Field(ge=0, le=1)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tally(Model):
    """Mean score over ``count`` questions with its 95% Wilson interval."""

    mean: Part
    count: Annotated[float, Field(ge=0)]
    low: Part
    high: Part

    @classmethod
    def of(cls, mean: float, count: float) -> Tally:
        low, high = wilson(mean, round(count))
        return cls(mean=round(mean, 4), count=count, low=round(low, 4), high=round(high, 4))


class Outcomes(Model):
    """Scores on rows of the question table whose fingerprint is ``table``."""

    table: str
    rows: tuple[int, ...] | None = None
    """which; null: all of them, in order"""
    scores: tuple[Part | None, ...]
    counts: tuple[float, ...] | None = None
    """questions behind each score; null: one"""


class Estimate(Model):
    """Expected scores on all rows of the table, from answers to few of them."""

    table: str
    scores: tuple[Part, ...]
    weight: Annotated[float, Field(gt=0, le=1)]
    """of one answer, that a row's estimate is worth"""
    method: str


class Cost(Model):
    """US dollars and tokens; null where unknown."""

    input_usd_per_mtok: float | None = None
    output_usd_per_mtok: float | None = None
    mean_usd: float | None = None
    mean_output_tokens: float | None = None


class Latency(Model):
    """Seconds from question to whole answer, as measured when the expert was asked."""

    median_s: float
    p90_s: float


class Provenance(Model):
    source: str
    licence: str = ""
    date: str
    """of the profile, YYYY-MM-DD"""
    prompt: str = ""
    """the form in which the questions were put"""
    splits: tuple[str, ...] = ()


class Weights(Model):
    """Which model answered; see :mod:`coe.profiles.weights`."""

    model: str
    adapter: str | None = None
    files: str | None = None
    """digest of samples of its files; null where they were not at hand"""


class ExpertProfile(Model):
    """``categories`` and ``skills`` are aggregates for people; routers learn from the outcomes."""

    format: Literal[1] = 1
    expert: str
    models: tuple[str, ...] = ()
    """other names of the same weights, hub ids above all"""
    weights: Weights | None = None
    """null: not said, as in profiles of published outcomes"""
    card: str = ""
    overall: Tally
    categories: dict[str, Tally] = Field(default_factory=dict)
    skills: dict[str, Tally] = Field(default_factory=dict)
    estimated: dict[str, Tally] = Field(default_factory=dict)
    """categories' expected scores with 95% credible intervals, where an estimate stands below"""
    aggregation: dict[str, Tally] = Field(default_factory=dict)
    """share of right picks among one right and two wrong answers, by category and over "all" """
    outcomes: Outcomes
    estimate: Estimate | None = None
    cost: Cost = Cost()
    latency: Latency | None = None
    provenance: Provenance

    @property
    def caution(self) -> str | None:
        """A sentence for people where the profile rests on few answers."""
        if self.overall.count >= ENOUGH:
            return None
        return (
            f"the profile {self.expert} rests on {self.overall.count:g} answers, fewer than {ENOUGH}: "
            "routing by it may do harm"
        )
