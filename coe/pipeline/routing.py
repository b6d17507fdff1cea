"""From a request to a decision: which router is asked, or which expert the client named itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from coe.core.decision import generals, settled
from coe.core.errors import BadRequest, CoeError, ConfigError, RoutingError, UnknownModel
from coe.core.suggest import suggest
from coe.core.types import (
    USUAL_QUALITY,
    Decision,
    ExpertId,
    Options,
    Request,
    Router,
    RouterCall,
    RouterText,
)
from coe.pipeline.generation import Generation
from coe.pipeline.utility import Preferences, weighed

log = logging.getLogger(__name__)

PINNED = "pinned"
"""The router's name in decisions that the client made by naming an expert."""


Write = Callable[[RouterCall], Awaitable[RouterText]]
"""Has an expert write what a router wants to know first. Raises nothing but what cancels it."""


async def nobody_writes(call: RouterCall) -> RouterText:  # noqa: ARG001
    return RouterText(None, "not asked")


async def choose(
    request: Request,
    generation: Generation,
    wait_s: Callable[[ExpertId], float] = lambda _: 0.0,
    write: Write = nobody_writes,
) -> Decision:
    """The decision for ``request``, by the router that it, its route or experts.yaml names, weighed by its
    preferences for cost and time; ``wait_s`` forecasts an expert's wait.

    Raises BadRequest (unknown router, no text to route by), UnknownModel or RoutingError.
    """
    route = generation.registry.routed_names.get(request.model)
    if route is None:
        raise _unknown_model(request.model, generation)
    decision = await _routed(request, request.options.router or route.router, generation, write)
    return _as_preferred(decision, request.options, generation, wait_s)


async def _routed(request: Request, named: str | None, generation: Generation, write: Write) -> Decision:
    router = router_named(named or generation.registry.routers.default, generation)
    _check_text(request)
    try:
        decide = await _prepared(router, request.reading, write)
        if getattr(router, "blocking", False):
            decision = await asyncio.to_thread(decide, request.reading, generation.experts)
        else:
            decision = decide(request.reading, generation.experts)
    except ConfigError as error:  # the operator's fault, and no client's
        raise RoutingError(f"the router {router.name}: {error.message}", hint=error.hint) from error
    except CoeError:
        raise
    except Exception as error:
        log.exception("request %s: router %s failed", request.id, router.name)
        raise RoutingError(
            f"the router {router.name} could not decide ({type(error).__name__})",
            hint="Name an expert as the model, or another router in coe.router; the log has the cause.",
        ) from error
    _check_decision(decision, generation)
    return generation.feedback.applied(request.id, settled(decision, generals(generation.experts)))


async def _prepared(router: Router, text: str, write: Write) -> Callable[..., Decision]:
    """The router's ``route``, once what it wants written was written, if anything."""
    wanted: Callable[[str], RouterCall | None] | None = getattr(router, "call", None)
    call = wanted(text) if wanted is not None else None
    if call is None:
        return router.route
    return partial(router.route_with, note=await write(call))  # type: ignore[attr-defined]


def _as_preferred(
    decision: Decision, options: Options, generation: Generation, wait_s: Callable[[ExpertId], float]
) -> Decision:
    priced = has_prices(generation)
    preferences = Preferences(
        quality=options.weight_of_quality / USUAL_QUALITY,
        cost=options.cost or 0.0 if priced else 0.0,
        patience_s=options.patience_s,
        min_probability=generation.registry.routers.min_probability,
    )
    waits = {}
    if preferences.patience_s is not None:
        waits = {ranked.expert: wait_s(ranked.expert) for ranked in decision.ranking}
    found = weighed(decision, generation.experts, preferences, waits)
    if options.cost and not priced:
        return replace(found, reason=f"{found.reason}; no expert has a price, so none is cheaper")
    return found


def has_prices(generation: Generation) -> bool:
    return any(view.usd_per_mtok_out is not None for view in generation.experts)


def router_named(name: str, generation: Generation) -> Router:
    """Raises BadRequest."""
    router = generation.routers.get(name)
    if router is None:
        raise BadRequest(
            f'the router "{name}" does not exist; {suggest(name, generation.routers)}',
            code="unknown_router",
            param="coe.router",
            hint="Leave coe.router out to use the default router.",
        )
    return router


def _unknown_model(model: str, generation: Generation) -> UnknownModel:
    if model in generation.left:
        return UnknownModel(
            f'the expert "{model}" left in generation {generation.left[model]} and takes no new requests',
            param="model",
            hint="GET /v1/models lists those that are here.",
        )
    service = generation.registry.service
    names = [*generation.registry.routed_names, *(expert.id for expert in generation.registry.experts)]
    return UnknownModel(
        f'the model "{model}" does not exist; {suggest(model, names)}',
        param="model",
        hint=f'Use "{service.model_name}" to have an expert chosen, or name one; GET /v1/models lists them.',
    )


def _check_text(request: Request) -> None:
    if request.endpoint == "completions" and not request.text and not isinstance(request.body["prompt"], str):
        raise BadRequest(
            "a prompt of token ids cannot be routed: each expert has its own tokens",
            code="prompt_not_text",
            param="prompt",
            hint="Send text, or name the expert that the tokens are for as the model.",
        )


def _check_decision(decision: Decision, generation: Generation) -> None:
    known = {expert.id for expert in generation.experts}
    named = {*decision.chosen, *(ranked.expert for ranked in decision.ranking)}
    if not decision.chosen or not named <= known:
        raise RoutingError(
            f"the router {decision.router} chose an expert that does not exist",
            hint="Correct the router; name another one in coe.router meanwhile.",
        )
