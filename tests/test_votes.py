"""Votes: when they are settled, what each weighs, and their mathematics on tables."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.aggregators import (
    Asked,
)
from coe.aggregators.ballots import Vote, by_head, key_of, settled
from coe.aggregators.combiner.tables import ABSENT
from coe.aggregators.protocol import Proposal
from coe.aggregators.votes import (
    Dependence,
    error_correlation,
    majority_vote,
    voter_weights,
    weighted_vote,
)
from coe.core.types import Request
from coe.testing.conformance_aggregator import (
    ScriptedAnswers,
    panel,
    proposal,
    request,
)
from tests.support.combining import built, outcomes


def votes(*keys: str | None) -> list[Vote]:
    return [Vote(Asked(f"e{i}", 0.5 - i / 10, i), key) for i, key in enumerate(keys)]


@pytest.mark.parametrize(
    ("keys", "left", "expected"),
    [
        (("a", "a"), 1, True),
        (("a", "b"), 1, False),
        (("a", "a"), 2, False),
        (("a", "a", "a"), 2, True),
        (("a", "a", "b"), 1, False),
        ((None, None), 1, False),
        (("a",), 0, True),
    ],
)
def test_a_vote_is_settled_exactly_when_no_answer_can_change_it(
    keys: tuple[str | None, ...], left: int, expected: bool
) -> None:
    outstanding = [Asked(f"late{i}", 0.9, 9 + i) for i in range(left)]
    assert settled(by_head, votes(*keys), outstanding) is expected
    assert settled(by_head, votes(*keys), outstanding, by_itself=True) is expected


@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=4),
    st.lists(st.floats(0.01, 0.99), max_size=3),
)
def test_few_cases_are_enough_where_each_vote_counts_by_itself(
    keys: list[str | None], chances: list[float]
) -> None:
    outstanding = [Asked(f"late{i}", chance, 9 + i) for i, chance in enumerate(chances)]
    made = votes(*keys)
    assert settled(by_head, made, outstanding, by_itself=True) is settled(by_head, made, outstanding)


OPEN = Request("r", "chat/completions", "coe", {}, "Describe the sea.")


@pytest.mark.parametrize(
    ("texts", "winner", "agree"),
    [
        (("It is blue.", "It is deep.", "It is deep."), 1, "2 of 3"),
        (("It is blue.", "it is blue", "It is deep."), 0, "2 of"),
        # of several lines: what is no short answer counts word by word
        (("It is\nblue.", "It is\ndeep.", "It  is\ndeep. "), 1, "2 of 3"),
        (("Blue.\n\nWide.", "Wide.\n\nDeep.", "Wide.\n\nDeep.", "Blue.\n\nDeep."), 1, "2 of 4"),
        (("Blue.\n\nWide.", "Blue.\n\nDeep.", "Wide.\n\nDeep."), 0, "1 of 3"),
    ],
)
async def test_prose_is_the_same_vote_only_where_it_says_the_same(
    texts: tuple[str, ...], winner: int, agree: str
) -> None:
    verdict = await built("vote").combine(OPEN, ScriptedAnswers(panel(*texts)))
    assert verdict.proposal.text == texts[winner]
    assert agree in verdict.reason


@pytest.mark.parametrize("form", [None, {"type": "json_object"}])
def test_what_an_answer_says_is_none_where_its_form_is_missing_or_nothing_is_said(form: object) -> None:
    asked = replace(OPEN, body={"response_format": form} if form else {})
    assert key_of(asked, proposal("e", "  \n")) is None
    said = key_of(asked, proposal("e", "It is deep."))
    assert (said is None) == (form is not None)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"city": "Rome", "days": 3}', '{"days":3,"city":"Rome"}', True),
        ('{"city": "Rome", "days": 3}', '{"city": "Rome", "days": 4}', False),
        ("not JSON", "not JSON", True),
        ("not JSON", "not json", False),
    ],
)
def test_tool_calls_are_one_vote_where_name_and_arguments_agree(one: str, other: str, same: bool) -> None:
    def call(arguments: str, name: str = "book") -> Proposal:
        return proposal("e", None, tool_calls=[{"function": {"name": name, "arguments": arguments}}])

    assert (key_of(OPEN, call(one)) == key_of(OPEN, call(other))) is same
    assert key_of(OPEN, call(one)) != key_of(OPEN, call(one, "cancel"))


def test_many_samples_stop_when_most_agree() -> None:
    outstanding = [Asked("e0", 0.5, rank) for rank in range(9, 16)]
    assert settled(by_head, votes(*"aaaaaaaaa"), outstanding, by_itself=True)
    assert not settled(by_head, votes(*"aaaaaaaa"), [*outstanding, Asked("e0", 0.5, 16)], by_itself=True)


async def test_a_weighted_vote_lets_one_sure_expert_outvote_two_unsure_ones() -> None:
    answers = [proposal("e0", "4", 0.95, 0), proposal("e1", "5", 0.4, 1), proposal("e2", "5", 0.4, 2)]
    weighted = await built("weighted_vote", dependence=False).combine(request(), ScriptedAnswers(answers))
    by_heads = await built("vote").combine(request(), ScriptedAnswers(answers))
    assert (weighted.proposal.text, by_heads.proposal.text) == ("4", "5")


async def test_two_copies_of_one_expert_do_not_outvote_an_equal_third() -> None:
    answers = [proposal("e2", "4", 0.7, 0), proposal("e0", "5", 0.65, 1), proposal("e1", "5", 0.65, 2)]
    aware = await built("weighted_vote").combine(request(), ScriptedAnswers(answers))
    naive = await built("weighted_vote", dependence=False).combine(request(), ScriptedAnswers(answers))
    assert (aware.proposal.text, naive.proposal.text) == ("4", "5")


async def test_voting_stops_reading_when_it_is_settled() -> None:
    answers = ScriptedAnswers(panel("4", "4", "5"))
    verdict = await built("vote").combine(request(), answers)
    assert verdict.proposal.text == "4"
    assert len(answers.read) == 2


async def test_first_takes_the_first_complete_answer() -> None:
    empty = proposal("e0", "", 0.9, 0)
    verdict = await built("first").combine(request(), ScriptedAnswers([empty, proposal("e1", "4", 0.1, 1)]))
    assert verdict.proposal.expert == "e1"


def test_log_odds_grow_with_the_number_of_wrong_options() -> None:
    [[two], [ten]] = voter_weights(np.array([[0.6], [0.6]]), np.array([2, 10]))
    assert two == pytest.approx(math.log(0.6 / 0.4))
    assert ten == pytest.approx(two + math.log(9))
    [[poor, _]] = voter_weights(np.array([[0.1, 0.5]]), np.array([2]))
    assert poor > 0, "a poor expert never votes against itself"


def test_correlation_is_learned_shrunk_and_never_negative() -> None:
    copies = error_correlation(outcomes().right)
    assert copies[0, 1] > 0.9
    assert copies[0, 2] < 0.2
    assert error_correlation(outcomes(n=30).right)[0, 1] < copies[0, 1]
    opposed = np.array([[1, 0], [0, 1]] * 50, dtype=np.float32)
    assert error_correlation(opposed)[0, 1] == 0
    gaps = np.array([[1, np.nan], [np.nan, 0]], dtype=np.float32)
    assert np.isfinite(error_correlation(gaps)).all()


def test_copies_share_the_weight_of_one_voter() -> None:
    chances = np.array([[0.7, 0.7, 0.7]])
    among = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    [weights] = voter_weights(chances, np.array([2]), among)
    assert weights[0] + weights[1] == pytest.approx(weights[2])


def test_dependence_of_unknown_experts_is_typical_and_of_oneself_complete() -> None:
    learned = Dependence.fit(("e0", "e1", "e2"), outcomes().right)
    among = learned.among(["e0", "e0", "new"])
    assert among[0, 1] == 1.0
    assert among[0, 2] == pytest.approx(learned.typical)


def test_votes_on_tables_skip_what_nobody_answered() -> None:
    answers, chances = np.array([[ABSENT, ABSENT], [3, ABSENT]]), np.full((2, 2), 0.5)
    assert list(majority_vote(answers, chances)) == [ABSENT, 3]
    assert list(weighted_vote(answers, chances, np.array([2, 2]))) == [ABSENT, 3]
