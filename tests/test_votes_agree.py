"""The vote and the weighted vote are one thing in the service, on recorded tables and in live runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coe.aggregators import Outcomes, Picked, Setting, build_aggregator
from coe.aggregators.votes import Dependence
from coe.core.types import ExpertView, Request
from coe.eval.live.journal import Answered, History
from coe.eval.live.plan import Settings
from coe.eval.live.prompting import user_text
from coe.eval.live.questions import Item, Questions
from coe.eval.live.records import records_of
from coe.eval.live.run import Asked
from coe.eval.live.task import load_task
from coe.eval.recorded.combining import combiner
from coe.outcomes.combiner_tables import Lessons
from coe.outcomes.outcome_set import Floats, OutcomeSet, Question
from coe.registry.aggregation_settings import AggregatorSpec
from coe.testing.conformance_aggregator import ScriptedAnswers, proposal

OPTIONS = ("one", "two", "three", "four")
TASK = load_task("own_choice")


@dataclass(frozen=True)
class Ballot:
    """One question's answers, best ranked expert first: its name, its chance, the letter that it gives.

    ``known`` are the experts whose outcomes ``right`` (n, m) are known.
    """

    voters: Sequence[tuple[str, float, str | None]]
    known: tuple[str, ...] = ()
    right: Floats | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self.voters)


async def by_service(kind: str, ballot: Ballot, arrival: Sequence[int]) -> str | None:
    """What the aggregator picks when the answers arrive in this order; None where none can be read."""
    outcomes = None if ballot.right is None else Outcomes(ballot.known, ballot.right.astype(np.float32))
    setting = Setting(tuple(ExpertView(id=name) for name in ballot.names), outcomes=outcomes)
    text = user_text(TASK, Item("q", "Which?", "A", OPTIONS))
    body = {"model": "coe", "messages": [{"role": "user", "content": text}]}
    said = [
        proposal(name, f"The answer is ({letter})." if letter else "Hard to say.", chance, rank)
        for rank, (name, chance, letter) in enumerate(ballot.voters)
    ]
    verdict = await build_aggregator(AggregatorSpec(kind=kind), setting).combine(
        Request("r", "chat/completions", "coe", body, text), ScriptedAnswers([said[i] for i in arrival])
    )
    assert isinstance(verdict, Picked)
    return ballot.voters[verdict.proposal.asked.rank][2]


def by_table(kind: str, ballot: Ballot) -> str | None:
    """The same as one row of an outcome set, whose scores say which answer was taken."""
    told = outcome_set(ballot.names, [[letter for _, _, letter in ballot.voters]])
    made, everyone = combiner(kind), np.arange(len(ballot.voters))[None, :]
    if ballot.right is not None:
        lessons = outcome_set(ballot.known, [[None] * len(ballot.known)] * len(ballot.right), ballot.right)
        made = made.fit(Lessons(lessons, np.zeros((0, 0)), np.zeros((0, 0), dtype=np.intp)))
    [score] = made.scores(told, everyone, np.asarray([[chance for _, chance, _ in ballot.voters]]))
    return None if score < 0 else "ABCD"[int(score)]


def outcome_set(
    experts: Sequence[str], answers: Sequence[Sequence[str | None]], right: Floats | None = None
) -> OutcomeSet:
    letters = np.asarray(answers, dtype=object).reshape(len(answers), len(experts))
    numbers = [[-1.0 if letter is None else float("ABCD".index(letter)) for letter in row] for row in answers]
    return OutcomeSet(
        name="made",
        questions=tuple(Question(str(i), "Which?", OPTIONS) for i in range(len(answers))),
        experts=tuple(experts),
        scores=np.asarray(numbers) if right is None else right,
        answers=letters,
        costs=np.full(letters.shape, np.nan),
        active_b=np.full(len(experts), np.nan),
        parameters_b=np.full(len(experts), np.nan),
    )


def by_live_run(kind: str, ballot: Ballot, grouped: bool) -> str | None:
    """The same as the record of a run that recruited all of them."""
    item, history = Item("q", "Which?", "A", OPTIONS), History()
    history.note({"kind": "routed", "question": "q", "ranking": {n: c for n, c, _ in ballot.voters}})
    for name, _, letter in ballot.voters:
        history.note({"kind": "asked", "call": f"q|{name}|0"})
        history.answers[f"q|{name}|0"] = answered(name, letter)
    dependence = None if ballot.right is None else Dependence.fit(ballot.known, ballot.right)
    chosen = Settings(recruit=len(ballot.voters), grouped=grouped, aggregator=kind)
    asked = Asked(TASK, Questions((item,), {}), chosen, {}, "salt", dependence=dependence)
    [record] = records_of(asked, history)
    return record.answer


def answered(name: str, letter: str | None) -> Answered:
    return Answered(
        f"q|{name}|0", name, "", "", letter, float(letter == "A"), 1, 1, None, 1.0, "stop", None, 0.0
    )


async def decided(
    kind: str, ballot: Ballot, arrival: Sequence[int] | None = None
) -> Mapping[str, str | None]:
    order = range(len(ballot.voters)) if arrival is None else arrival
    return {
        "service": await by_service(kind, ballot, order),
        "table": by_table(kind, ballot),
        "live": by_live_run(kind, ballot, grouped=False),
        "live, grouped": by_live_run(kind, ballot, grouped=True),
    }


async def test_a_sure_expert_outvotes_two_unsure_ones_everywhere() -> None:
    ballot = Ballot([("z", 0.9, "B"), ("x", 0.5, "A"), ("y", 0.45, "A")])
    assert set((await decided("weighted_vote", ballot)).values()) == {"B"}
    assert set((await decided("vote", ballot)).values()) == {"A"}


async def test_copies_do_not_outvote_a_better_expert_anywhere() -> None:
    draws = np.random.default_rng(0).random((400, 2)) < (0.6, 0.66)
    copies = draws[:, [1, 0, 0]].astype(np.float64)
    voters = [("z", 0.66, "B"), ("x", 0.6, "A"), ("y", 0.6, "A")]
    aware = await decided("weighted_vote", Ballot(voters, ("z", "x", "y"), copies))
    assert set(aware.values()) == {"B"}
    unaware = await decided("weighted_vote", Ballot(voters))
    assert set(unaware.values()) == {"A"}


async def test_ties_go_to_the_more_trusted_and_then_to_the_better_ranked() -> None:
    trusted = Ballot([("x", 0.5, "A"), ("y", 0.4, "B"), ("z", 0.4, "B"), ("w", 0.1, "A")])
    assert set((await decided("vote", trusted)).values()) == {"B"}
    ranked = Ballot([("x", 0.5, None), ("y", 0.4, "C"), ("z", 0.4, "B"), ("w", 0.1, None)])
    assert set((await decided("vote", ranked)).values()) == {"C"}
    assert set((await decided("weighted_vote", ranked)).values()) == {"C"}


@st.composite
def ballots(draw: st.DrawFn) -> Ballot:
    """Chances of a few values, so that there are ties; some voters abstain, some are unknown, some known
    experts do not vote."""
    chances = st.sampled_from([0.0, 0.3, 0.45, 0.5, 0.55, 0.6, 0.66, 0.75, 1.0])
    letters = st.sampled_from(["A", "B", "A", "B", "C", None])
    names = draw(st.permutations(["e0", "e1", "e2", "e3", "e4"]))[: draw(st.integers(1, 5))]
    ranked = sorted((draw(chances) for _ in names), reverse=True)
    voters = [(name, chance, draw(letters)) for name, chance in zip(names, ranked, strict=True)]
    known = tuple(draw(st.permutations(["e0", "e1", "e2", "e3", "elsewhere"]))[: draw(st.integers(0, 5))])
    if not known:
        return Ballot(voters)
    # Some err as others do: each copies one of two, but for some questions.
    draws = np.random.default_rng(draw(st.integers(0, 99)))
    of_two = [draw(st.integers(0, 1)) for _ in known]
    right = draws.integers(0, 2, (60, 2))[:, of_two].astype(float)
    own = draws.random(right.shape) < draw(st.sampled_from([0.0, 0.2, 1.0]))
    right[own] = draws.integers(0, 2, int(own.sum()))
    right[draws.random(right.shape) < 0.1] = np.nan
    return Ballot(voters, known, right)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vote", "weighted_vote"])
@given(ballots(), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
@example(Ballot([("e0", 0.5, None)]), None)
async def test_all_three_take_the_same_answer(kind: str, ballot: Ballot, shuffle: object) -> None:
    arrival = list(range(len(ballot.voters)))
    if shuffle is not None:
        shuffle.shuffle(arrival)  # type: ignore[attr-defined]
    found = await decided(kind, ballot, arrival)
    assert len(set(found.values())) == 1, found
