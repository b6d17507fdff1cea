"""The contract of :class:`coe.core.types.Router`, as a check that built-in and third-party routers run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from coe.core.errors import RoutingError
from coe.core.reading import Reading
from coe.core.types import Decision, ExpertView, Router

TEXTS: tuple[str, ...] = (
    "What is 12 + 30?",
    "Write a poem about the sea.",
    "SELECT name FROM users WHERE age > 30",
    "¿Cuántos días tiene marzo? 🗓️",
    "x" * 100_000,
    "\n\t ",
    Reading("and 15?", "You are a calculator.", ["Hello.", "What is 12 + 30?"]),
)
_SLACK = 1e-6
_CALLERS, _CALLS = 4, 24


class RouterContractError(AssertionError):
    """A router that does not keep its contract; the message says which part."""


def check_router(router: Router, experts: Sequence[ExpertView], texts: Sequence[str] = TEXTS) -> None:
    """Raises RouterContractError where ``router`` breaks its contract on ``experts`` (two or more).

    Routes ``texts`` among all experts, among all but one and to a single one, in another order, and from
    several threads at once. With fewer experts a router may refuse, but only by RoutingError.
    """
    _require(len(experts) >= 2, "the check needs two experts at least")
    _require(isinstance(router.name, str) and router.name != "", "name is a non-empty text")
    _require(isinstance(getattr(router, "blocking", False), bool), "blocking is true or false")
    for text in texts:
        check_decision(router, router.route(text, experts), experts)
    for subset in _subsets(experts):
        try:
            decision = router.route(texts[0], subset)
        except RoutingError:
            continue
        check_decision(router, decision, subset)
    _is_thread_safe(router, experts, texts)


def check_decision(router: Router, decision: Decision, experts: Sequence[ExpertView]) -> None:
    """Raises RouterContractError unless ``decision`` is one that ``router`` may give about ``experts``."""
    ids = [view.id for view in experts]
    ranked = [entry.expert for entry in decision.ranking]
    probabilities = [entry.probability for entry in decision.ranking]
    _require(decision.router == router.name, "the decision names its router")
    _require(len(decision.chosen) >= 1, "a decision chooses at least one expert")
    _require(len(set(decision.chosen)) == len(decision.chosen), "no expert is chosen twice")
    _require(len(set(ranked)) == len(ranked), "no expert is ranked twice")
    _require(set(ranked) <= set(ids), "only experts passed in are ranked")
    _require(set(decision.chosen) <= set(ranked), "only ranked experts are chosen")
    _require(all(_is_share(p) for p in probabilities), "probabilities are between 0 and 1")
    _require(probabilities == sorted(probabilities, reverse=True), "the ranking is in order, best first")
    _require(_is_share(decision.confidence), "confidence is between 0 and 1")
    first = next(entry.probability for entry in decision.ranking if entry.expert == decision.expert)
    _require(abs(decision.confidence - first) <= _SLACK, "confidence is the chosen expert's probability")
    substitutes = {each.expert for each in decision.substitutes}
    _require(substitutes <= set(ranked) - {decision.expert}, "substitutes are other experts of the ranking")
    _require(decision.reason.strip() != "", "the reason says something")
    _require("\n" not in decision.reason, "the reason is one line")


def _subsets(experts: Sequence[ExpertView]) -> list[list[ExpertView]]:
    without_each = [[view for view in experts if view is not missing] for missing in experts]
    alone = [[view] for view in experts]
    return [list(reversed(experts)), *without_each, *alone]


def _is_thread_safe(router: Router, experts: Sequence[ExpertView], texts: Sequence[str]) -> None:
    with ThreadPoolExecutor(_CALLERS) as callers:
        asked = [texts[number % len(texts)] for number in range(_CALLS)]
        for decision in callers.map(lambda text: router.route(text, experts), asked):
            check_decision(router, decision, experts)


def _is_share(value: float) -> bool:
    return math.isfinite(value) and -_SLACK <= value <= 1 + _SLACK


def _require(condition: bool, promise: str) -> None:
    if not condition:
        raise RouterContractError(f"broken: {promise}")
