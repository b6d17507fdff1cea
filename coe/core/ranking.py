"""Rankings of experts, and how experts are chosen from them: the data of :mod:`coe.core.decision`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

ExpertId = str


@dataclass(frozen=True)
class ExpertView:
    """What a router may know of an expert: facts from the registry and its profile, no live state."""

    id: ExpertId
    card: str = ""
    skills: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    parameters_b: float | None = None
    active_b: float | None = None
    usd_per_mtok_in: float | None = None
    usd_per_mtok_out: float | None = None
    general: bool = False


@dataclass(frozen=True)
class Ranked:
    """An expert and the router's probability that it answers rightly (calibrated where the router can).

    Several experts may be right, so the probabilities of a ranking need not sum to 1.
    """

    expert: ExpertId
    probability: float


Why = Literal["best", "unsure", "cost", "patience", "budget", "random", "fixed", "own", "pinned"]
"""Why an expert was chosen: it is the likeliest to be right; the router was unsure and it is general; the
request's or the router's weight of cost, the client's patience, a budget; a draw; always this one; a rule of
the router's own; the client named it."""
Occasion = Literal["awake", "failure", "panel"]
"""When an expert may take the chosen one's place: it is awake and the chosen one is not, the chosen one
failed before its first byte; or answer beside it."""


@dataclass(frozen=True)
class Substitute:
    """An expert that may take the chosen one's place on some occasions, and on no other."""

    expert: ExpertId
    loss: float | None
    """of probability of a right answer against the chosen expert's; None where nobody knows"""
    on: frozenset[Occasion]


@dataclass(frozen=True)
class Rule:
    """How experts are chosen from a ranking; :func:`coe.core.decision.decide` applies it, and again whenever
    the probabilities move. Without any field set: the likeliest to be right.

    ``prefers`` orders the experts, the most wanted first, and ``why`` names what it goes by; with ``fixed``
    it goes by no probability, so that wishes for cost and time do not count. ``phrase`` says it to people,
    with ``{expert}`` and ``{probability}`` in it.
    """

    general: tuple[ExpertId, ...] = ()
    """those that take what the router is unsure of"""
    unsure_below: float = 0.0
    sure: float | None = None
    """how sure the router is, to compare with ``unsure_below``; None: the first expert's probability"""
    doubt: str = "unsure"
    """for people: why it was not sure"""
    among: frozenset[ExpertId] | None = None
    """those that a budget allows, on whatever path; None: all"""
    alone: bool = False
    """a budget allows one expert a question"""
    prefers: Callable[[Sequence[Ranked]], Sequence[ExpertId]] | None = None
    why: Why = "best"
    phrase: str = ""
    fixed: bool = False
    count: int = 1
    """experts to choose"""
