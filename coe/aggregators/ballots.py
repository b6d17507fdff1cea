"""From answers to votes: what counts as the same answer, who leads, and whether that can still change."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coe.aggregators.combiner.tables import ABSENT, FEWEST_OPTIONS, Floats, Ints
from coe.aggregators.protocol import Answers, Asked, Picked, Proposal
from coe.aggregators.votes import Dependence, majority_vote, weighted_vote
from coe.core.extraction import extract, form_of, options_in
from coe.core.types import Request

Key = str
"""The canonical form of an answer; equal for answers that say the same."""

_MOST_CASES = 2_000


@dataclass(frozen=True)
class Vote:
    """One voter's answer. ``key`` is None for an answer that cannot be read; it counts for nothing."""

    asked: Asked
    key: Key | None


Rule = Callable[[Sequence[Asked], Ints], Ints]
"""The winners (n,) of n ballots, each a row of the answers' numbers by voter (n, k), ``ABSENT`` for none;
voters come best ranked first. Deterministic, with ties broken (:mod:`coe.aggregators.votes`)."""


def by_head(voters: Sequence[Asked], answers: Ints) -> Ints:
    """The rule of the plain vote."""
    return majority_vote(answers, _chances(voters, answers))


def by_weight(question: str, dependence: Dependence | None) -> Rule:
    """The rule of the weighted vote on answers to ``question``; ``dependence`` None: who errs together is not
    known, so experts count as independent."""
    options = plausible_answers(question)

    def rule(voters: Sequence[Asked], answers: Ints) -> Ints:
        among = None if dependence is None else dependence.among([voter.expert for voter in voters])
        plausible = np.full(len(answers), options)
        return weighted_vote(answers, _chances(voters, answers), plausible, among)

    return rule


def _chances(voters: Sequence[Asked], answers: Ints) -> Floats:
    """(n, k) the router's probabilities, the same on each ballot."""
    return np.broadcast_to([voter.weight for voter in voters], answers.shape)


def leading(rule: Rule, votes: Sequence[Vote]) -> Key | None:
    """The leading answer of some votes; None when no vote counts."""
    keys = list(dict.fromkeys(vote.key for vote in votes if vote.key is not None))
    ballot = [ABSENT if vote.key is None else keys.index(vote.key) for vote in votes]
    [number] = _decided(rule, [vote.asked for vote in votes], [ballot])
    return None if number == ABSENT else keys[number]


def _decided(rule: Rule, voters: Sequence[Asked], ballots: Sequence[Sequence[int]]) -> Ints:
    order = sorted(range(len(voters)), key=lambda place: voters[place].rank)
    return rule([voters[place] for place in order], np.asarray(ballots)[:, order])


def key_of(request: Request, proposal: Proposal) -> Key | None:
    """What ``proposal`` says, in canonical form; None where the request's form demands an answer that is
    not there. Prose is equal to itself only."""
    if proposal.tool_calls:
        return "tools " + "; ".join(sorted(_call_key(call) for call in proposal.tool_calls))
    form = form_of(request.text, request.body.get("response_format"))
    letters = options_in(request.text)
    found = extract(proposal.text, form, letters) if letters else extract(proposal.text, form)
    if found is not None:
        return f"{found.form} {found.value}"
    if form is not None or not proposal.text.strip():
        return None
    return "verbatim " + " ".join(proposal.text.split())


def plausible_answers(text: str) -> int:
    """How many answers to a question are plausible: as many as it lists options, else the fewest."""
    return len(options_in(text)) or FEWEST_OPTIONS


def _call_key(call: Mapping[str, object]) -> str:
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    arguments = str(function.get("arguments", ""))
    with contextlib.suppress(ValueError):  # what is not JSON is compared as it is
        arguments = json.dumps(json.loads(arguments), sort_keys=True)
    return f"{function.get('name')}({arguments})"


def settled(rule: Rule, votes: Sequence[Vote], outstanding: Sequence[Asked], by_itself: bool = False) -> bool:
    """Whether no answer of those outstanding, nor their silence, can change the winner.

    Exact, by trying every case; False where these are too many. ``by_itself``: each vote counts by itself,
    whoever else votes; then the strongest opposition is all for one rival, and few cases are enough.
    """
    said = list(dict.fromkeys(vote.key for vote in votes if vote.key is not None))
    if not said:
        return not outstanding
    given = [ABSENT if vote.key is None else said.index(vote.key) for vote in votes]
    choices = [ABSENT, *range(len(said) + 1)]  # silence, what was said, and what nobody said yet
    if by_itself:
        cases = [(choice,) * len(outstanding) for choice in choices]
    elif len(choices) ** len(outstanding) > _MOST_CASES:
        return False
    else:
        cases = list(itertools.product(choices, repeat=len(outstanding)))
    voters = [*(vote.asked for vote in votes), *outstanding]
    winners = _decided(rule, voters, [[*given, *case] for case in cases])
    return bool((winners == winners[0]).all())  # in the first case all others are silent


async def elect(request: Request, answers: Answers, rule: Rule, by_itself: bool = False) -> Picked:
    """Read answers until the winner is settled (:func:`settled`); the verdict is the best-weighted voter's
    own answer."""
    votes: list[Vote] = []
    proposals: list[Proposal] = []
    async for proposal in answers:
        proposals.append(proposal)
        votes.append(Vote(proposal.asked, key_of(request, proposal)))
        if answers.outstanding and settled(rule, votes, answers.outstanding, by_itself):
            break
    return picked(proposals, votes, rule)


def picked(proposals: Sequence[Proposal], votes: Sequence[Vote], rule: Rule) -> Picked:
    """The verdict on these votes (one for each proposal, in order)."""
    key = leading(rule, votes)
    if key is None:
        return unreadable(proposals)
    for_it = [p for p, vote in zip(proposals, votes, strict=True) if vote.key == key]
    return Picked(best_weighted(for_it), f"{len(for_it)} of {len(votes)} answers agree ({named(for_it)})")


def unreadable(proposals: Sequence[Proposal]) -> Picked:
    """The verdict where no answer says anything that can be compared."""
    best = best_weighted(proposals)
    return Picked(best, f"no answer could be read, so {best.expert}, the best ranked, answers")


def best_weighted(proposals: Sequence[Proposal]) -> Proposal:
    """The proposal of the expert that the router trusts most; complete answers first."""
    return max(proposals, key=lambda p: (p.complete, p.weight, -p.asked.rank))


def named(proposals: Sequence[Proposal]) -> str:
    counts: dict[str, int] = {}
    for proposal in proposals:
        counts[proposal.expert] = counts.get(proposal.expert, 0) + 1
    return ", ".join(name if n == 1 else f"{name} x{n}" for name, n in counts.items())


def agreed_tool_call(request: Request, proposals: Sequence[Proposal]) -> Picked | None:
    """The tool call that most voters agree on, when at least half of the answers call a tool; else None.

    Tool calls are data for a programme: they are voted on and passed through, never rewritten as prose.
    """
    calling = [p for p in proposals if p.tool_calls]
    return agreed(request, calling) if calling and 2 * len(calling) >= len(proposals) else None


def agreed(request: Request, proposals: Sequence[Proposal]) -> Picked:
    """The verdict of the plain vote."""
    return picked(proposals, [Vote(p.asked, key_of(request, p)) for p in proposals], by_head)
