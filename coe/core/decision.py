"""From a ranking and a rule to a decision: who is chosen, why, and who may take whose place. Pure.

Whatever happens to a decision later (marks of clients, wishes for cost and time, an expert that is awake or
fails, a panel) goes by what is written here, so that no part replaces an expert that was chosen on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from coe.core.types import Decision, ExpertId, ExpertView, Occasion, Ranked, Rule, Substitute, Why

PLAUSIBLE = 0.1
"""An expert takes the place of one that failed only with at least this share of its probability."""


def decide(
    router: str,
    ranking: Sequence[Ranked],
    because: str,
    rule: Rule | None = None,
    category: str | None = None,
) -> Decision:
    """The decision of ``rule`` (none: the likeliest) over ``ranking``, which is not empty and best first.

    ``because`` says in one line what speaks for the ranking.
    """
    rule = rule or Rule()
    ranked = tuple(ranking)
    order, why = _ordered(ranked, rule)
    chances = {each.expert: each.probability for each in ranked}
    return Decision(
        router=router,
        ranking=ranked,
        chosen=order[: rule.count],
        confidence=chances[order[0]],
        reason=_reason(rule, why, order[0], chances[order[0]], because),
        category=category,
        why=why,
        substitutes=tuple(_substitutes(ranked, rule, order, why)),
        rule=rule,
        because=because,
    )


def settled(decision: Decision, general: Sequence[ExpertId] = ()) -> Decision:
    """``decision`` with its substitutes. One that a router made by itself follows no rule known here: unless
    the likeliest are chosen, they stay chosen whatever happens to the probabilities. Chosen ones that it did
    not rank have its confidence as their probability."""
    if decision.rule is not None:
        return decision
    ranked = {each.expert for each in decision.ranking}
    missing = [Ranked(each, decision.confidence) for each in decision.chosen if each not in ranked]
    ranking = sorted((*decision.ranking, *missing), key=lambda each: -each.probability)
    rule = Rule(tuple(general), count=len(decision.chosen))
    if decision.chosen != tuple(each.expert for each in ranking[: rule.count]):
        rule = replace(rule, why="own", prefers=partial(before_all, decision.chosen))
    known = decide(decision.router, ranking, decision.reason, rule, decision.category)
    return replace(known, confidence=decision.confidence, reason=decision.reason)


def with_ranking(decision: Decision, ranking: Sequence[Ranked]) -> Decision:
    """The rule of ``decision`` applied to other probabilities of the same experts, in any order."""
    best_first, known = sorted(ranking, key=lambda each: -each.probability), settled(decision)
    return decide(known.router, best_first, known.because, known.rule, known.category)


def generals(experts: Iterable[ExpertView]) -> tuple[ExpertId, ...]:
    return tuple(view.id for view in experts if view.general)


def before_all(first: Sequence[ExpertId], ranking: Sequence[Ranked]) -> tuple[ExpertId, ...]:
    """``first``, then the others as ranked: what rules prefer that do not go by probability."""
    return tuple(dict.fromkeys((*first, *(each.expert for each in ranking))))


def _ordered(ranking: tuple[Ranked, ...], rule: Rule) -> tuple[tuple[ExpertId, ...], Why]:
    """All experts that may be asked, the most wanted first, and why the first one is."""
    allowed = tuple(each for each in ranking if rule.among is None or each.expert in rule.among)
    if not allowed:
        raise ValueError("a rule allows none of the experts")
    best = allowed[0]
    wanted = tuple(rule.prefers(allowed)) if rule.prefers else tuple(each.expert for each in allowed)
    sure = best.probability if rule.sure is None else rule.sure
    general = next((each.expert for each in allowed if each.expert in rule.general), None)
    if sure < rule.unsure_below and general is not None and best.expert not in rule.general:
        return tuple(dict.fromkeys((general, *wanted))), "unsure"
    if wanted[0] == ranking[0].expert and not rule.fixed:
        return wanted, "best"
    return wanted, "budget" if rule.why == "best" else rule.why


def _reason(rule: Rule, why: Why, expert: ExpertId, probability: float, because: str) -> str:
    if why == "unsure":
        return f"{rule.doubt}, so the general expert {expert} ({because})"
    if why == "best" or not rule.phrase:
        return because
    said = rule.phrase.replace("{expert}", expert).replace("{probability}", f"{probability:.2f}")
    return f"{said}; {because}"


def _substitutes(
    ranking: tuple[Ranked, ...], rule: Rule, order: tuple[ExpertId, ...], why: Why
) -> Iterator[Substitute]:
    """Those after the chosen ones. While another is awake, only the best may be replaced, and where nothing
    but the probabilities has decided: an expert chosen on purpose is waited for."""
    chances = {each.expert: each.probability for each in ranking}
    own, next_one = chances[order[0]], _after_a_failure(rule, order, chances)
    deliberate = why != "best" or rule.prefers is not None or rule.among is not None
    for expert in order[1:]:
        on: set[Occasion] = {"failure"} if expert == next_one else set()
        if expert not in order[: rule.count]:
            on |= set() if rule.alone else {"panel"}
            on |= set() if deliberate else {"awake"}
        yield Substitute(expert, own - chances[expert], frozenset(on))


def _after_a_failure(
    rule: Rule, order: tuple[ExpertId, ...], chances: dict[ExpertId, float]
) -> ExpertId | None:
    """The next one that is plausible, else a general expert. Where nobody else has any probability (always
    the same expert), the router has no opinion and the next one is it."""
    others, floor = order[1:], PLAUSIBLE * chances[order[0]]
    opinion = any(chances[expert] > 0.0 for expert in others)
    plausible = (expert for expert in others if not opinion or chances[expert] >= floor)
    return next(plausible, None) or next((expert for expert in others if expert in rule.general), None)
