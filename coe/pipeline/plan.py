"""Whom to ask for a request, and what becomes of the answers. Pure decisions, before anybody is asked.

What the request, its route and experts.yaml say of aggregation is an :class:`AggregationRequest`. With the
router's decision it becomes a :class:`Plan` of several legs; none where one expert's answer passes through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coe.aggregators import Aggregator, Asked
from coe.aggregators.top_p import Mass, top_p
from coe.aggregators.worth import how_many, moved
from coe.core.decision import settled
from coe.core.errors import BadRequest
from coe.core.suggest import suggest
from coe.core.types import ByTopP, Decision, ExpertId, ExpertView, Options, Request, number
from coe.pipeline.generation import Generation
from coe.registry.aggregation_settings import AggregatorSpec, TopP

USUAL_EXPERTS = 3
"""Asked where a request names an aggregator and neither it nor experts.yaml says how many."""

_CHARS_PER_TOKEN = 4
_USUAL_TOKENS = 512


@dataclass(frozen=True)
class AggregationRequest:
    """How a request wants to be answered. ``count`` is None where the plan may choose up to ``limit``, by
    ``top_p`` if there is one; ``explicit``: the client or the route asked for it, so that what cannot be done
    is an error."""

    aggregator: Aggregator
    spec: AggregatorSpec
    limit: int
    count: int | None
    explicit: bool
    top_p: TopP | None = None

    @property
    def goes_by_cost(self) -> bool:
        """Whether the request's weight of cost moves how many are asked."""
        return self.count is None and self.limit > 1 and self.spec.adaptive


@dataclass(frozen=True)
class Plan:
    """Several legs and what combines them. ``max_tokens`` bounds each leg, where a budget does; ``at_once``
    are asked first, the others one by one while the aggregator reads on."""

    decision: Decision
    aggregator: Aggregator
    asked: tuple[Asked, ...]
    quorum: int
    at_once: int
    max_tokens: int | None = None

    @property
    def adaptive(self) -> bool:
        return self.at_once < len(self.asked)


def aggregation_request(request: Request, generation: Generation) -> AggregationRequest:
    """Raises BadRequest for an aggregator that does not exist or more experts than it takes."""
    registry, options = generation.registry, request.options
    route = registry.routed_names.get(request.model)
    name = options.aggregate or (route and route.aggregator) or registry.aggregator.label
    aggregator = generation.aggregators.get(name)
    if aggregator is None:
        raise BadRequest(
            f'the aggregator "{name}" does not exist; {suggest(name, generation.aggregators)}',
            code="unknown_aggregator",
            param="coe.aggregate",
            hint="Leave coe.aggregate out to use the default aggregator.",
        )
    spec = registry.aggregator_spec(name)
    wanted = options.experts or (route.experts if route else None)
    count = wanted if isinstance(wanted, int) else None
    share = _top_p(spec, options) if count is None else None
    several = spec.proposers if spec.proposers > 1 else USUAL_EXPERTS
    if count is None and share is None and options.aggregate is not None and spec.kind != "first":
        count = several
    if count is not None and count > aggregator.max_experts:
        raise BadRequest(
            f"the aggregator {name} takes {aggregator.max_experts} experts at most, not {count}",
            code="too_many_experts",
            param="coe.experts",
            hint="Leave coe.experts out, or ask for fewer.",
        )
    limit = min(several if share else spec.proposers, aggregator.max_experts)
    return AggregationRequest(aggregator, spec, limit, count, options.names_aggregation, share)


def _top_p(spec: AggregatorSpec, options: Options) -> TopP | None:
    """As the request says, else as experts.yaml does, there moved by the request's weights."""
    usual = spec.top_p or TopP()
    if isinstance(options.experts, ByTopP):
        return usual.model_copy(update={"p": options.experts.p})
    return spec.top_p and usual.model_copy(update={"clear": moved(usual.clear, options)})


def explained(decision: Decision, aggregation: AggregationRequest) -> Decision:
    """``decision`` with a reason that says how many experts top-p asks, where it does, and how many of those
    that were asked for a budget leaves."""
    if decision.why == "pinned":
        return decision
    left, wanted = len(_members(decision)), aggregation.count or 1
    if left < wanted and not aggregation.aggregator.proposing.repeat:
        return replace(decision, reason=f"{decision.reason}; of {wanted} experts {left} may be asked")
    if aggregation.top_p is None:
        return decision
    mass = _mass(decision, aggregation.top_p, aggregation.limit)
    return replace(
        decision, reason=f"{decision.reason}; top-p {aggregation.top_p.p:g} asks {mass.count} by {mass}"
    )


def plan_for(
    request: Request, decision: Decision, aggregation: AggregationRequest, generation: Generation
) -> Plan | None:
    """The legs to ask, or None where one expert's answer shall pass through.

    Raises BadRequest where the client asked for an aggregation that its request does not allow.
    """
    decision = settled(decision)
    wanted = aggregation.count or _how_many(decision, aggregation, request.options)
    if wanted < 2 or (decision.why == "pinned" and not aggregation.explicit):
        return None
    if obstacle := _obstacle(request, decision, aggregation):
        if not aggregation.explicit:
            return None
        raise obstacle
    asked = _asked(decision, wanted, repeat=aggregation.aggregator.proposing.repeat)
    asked, max_tokens = _within_budget(request, asked, aggregation, generation.experts)
    if len(asked) < 2:
        return None
    quorum = aggregation.spec.quorum or aggregation.aggregator.proposing.quorum or math.ceil(len(asked) / 2)
    at_once = _at_once(aggregation) or len(asked)
    return Plan(
        decision, aggregation.aggregator, asked, min(quorum, len(asked)), min(at_once, len(asked)), max_tokens
    )


def proposal_body(request: Request, plan: Plan, asked: Asked) -> dict[str, Any]:
    """What one proposer is asked: the request as a whole answer. Samples of one expert differ by temperature
    (the aggregator's, where the request's would make them all the same) and by seed."""
    body = {key: value for key, value in request.body.items() if key not in ("stream", "stream_options", "n")}
    proposing = plan.aggregator.proposing
    if proposing.repeat:
        body["temperature"] = number(body.get("temperature")) or proposing.temperature or 0.7
        if (seed := number(body.get("seed"))) is not None:
            body["seed"] = int(seed) + asked.rank
    return {**body, **_bounded(request, body, plan.max_tokens)}


def written_body(request: Request, plan: Plan, body: Mapping[str, Any]) -> dict[str, Any]:
    """``body`` of an answer that an expert writes for the aggregator, within the budget."""
    return {**body, **_bounded(request, body, plan.max_tokens)}


def _bounded(request: Request, body: Mapping[str, Any], max_tokens: int | None) -> dict[str, int]:
    if max_tokens is None:
        return {}
    chat = request.endpoint == "chat/completions"
    key = "max_completion_tokens" if chat and "max_completion_tokens" in body else "max_tokens"
    own = number(body.get(key))
    return {key: max_tokens if own is None else min(int(own), max_tokens)}


def _how_many(decision: Decision, aggregation: AggregationRequest, options: Options) -> int:
    """How many experts this query is worth, up to the limit; a router that chose several is followed."""
    if aggregation.limit < 2 or not aggregation.spec.adaptive:
        return aggregation.limit
    if aggregation.top_p is not None:
        return _mass(decision, aggregation.top_p, aggregation.limit).count
    if len(decision.chosen) > 1:
        return min(aggregation.limit, len(decision.chosen))
    chances = list(_members(decision).values())
    return how_many(decision.confidence, chances, aggregation.limit, _at_once(aggregation), options)


def _mass(decision: Decision, wanted: TopP, limit: int) -> Mass:
    chances = list(_members(settled(decision)).values())
    return top_p(chances, limit, wanted.p, wanted.clear)


def _at_once(aggregation: AggregationRequest) -> int | None:
    """How many are asked first where the answers say when to stop; None where all are asked at once."""
    decided = aggregation.count is not None or aggregation.top_p is not None
    return aggregation.aggregator.proposing.at_once if aggregation.spec.adaptive and not decided else None


def _asked(decision: Decision, count: int, repeat: bool) -> tuple[Asked, ...]:
    members = list(_members(decision).items())
    if repeat:
        return tuple(Asked(*members[0], rank) for rank in range(count))
    return tuple(Asked(expert, chance, rank) for rank, (expert, chance) in enumerate(members[:count]))


def _members(decision: Decision) -> dict[ExpertId, float]:
    """Who may sit in a panel, with their probabilities: the chosen ones, then their substitutes there."""
    chances = {ranked.expert: ranked.probability for ranked in decision.ranking}
    members = (*decision.chosen, *decision.substitutes_on("panel"))
    return {expert: chances.get(expert, 0.0) for expert in members}


def _obstacle(request: Request, decision: Decision, aggregation: AggregationRequest) -> BadRequest | None:
    """Why answers to this request cannot be combined; None where they can."""
    name, body = aggregation.aggregator.name, request.body
    choices = number(body.get("n")) or 1
    prompts = body.get("prompt")
    if choices > 1 or body.get("best_of") or (isinstance(prompts, list) and len(prompts) > 1):
        return _cannot(f"{name} makes one answer out of several: it takes one prompt and n = 1", "n")
    if isinstance(prompts, list) and not all(isinstance(prompt, str) for prompt in prompts):
        return _cannot("a prompt of token ids has one expert only", "prompt")
    if request.endpoint == "completions" and aggregation.aggregator.proposing.chat_only:
        return _cannot(f"{name} writes its own prompts, so it answers chat completions only", "coe.aggregate")
    single = len(decision.ranking) < 2 and not aggregation.aggregator.proposing.repeat
    if single and decision.why == "pinned":
        return _cannot(f"the request names {decision.expert}, which answers alone", "coe.experts")
    return None


def _cannot(why: str, param: str) -> BadRequest:
    return BadRequest(
        f"answers to this request cannot be combined: {why}",
        code="not_aggregable",
        param=param,
        hint="Leave coe.experts and coe.aggregate out, or change the request.",
    )


def _within_budget(
    request: Request, asked: Sequence[Asked], aggregation: AggregationRequest, experts: Sequence[ExpertView]
) -> tuple[tuple[Asked, ...], int | None]:
    """As many of ``asked`` as the budget allows, and the bound on each leg's tokens that it needs."""
    budget, chosen = aggregation.spec.budget, tuple(asked)
    views = {view.id: view for view in experts}
    writes = aggregation.aggregator.writer(chosen) is not None
    extra = 1 if writes else 0
    if budget.max_experts is not None:
        chosen = chosen[: max(1, budget.max_experts - extra)]
    wanted = _tokens_wanted(request)
    while len(chosen) > 1 and budget.max_usd is not None:
        if _price(request, chosen, aggregation.aggregator.writer(chosen), views, wanted) <= budget.max_usd:
            break
        chosen = chosen[:-1]
    if budget.max_tokens is None:
        return chosen, None
    return chosen, max(1, budget.max_tokens // (len(chosen) + extra))


def _tokens_wanted(request: Request) -> int:
    bound = number(request.body.get("max_completion_tokens") or request.body.get("max_tokens"))
    return _USUAL_TOKENS if bound is None else int(bound)


def _price(
    request: Request,
    asked: Sequence[Asked],
    writer: ExpertId | None,
    views: Mapping[ExpertId, ExpertView],
    tokens: int,
) -> float:
    """Estimated US dollars: prompts by their length, answers as long as allowed. Unknown prices count 0."""
    prompt = len(request.text) / _CHARS_PER_TOKEN
    legs = [(each.expert, prompt) for each in asked]
    if writer is not None:
        legs.append((writer, prompt + tokens * len(asked)))
    total = 0.0
    for expert, tokens_in in legs:
        view = views.get(expert)
        if view is not None:
            total += tokens_in * (view.usd_per_mtok_in or 0.0) + tokens * (view.usd_per_mtok_out or 0.0)
    return total / 1e6
