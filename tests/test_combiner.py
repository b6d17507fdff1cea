"""The learned combiner: what it learns, its file, and when it stops asking."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coe.aggregators import Picked
from coe.aggregators.combiner.agreement import AgreementLogit
from coe.aggregators.combiner.fitted import FittedCombiner
from coe.aggregators.combiner.logit import ChoiceLoss
from coe.aggregators.combiner.stopping import FEATURES, Step, Stopping
from coe.aggregators.combiner.tables import ABSENT, Table
from coe.aggregators.combiner.training import heard, rows_of, scores_of, teach, teach_in_stages
from coe.aggregators.votes import majority_vote, weighted_vote
from coe.core.errors import ConfigError
from coe.testing.conformance_aggregator import ScriptedAnswers, check_aggregator, proposal, request
from tests.support.combining import built, recorded

EVERYBODY = np.tile(np.arange(3), (600, 1))
AGREES = ("It is 4.", "The answer is 4.", "4")


def test_it_learns_whom_to_trust_and_beats_the_votes() -> None:
    table, right = recorded(seed=1)
    combiner = AgreementLogit().fit(*recorded(seed=2))
    learned = scores_of(table, right, EVERYBODY, combiner.predict(table)).mean()
    votes = (
        majority_vote(table.answers, table.chances),
        weighted_vote(table.answers, table.chances, table.plausible),
    )
    assert learned > max(scores_of(table, right, EVERYBODY, taken).mean() for taken in votes) + 0.1


def test_two_copies_count_little_more_than_one() -> None:
    table, right = recorded(seed=2)
    alone = AgreementLogit(dependence=False).fit(table, right).candidates(table).features.shape[1]
    assert AgreementLogit().fit(table, right).candidates(table).features.shape[1] == alone + 3, "three pairs"


def test_columns_may_stand_in_any_order() -> None:
    combiner = AgreementLogit().fit(*recorded(seed=4))
    table, _ = recorded(seed=5)
    order = [2, 0, 1]
    turned = replace(
        table,
        experts=tuple(table.experts[i] for i in order),
        answers=table.answers[:, order],
        chances=table.chances[:, order],
        lengths=None,
    )
    assert (combiner.predict(turned) == combiner.predict(replace(table, lengths=None))).all()


def test_an_expert_that_it_does_not_know_counts_by_its_chance() -> None:
    combiner = AgreementLogit().fit(*recorded(seed=4))
    answers, options = np.array([[10, 11]]), np.array([4])
    unlikely = Table(("e1", "new"), answers, np.array([[0.5, 0.03]]), options=options)
    likely = Table(("e1", "new"), answers, np.array([[0.05, 0.97]]), options=options)
    assert (combiner.predict(unlikely)[0], combiner.predict(likely)[0]) == (10, 11)


def test_how_answers_stand_is_a_share_that_sums_to_one() -> None:
    combiner = AgreementLogit().fit(*recorded(seed=4))
    nobody = Table(("e0", "e1"), np.array([[ABSENT, ABSENT], [10, 10]]), np.full((2, 2), 0.5))
    standing = combiner.standing(nobody)
    assert list(standing.winner) == [ABSENT, 10]
    assert list(standing.share) == [0.0, 1.0]
    assert standing.score[1, 1] == 0.0, "there is no other answer"


def test_nothing_can_be_learned_where_nobody_is_right() -> None:
    table, right = recorded(seed=6)
    with pytest.raises(ConfigError, match="no question of the table has a right answer"):
        teach(table, np.zeros_like(right), EVERYBODY)


# ---------------------------------------------------------------- when to stop


def staged(mean_experts: float) -> tuple[FittedCombiner, Table, np.ndarray]:
    table, right = recorded(seed=7)
    return teach_in_stages(table, right, EVERYBODY, mean_experts), table, right


def test_only_those_asked_are_heard() -> None:
    table, _ = recorded(seed=7)
    asked = np.full((600, 2), -1)
    asked[:, 0] = 2
    kept = heard(table, asked).answers
    assert (kept[:, :2] == ABSENT).all()
    assert (kept[:, 2] == table.answers[:, 2]).all()


def test_no_more_experts_than_wanted_are_asked_on_average() -> None:
    prices = []
    for wanted in (1.0, 1.2, 1.5):
        stopping = staged(wanted)[0].stopping
        assert stopping is not None
        prices.append(stopping.price)
    assert prices == sorted(prices, reverse=True), "asking fewer takes a higher price"


def test_it_goes_on_where_another_answer_helps_and_stops_where_it_does_not() -> None:
    draws = np.random.default_rng(0)
    doubtful = draws.random(400) < 0.5
    features = np.zeros((400, FEATURES))
    features[:, 0], features[:, 1] = 1.0, doubtful
    now, then = np.where(doubtful, 0.3, 0.9), np.full(400, 0.9)
    stopping = Stopping.fit([Step(features, now), Step(features, then)], mean_experts=1.6)
    assert ((stopping.gain(1, features) > 0) == doubtful).all()
    assert (stopping.gain(2, features) == -np.inf).all(), "nothing was learned about a third"


def test_those_whom_one_expert_answers_in_any_case_teach_nothing() -> None:
    table, right = recorded(seed=7)
    with pytest.raises(ConfigError, match="nothing to stop"):
        teach_in_stages(table, right, EVERYBODY, 2.0, np.ones(600, dtype=bool))


# ---------------------------------------------------------------- the file, and live answers


def test_a_saved_combiner_does_the_same(tmp_path: Path) -> None:
    made, table, _ = staged(1.3)
    made.save(tmp_path / "c.json")
    again = FittedCombiner.load(tmp_path / "c.json")
    assert (again.combiner.predict(table) == made.combiner.predict(table)).all()
    assert again.stopping is not None
    assert made.stopping is not None
    probe = np.ones((1, FEATURES))
    assert again.stopping.gain(1, probe) == pytest.approx(made.stopping.gain(1, probe))


@pytest.mark.parametrize(
    "content", [None, "{}", "not json", '{"format": "coe combiner 1", "combiner": {}}', '{"format": "other"}']
)
def test_a_file_that_holds_no_combiner_is_a_clear_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "c.json").write_text(content)
    with pytest.raises(ConfigError, match="no fitted combiner"):
        FittedCombiner.load(tmp_path / "c.json")


def test_coefficients_that_do_not_fit_the_experts_are_refused_when_read(tmp_path: Path) -> None:
    made = staged(1.3)[0]
    broken = replace(made.combiner, coefficients_=made.combiner.coefficients_[:-1])
    FittedCombiner(broken).save(tmp_path / "c.json")
    with pytest.raises(ConfigError, match="no fitted combiner"):
        FittedCombiner.load(tmp_path / "c.json")


async def test_live_it_keeps_the_contract_and_takes_the_answer_of_whom_it_trusts(tmp_path: Path) -> None:
    staged(1.3)[0].save(tmp_path / "c.json")
    aggregator = built("learned", path=str(tmp_path / "c.json"))
    await check_aggregator(aggregator)
    assert aggregator.proposing.at_once == 1
    answers = [proposal("e0", "4", 0.6), proposal("e1", "5", 0.6, 1), proposal("e2", "5", 0.6, 2)]
    verdict = await aggregator.combine(request(), ScriptedAnswers(answers))
    assert isinstance(verdict, Picked)
    assert verdict.proposal.expert == "e0"


async def test_live_it_reads_on_only_where_the_service_decides_how_many(tmp_path: Path) -> None:
    staged(1.0)[0].save(tmp_path / "c.json")
    aggregator = built("learned", path=str(tmp_path / "c.json"))
    answers = [proposal(f"e{i}", text, 0.6, i) for i, text in enumerate(AGREES)]
    thrifty, thorough = ScriptedAnswers(answers, adaptive=True), ScriptedAnswers(answers)
    await aggregator.combine(request(), thrifty)
    await aggregator.combine(request(), thorough)
    assert (len(thrifty.read), len(thorough.read)) == (1, 3)


async def test_without_a_rule_everybody_is_asked_at_once(tmp_path: Path) -> None:
    teach(*recorded(seed=0), EVERYBODY).save(tmp_path / "c.json")
    assert built("learned", path=str(tmp_path / "c.json")).proposing.at_once is None


def test_the_fit_is_where_the_loss_is_least_wherever_it_starts() -> None:
    table, right = recorded(seed=4)
    fitted = AgreementLogit().fit(table, right)
    half = np.arange(len(table)) % 2 == 0
    near = AgreementLogit().fit(rows_of(table, np.flatnonzero(half)), right[half])
    again = AgreementLogit().fit(table, right, near)
    np.testing.assert_allclose(again.coefficients_, fitted.coefficients_, atol=1e-4)


def test_the_loss_of_a_choice_is_least_where_its_gradient_vanishes() -> None:
    draws = np.random.default_rng(7)
    question = np.repeat(np.arange(40), 3)
    features, target = draws.normal(size=(120, 4)), np.tile([1.0, 0.0, 0.0], 40)
    target[1] = 1.0  # two right answers to one question
    loss = ChoiceLoss(features, question, target, np.zeros(4), np.full(4, 0.1))
    found = loss.least(np.full(4, 20.0))
    value, gradient = loss(found)
    assert np.abs(gradient).max() < 1e-3
    for direction in np.eye(4):
        assert value < loss(found + 0.01 * direction)[0]
        assert value < loss(found - 0.01 * direction)[0]
