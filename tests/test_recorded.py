"""Recorded runs: reading outcome sets, folds without leaks, what rows and the default say."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from coe.cli import main as coe
from coe.core.errors import ConfigError
from coe.eval.recorded.combining import First, Vote, WeightedVote
from coe.eval.recorded.folds import cross_folds, split_folds, wording
from coe.eval.recorded.methods import expert_accuracy
from coe.eval.recorded.report import all_rows, figures
from coe.eval.recorded.run import listed
from coe.eval.recorded.study import Plan, Study
from coe.eval.recorded.tradeoff import tradeoff
from coe.outcomes.combiner_fits import available_top
from coe.outcomes.outcome_set import OutcomeSet, Question, read_outcomes
from coe.routers.encoders.encoder import Vectors

EXPERTS = ("adder", "calendar, the", "parrot")
TOPICS = ("sums", "dates")


def write_set(folder: Path, questions: Sequence[dict[str, Any]], outcomes: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("questions", questions), ("outcomes", outcomes)):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / f"{name}.parquet")
    with (folder / "experts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["expert", "input_usd_per_mtok", "output_usd_per_mtok", "parameters_b", "note"])
        writer.writerows([["adder", 1, 2, 7, "x"], ["calendar, the", "", "", "", ""]])
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two topics, each with its own specialist; the parrot is right one time in five."""
    questions, outcomes = [], []
    for i in range(120):
        topic = TOPICS[i % 2]
        questions.append(
            {
                "question_id": f"q{i}",
                "question": f"{topic} {topic} number {i}",
                "options": ["yes", "no"],
                "category": topic,
                "split": "heldout" if i % 4 == 3 else "dev",
                "prompt_tokens": 100,
                "surprise": 1,
            }
        )
        right = {"adder": topic == "sums", "calendar, the": topic == "dates", "parrot": i % 5 == 0}
        for expert, is_right in right.items():
            answer = "A" if is_right else "B"
            outcomes.append({"question_id": f"q{i}", "expert": expert, "score": float(is_right)})
            outcomes[-1] |= {"answer": answer, "output_tokens": 50}
    return write_set(tmp_path / "toy", questions, outcomes)


def topic_vectors(outcomes: OutcomeSet) -> Vectors:
    """One direction a topic, plus a little of the question's own; zero without text."""
    rows = np.random.default_rng(0).normal(scale=0.01, size=(len(outcomes), 4)).astype(np.float32)
    for row, question in zip(rows, outcomes.questions, strict=True):
        row[TOPICS.index(question.category)] += 1
        row /= np.linalg.norm(row)
        row *= question.text is not None
    return rows


def study_of(outcomes: OutcomeSet, **plan: Any) -> Study:
    usual: dict[str, Any] = {"routers": ("knn",), "aggregators": ("vote",), "experts_per_query": (1,)}
    usual["folds"] = cross_folds(outcomes.questions, 4, 0)
    return Study(outcomes, topic_vectors(outcomes), Plan(**(usual | plan)))


# Reading


def test_what_stands_in_the_files_is_read(folder: Path) -> None:
    outcomes = read_outcomes(folder)
    assert outcomes.name == "toy"
    assert outcomes.experts == EXPERTS
    assert outcomes.questions[0].text == "sums sums number 0\nA. yes\nB. no"
    assert outcomes.scores[0].tolist() == [1.0, 0.0, 1.0]
    assert outcomes.costs[0, 0] == pytest.approx((100 * 1 + 50 * 2) / 1e6)
    assert np.isnan(outcomes.costs[0, 1]), "no price is no price, not nothing to pay"
    assert outcomes.parameters_b[0] == 7


def test_gaps_stay_gaps(tmp_path: Path) -> None:
    questions = [{"question_id": "1", "question": None}, {"question_id": "2", "question": "Two?"}]
    outcomes = [
        {"question_id": "1", "expert": "a", "score": 0.5},
        {"question_id": "2", "expert": "b", "score": 1.0},
        {"question_id": "of another set", "expert": "b", "score": 1.0},
    ]
    found = read_outcomes(write_set(tmp_path / "gaps", questions, outcomes))
    assert found.questions[0].text is None
    assert found.answers is None
    assert np.isnan(found.scores).tolist() == [[False, True], [True, False]]
    assert {question.category for question in found.questions} == {"uncategorised"}


def test_pool_keeps_questions_that_it_answered(tmp_path: Path) -> None:
    questions = [{"question_id": "1", "question": "One?"}, {"question_id": "2", "question": "Two?"}]
    outcomes = [
        {"question_id": "1", "expert": "a", "score": 1.0},
        {"question_id": "2", "expert": "b", "score": 1.0},
    ]
    part = read_outcomes(write_set(tmp_path / "x", questions, outcomes)).pool(["b"])
    assert [question.id for question in part.questions] == ["2"]


def test_faults_say_where_and_what(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'no expert "addr"; did you mean "adder"'):
        read_outcomes(folder).pool(["addr"])
    with pytest.raises(ConfigError, match=r"questions\.parquet cannot be read"):
        read_outcomes(tmp_path / "nothing")
    bare = write_set(tmp_path / "bare", [{"question_id": "1"}], [{"question_id": "1", "expert": "a"}])
    with pytest.raises(ConfigError, match="lacks the column score"):
        read_outcomes(bare)


def test_a_name_with_a_comma_is_quoted() -> None:
    assert listed('adder, "calendar, the" ,parrot') == ("adder", "calendar, the", "parrot")


# Folds


def test_equal_wordings_share_a_fold() -> None:
    questions = [Question(str(i), stem=f"Question {i // 2}{'?' if i % 2 else '!'}") for i in range(40)]
    for fold in cross_folds(questions, 5, seed=1):
        learned = {wording(questions[i]) for i in fold.train}
        assert not learned & {wording(questions[i]) for i in fold.test}
        assert len(fold.test) == 8


def test_folds_ask_every_question_once() -> None:
    questions = [Question(str(i)) for i in range(23)]
    asked = np.concatenate([fold.test for fold in cross_folds(questions, 5, seed=0)])
    assert sorted(asked) == list(range(23))


def test_copies_of_asked_questions_are_not_learned() -> None:
    questions = [Question("1", "Same?", split="dev"), Question("2", "Other?", split="dev")]
    questions.append(Question("3", "same", split="heldout"))
    [fold] = split_folds(questions, "dev", "heldout")
    assert (fold.train.tolist(), fold.test.tolist()) == ([1], [2])
    with pytest.raises(ConfigError, match=r'split "held"; did you mean "heldout"'):
        split_folds(questions, "dev", "held")


# Ranking and combining


def test_an_expert_without_outcome_is_passed_over() -> None:
    ranking, scores = np.array([[0.9, 0.5, 0.1]]), np.array([[np.nan, 0.0, 1.0]])
    assert available_top(ranking, scores, 3).tolist() == [[1, 2, -1]]


def test_easy_questions_do_not_make_an_expert_best() -> None:
    easy, hard = [1.0, 1.0], [np.nan, 0.0]
    first, second = expert_accuracy(np.array([easy] * 10 + [[0.0, 1.0]] * 2 + [hard] * 20))
    assert first < second


def test_votes() -> None:
    said = np.asarray(
        [["A", "B", "B", None], [None, "free", "text", "text"], ["A", "B", "C", "D"]], dtype=object
    )
    nothing = np.full(4, np.nan)
    outcomes = OutcomeSet(
        name="said",
        questions=tuple(Question(str(i), "?", ("a", "b", "c", "d")) for i in range(3)),
        experts=("x", "y", "z", "w"),
        scores=np.tile([0.1, 0.2, 0.3, 0.4], (3, 1)),
        answers=said,
        costs=np.full((3, 4), np.nan),
        active_b=nothing,
        parameters_b=nothing,
    )
    chances = np.tile([0.9, 0.3, 0.3, 0.9], (3, 1))
    everyone, w_alone = np.tile(np.arange(4), (3, 1)), np.tile([3, -1, -1], (3, 1))
    y_first = np.tile([1, 0, 2, 3], (3, 1))
    assert First().scores(outcomes, everyone, chances).tolist() == [0.1, 0.1, 0.1]
    assert Vote().scores(outcomes, everyone, chances).tolist() == [0.2, 0.3, 0.1], "of those the best ranked"
    assert Vote().scores(outcomes, y_first, chances).tolist() == [0.2, 0.3, 0.1], "of equals the more trusted"
    assert WeightedVote().scores(outcomes, everyone, chances).tolist() == [0.1, 0.3, 0.1]
    assert Vote().scores(outcomes, w_alone, chances).tolist() == [0.4, 0.4, 0.4], "also without an answer"


# Rows


@pytest.mark.slow
def test_specialists_are_found_and_the_default_routes(folder: Path) -> None:
    study = study_of(read_outcomes(folder), routers=("static", "knn", "oracle"))
    rows = {row.router: row for row in all_rows(study)}
    assert (rows["static"].accuracy or 0) < 0.6
    assert rows["knn"].accuracy == 1.0
    assert rows["default"].accuracy == 1.0
    assert rows["default"].default
    assert rows["oracle"].regret == 0.0
    assert rows["knn"].paired_diff is not None
    assert rows["knn"].paired_diff.low > 0
    assert rows["knn"].cost_usd_per_1k is None, "one expert has no price"


@pytest.mark.slow
def test_where_routing_cannot_help_the_default_is_the_best_single(folder: Path) -> None:
    outcomes = read_outcomes(folder)
    draws = np.random.default_rng(3)
    noise = (draws.random(outcomes.scores.shape) < [0.5, 0.45, 0.4]).astype(np.float64)
    study = study_of(OutcomeSet(**(vars(outcomes) | {"scores": noise})))
    assert {choice.router for choice in study.default_choices(1)} == {"static"}


@pytest.mark.slow
def test_exactly_one_default_for_each_number_of_experts(folder: Path) -> None:
    study = study_of(
        read_outcomes(folder), experts_per_query=(1, 2, 3), aggregators=("vote", "weighted_vote")
    )
    rows = list(all_rows(study))
    for count in (1, 2, 3):
        assert sum(row.default for row in rows if row.experts_per_query == count) == 1
    assert {row.aggregator for row in rows if row.experts_per_query == 3} >= {"vote", "weighted_vote"}


@pytest.mark.slow
def test_without_answers_several_experts_cannot_be_measured(folder: Path) -> None:
    outcomes = OutcomeSet(**(vars(read_outcomes(folder)) | {"answers": None}))
    rows = list(all_rows(study_of(outcomes, experts_per_query=(2,))))
    unknown = {(row.router, row.aggregator) for row in rows if row.accuracy is None}
    assert unknown >= {("knn", "vote"), ("best single", "self_consistency")}
    assert all("not measurable" in row.note for row in rows if row.accuracy is None)
    assert "adaptive" not in {row.router for row in rows}


def test_questions_without_text_go_to_the_best_expert_of_training(folder: Path) -> None:
    outcomes = read_outcomes(folder)
    blind = tuple(Question(q.id, category=q.category) for q in outcomes.questions)
    study = study_of(OutcomeSet(**(vars(outcomes) | {"questions": blind})))
    rows = {row.router: row for row in all_rows(study)}
    assert rows["knn"].accuracy == study.asked("static", "first", 1).scores.mean()


def test_test_labels_are_never_an_input(folder: Path) -> None:
    outcomes = read_outcomes(folder)
    folds = split_folds(outcomes.questions, "dev", "heldout")
    vectors = topic_vectors(outcomes)
    swapped = tuple(
        Question(q.id, q.stem, q.options, "nonsense" if q.split == "heldout" else q.category, q.split)
        for q in outcomes.questions
    )
    other = OutcomeSet(**(vars(outcomes) | {"questions": swapped}))
    plan = study_of(outcomes, folds=folds).plan
    asked = [Study(each, vectors, plan).asked("knn", "first", 1).probabilities for each in (outcomes, other)]
    assert np.array_equal(*asked)


@pytest.mark.slow
def test_document_has_what_was_promised(folder: Path) -> None:
    study = study_of(read_outcomes(folder))
    document = figures(study, list(all_rows(study)), seconds=1.0)
    assert set(document) >= {
        "rows",
        "best_single",
        "random",
        "category_oracle",
        "oracle",
        "knn",
        "majority",
        "meta",
    }
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["category_oracle"]["accuracy"] == 1.0
    assert document["random"]["accuracy"] == pytest.approx(0.4)


@pytest.mark.slow
def test_command_prints_the_table_and_writes_json(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "coe.outcomes.vectors.question_vectors", lambda outcomes, encoder: topic_vectors(outcomes)
    )
    out = tmp_path / "out.json"
    arguments = ["eval", "recorded", "--outcomes", str(folder), "--json", str(out), "--routers", "knn"]
    arguments += ["--pool", 'adder,"calendar, the"', "--train-split", "dev", "--test-split", "heldout"]
    result = CliRunner().invoke(coe, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "| **default** |" in result.output
    assert json.loads(out.read_text())["meta"]["questions"] == 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--routers", "knnn"], 'did you mean "knn"'),
        (["--aggregators", "votes"], 'did you mean "vote"'),
        (["--experts-per-query", "9"], "the pool has only 3"),
        (["--experts-per-query", "a"], "not a list of numbers"),
        (["--train-split", "dev"], "give both"),
    ],
)
def test_wrong_arguments_get_a_clear_word(folder: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(coe, ["eval", "recorded", "--outcomes", str(folder), *arguments])
    assert result.exit_code != 0
    assert message in result.output


def test_cost_quality_curve_finds_the_cheap_expert_where_it_is_as_good(folder: Path) -> None:
    outcomes = read_outcomes(folder)
    costs = np.tile([0.001, 0.010, 0.001], (len(outcomes), 1))
    priced = tradeoff(study_of(OutcomeSet(**(vars(outcomes) | {"costs": costs}))), "knn")
    assert priced.unit.startswith("US dollars")
    assert priced.points[0].cost == pytest.approx(1.0)
    assert priced.points[-1].quality == 1.0
    assert priced.points[-1].cost == pytest.approx(5.5)


def test_without_prices_cost_is_the_share_of_calls_to_the_best_expert(folder: Path) -> None:
    outcomes = read_outcomes(folder).pool(["adder", "parrot"])
    found = tradeoff(study_of(outcomes), "knn")
    assert found.unit.startswith("share of calls")
    assert found.best_cost == 1.0
    assert found.share is not None
    assert found.share < 0.6
