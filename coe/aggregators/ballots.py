"""From answers to votes: what counts as the same answer, who leads, and whether that can still change."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from coe.aggregators.protocol import Answers, Asked, Picked, Proposal
from coe.core.extraction import extract, form_of, options_in
from coe.core.types import Request

Key = str
"""The canonical form of an answer; equal for answers that say the same."""

NEW = "\0 an answer that nobody gave yet"
_MOST_CASES = 2_000


@dataclass(frozen=True)
class Vote:
    """One voter's answer. ``key`` is None for an answer that cannot be read; it counts for nothing."""

    asked: Asked
    key: Key | None


Winner = Callable[[Sequence[Vote]], Key | None]
"""The leading answer of some votes; None when no vote counts. Deterministic, with ties broken."""


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


def _call_key(call: Mapping[str, object]) -> str:
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    arguments = str(function.get("arguments", ""))
    with contextlib.suppress(ValueError):  # what is not JSON is compared as it is
        arguments = json.dumps(json.loads(arguments), sort_keys=True)
    return f"{function.get('name')}({arguments})"


def settled(
    winner: Winner, votes: Sequence[Vote], outstanding: Sequence[Asked], by_itself: bool = False
) -> bool:
    """Whether no answer of those outstanding, nor their silence, can change the winner.

    Exact, by trying every case; False where these are too many. ``by_itself``: each vote counts by itself,
    whoever else votes; then the strongest opposition is all for one rival, and few cases are enough.
    """
    leader = winner(votes)
    if leader is None:
        return not outstanding
    said = {vote.key for vote in votes if vote.key is not None}
    choices = [leader, *sorted(said - {leader}), NEW, None]
    cases: Iterable[tuple[Key | None, ...]]
    if by_itself:
        cases = ((choice,) * len(outstanding) for choice in choices)
    elif len(choices) ** len(outstanding) > _MOST_CASES:
        return False
    else:
        cases = itertools.product(choices, repeat=len(outstanding))
    return all(
        winner([*votes, *(Vote(a, k) for a, k in zip(outstanding, keys, strict=True))]) == leader
        for keys in cases
    )


async def elect(request: Request, answers: Answers, winner: Winner, by_itself: bool = False) -> Picked:
    """Read answers until the winner is settled (:func:`settled`); the verdict is the best-weighted voter's
    own answer."""
    votes: list[Vote] = []
    proposals: list[Proposal] = []
    async for proposal in answers:
        proposals.append(proposal)
        votes.append(Vote(proposal.asked, key_of(request, proposal)))
        if answers.outstanding and settled(winner, votes, answers.outstanding, by_itself):
            break
    return picked(proposals, votes, winner)


def picked(proposals: Sequence[Proposal], votes: Sequence[Vote], winner: Winner) -> Picked:
    """The verdict on these votes (one for each proposal, in order)."""
    key = winner(votes)
    if key is None:
        best = best_weighted(proposals)
        return Picked(best, f"no answer could be read, so {best.expert}, the best ranked, answers")
    for_it = [p for p, vote in zip(proposals, votes, strict=True) if vote.key == key]
    best = best_weighted(for_it)
    return Picked(best, f"{len(for_it)} of {len(votes)} answers agree ({named(for_it)})")


def best_weighted(proposals: Sequence[Proposal]) -> Proposal:
    """The proposal of the expert that the router trusts most; complete answers first."""
    return max(proposals, key=lambda p: (p.complete, p.weight, -p.asked.rank))


def named(proposals: Sequence[Proposal]) -> str:
    counts: dict[str, int] = {}
    for proposal in proposals:
        counts[proposal.expert] = counts.get(proposal.expert, 0) + 1
    return ", ".join(name if n == 1 else f"{name} x{n}" for name, n in counts.items())


def agreed_tool_call(request: Request, proposals: Sequence[Proposal], winner: Winner) -> Picked | None:
    """The tool call that the voters agree on, when at least half of the answers call a tool; else None.

    Tool calls are data for a programme: they are voted on and passed through, never rewritten as prose.
    """
    calling = [p for p in proposals if p.tool_calls]
    if not calling or 2 * len(calling) < len(proposals):
        return None
    return picked(calling, [Vote(p.asked, key_of(request, p)) for p in calling], winner)
