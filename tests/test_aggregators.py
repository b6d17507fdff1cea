"""Aggregators: the contract, the votes' mathematics, checks in a sandbox, and options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.aggregators import (
    BUILT_IN,
    Asked,
    Outcomes,
    Picked,
    Proposing,
    Setting,
    Write,
    aggregator_class,
    build_aggregator,
    build_aggregators,
    checks,
)
from coe.aggregators.ballots import Vote, settled
from coe.aggregators.best_of import chance_of_yes
from coe.aggregators.combiner import Combiner
from coe.aggregators.prompts import shortened, synthesis_body
from coe.aggregators.sandbox import Bounds, Sandbox
from coe.aggregators.vote import by_head
from coe.aggregators.weighing import (
    ABSENT,
    Dependence,
    Table,
    error_correlation,
    log_odds,
    majority_vote,
    voter_weights,
    weighted_vote,
)
from coe.errors import ConfigError
from coe.registry.combining import AggregatorSpec
from coe.registry.models import Registry
from coe.testing.conformance_aggregator import (
    AggregatorContractError,
    ScriptedAnswers,
    check_aggregator,
    panel,
    proposal,
    request,
)
from coe.types import ExpertView

VIEWS = tuple(ExpertView(id=f"e{i}") for i in range(5))


def outcomes(copies: bool = True, n: int = 400) -> Outcomes:
    """e1 is a copy of e0 (if ``copies``); e2 is independent of both."""
    rng = np.random.default_rng(0)
    first = rng.random(n) < 0.6
    second = first if copies else rng.random(n) < 0.6
    right = np.stack([first, second, rng.random(n) < 0.6], axis=1)
    return Outcomes(("e0", "e1", "e2"), right.astype(np.float32))


def fitted(tmp_path: Path) -> Path:
    table, right = recorded(seed=0)
    Combiner().fit(table, right).save(tmp_path / "combiner.json")
    return tmp_path / "combiner.json"


def built(kind: str, tmp_path: Path | None = None, **options: Any) -> Any:
    if kind == "learned" and tmp_path is not None:
        options["path"] = str(fitted(tmp_path))
    return build_aggregator(AggregatorSpec(kind=kind, options=options), Setting(VIEWS, outcomes=outcomes()))


@pytest.mark.parametrize("kind", BUILT_IN)
async def test_built_ins_keep_the_contract(kind: str, tmp_path: Path) -> None:
    await check_aggregator(built(kind, tmp_path))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("synthesise", {"expert": "e4"}),
        ("self_moa_seq", {"expert": "e4", "window": 2}),
        ("best_of", {"expert": "e4", "checks": ["arithmetic", "json"]}),
    ],
)
async def test_built_ins_that_ask_an_expert_keep_the_contract(kind: str, options: dict[str, Any]) -> None:
    aggregator = built(kind, **options)
    await check_aggregator(aggregator)
    assert aggregator.writer([Asked("e0", 0.5, 0)]) == "e4"


async def test_a_plug_in_keeps_the_contract_and_is_built_like_a_built_in() -> None:
    kind = "coe.aggregators.vote:MajorityVote"
    await check_aggregator(build_aggregator(AggregatorSpec(name="mine", kind=kind)))


async def test_the_check_finds_what_is_broken() -> None:
    class Invents:
        name, max_experts, proposing = "invents", 5, Proposing()

        def writer(self, asked: Any) -> None:
            return None

        async def combine(self, request: Any, answers: Any) -> Picked:
            return Picked(proposal("nobody", "made up"), "because")

    with pytest.raises(AggregatorContractError, match="one that was read"):
        await check_aggregator(Invents())


# ---------------------------------------------------------------- votes


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
    two, ten = log_odds(np.array([0.6]), 2)[0], log_odds(np.array([0.6]), 10)[0]
    assert two == pytest.approx(math.log(0.6 / 0.4))
    assert ten == pytest.approx(two + math.log(9))
    assert log_odds(np.array([0.1, 0.5]))[0] > 0, "a poor expert never votes against itself"


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
    chances = np.array([0.7, 0.7, 0.7])
    among = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    weights = voter_weights(chances, among)
    assert weights[0] + weights[1] == pytest.approx(weights[2])


def test_dependence_of_unknown_experts_is_typical_and_of_oneself_complete() -> None:
    learned = Dependence.fit(("e0", "e1", "e2"), outcomes().right)
    among = learned.among(["e0", "e0", "new"])
    assert among[0, 1] == 1.0
    assert among[0, 2] == pytest.approx(learned.typical)


# ---------------------------------------------------------------- the learned combiner


def recorded(seed: int, n: int = 600) -> tuple[Table, Any]:
    """Three experts and two wrong answers: "liar" agrees with "copy" in error, "good" is right more often
    than its chance says."""
    rng = np.random.default_rng(seed)
    good = rng.random(n) < 0.8
    crowd = rng.random(n) < 0.45
    wrong = rng.integers(1, 3, n)
    answers = np.stack([np.where(good, 0, wrong), np.where(crowd, 0, 1), np.where(crowd, 0, 1)], axis=1)
    answers[rng.random((n, 3)) < 0.05] = ABSENT
    table = Table(("good", "copy", "liar"), answers, np.full((n, 3), 0.6), lengths=np.full((n, 3), 20.0))
    return table, np.where((answers == 0).any(axis=1), 0, ABSENT)


def test_the_combiner_learns_whom_to_trust_and_beats_the_votes() -> None:
    table, right = recorded(seed=1)
    combiner = Combiner().fit(*recorded(seed=2))
    answered = right != ABSENT
    learned = (combiner.predict(table) == right)[answered].mean()
    weighed = (weighted_vote(table) == right)[answered].mean()
    heads = (majority_vote(table) == right)[answered].mean()
    assert learned > max(weighed, heads) + 0.1


def test_a_saved_combiner_predicts_the_same(tmp_path: Path) -> None:
    table, right = recorded(seed=3)
    combiner = Combiner().fit(table, right)
    combiner.save(tmp_path / "c.json")
    again = Combiner.load(tmp_path / "c.json")
    assert (again.predict(table) == combiner.predict(table)).all()
    for scores in again.scores(table)[:20]:
        assert not scores or sum(scores.values()) == pytest.approx(1)


def test_a_combiner_counts_experts_that_it_does_not_know_by_weight() -> None:
    combiner = Combiner().fit(*recorded(seed=4))
    stranger = Table(("good", "new"), np.array([[0, 1]]), np.array([[0.6, 0.6]]))
    assert combiner.predict(stranger)[0] == 0


def test_categories_are_learned_where_they_are_known() -> None:
    rng = np.random.default_rng(5)
    n = 400
    sums = rng.random(n) < 0.5
    answers = np.stack([np.where(sums, 0, 1), np.where(sums, 1, 0)], axis=1)
    categories = tuple("sums" if s else "words" for s in sums)
    table = Table(("a", "b"), answers, np.full((n, 2), 0.5), categories=categories)
    right = np.zeros(n, dtype=int)
    assert (Combiner().fit(table, right).predict(table) == right).all()


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_file_that_holds_no_combiner_is_a_clear_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "c.json").write_text(content)
    with pytest.raises(ConfigError, match="no fitted combiner"):
        Combiner.load(tmp_path / "c.json")


def test_votes_on_tables_skip_what_nobody_answered() -> None:
    table = Table(("a", "b"), np.array([[ABSENT, ABSENT], [3, ABSENT]]), np.full((2, 2), 0.5))
    assert list(majority_vote(table)) == list(weighted_vote(table)) == [ABSENT, 3]


# ---------------------------------------------------------------- synthesis


async def test_a_synthesis_is_written_by_the_expert_that_the_test_chose() -> None:
    setting = Setting(VIEWS, best_aggregators={"all": "e3"})
    aggregator = build_aggregator(AggregatorSpec(kind="synthesise"), setting)
    verdict = await aggregator.combine(request(), ScriptedAnswers(panel("4", "5")))
    assert isinstance(verdict, Write)
    assert verdict.expert == "e3"
    assert verdict.otherwise.expert == "e0"


def test_the_prompt_keeps_the_system_message_the_form_and_the_bounds() -> None:
    body = {
        "model": "coe",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}],
        "temperature": 0.2,
        "response_format": {"type": "json_object"},
        "tools": [],
        "stream": True,
    }
    made = synthesis_body(body, ["4", "x" * 900], max_chars=300)
    assert made["messages"][0]["content"].startswith("Be brief.\n\n")
    assert made["messages"][1:] == body["messages"][1:]  # type: ignore[index]
    assert len(made["messages"][0]["content"]) < 1_200
    assert (made["temperature"], made["response_format"]) == (0.2, {"type": "json_object"})
    assert not {"tools", "stream", "model"} & set(made)


def test_a_long_answer_keeps_its_head_and_its_tail() -> None:
    text = "begin " + "x" * 1000 + " end"
    assert len(shortened(text, 200)) <= 200
    assert shortened(text, 200).startswith("begin")
    assert shortened(text, 200).endswith("end")


# ---------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("question", "text", "expected"),
    [
        ("What is 12 + 30?", "42", True),
        ("What is 12 + 30?", "The answer is 43.", False),
        ("What is (2 + 3) * 4?", "20", True),
        ("Why?", "2 + 2 = 5, so it is odd", False),
        ("Write a poem", "The sea", None),
        ("What is 1 / 0?", "0", None),
        ("Is 3 - 1 more than 2 - 1?", "yes", None),
    ],
)
def test_arithmetic_is_recomputed(question: str, text: str, expected: bool | None) -> None:
    assert checks.arithmetic(question, text) is expected


@pytest.mark.parametrize("expression", ["9**9**9", "__import__('os')", "1 if 2 else 3", "(" * 300, "2 +"])
def test_only_arithmetic_is_evaluated(expression: str) -> None:
    assert checks.evaluate(expression) is None


def test_json_is_checked_against_its_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert checks.json_form(wanted, '{"a": 1}') is True
    assert checks.json_form(wanted, '{"a": "1"}') is False
    assert checks.json_form({"type": "json_object"}, "[1]") is False
    assert checks.json_form(None, "{}") is None


SANDBOX = Sandbox(Bounds(seconds=2.0, memory_mb=256))


def test_unit_tests_of_the_question_run_on_the_code_of_the_answer() -> None:
    question = "Write double(x).\nassert double(2) == 4\nassert double(0) == 0"
    assert checks.python_tests(question, "```python\ndef double(x):\n    return 2 * x\n```", SANDBOX) is True
    assert checks.python_tests(question, "```python\ndef double(x):\n    return x\n```", SANDBOX) is False
    assert checks.python_tests("Write a poem", "The sea", SANDBOX) is None


def test_a_programme_is_bounded_in_time_memory_and_files() -> None:
    quick = Sandbox(Bounds(seconds=0.5, memory_mb=256, file_mb=1))
    assert not quick.run("while True: pass").ok
    assert not quick.run("x = bytearray(10**9)").ok
    assert not quick.run("open('big', 'wb').write(b'x' * 10**7)").ok
    shown = SANDBOX.run("import os; print(sorted(os.environ), os.listdir('.'))").output
    assert "COE_DATA" not in shown
    assert "programme.py" in shown


def test_a_programme_does_not_see_the_packages_of_the_service() -> None:
    assert not SANDBOX.run("import numpy").ok


async def test_an_answer_that_passes_its_check_is_taken_at_once() -> None:
    answers = ScriptedAnswers(panel("5", "4", "3"))
    verdict = await built("best_of", checks=["arithmetic"]).combine(request(), answers)
    assert verdict.proposal.text == "4"
    assert len(answers.read) == 2


async def test_checks_are_off_by_default() -> None:
    verdict = await built("best_of").combine(request(), ScriptedAnswers(panel("5", "4")))
    assert verdict.proposal.text == "5"


async def test_a_verifier_says_which_answer_it_trusts() -> None:
    answers = ScriptedAnswers(panel("5", "4"), replies=["No.", "Yes"])
    verdict = await built("best_of", expert="e3").combine(request(), answers)
    assert verdict.proposal.text == "4"
    assert {expert for expert, _ in answers.asks} == {"e3"}


def test_the_verifier_s_log_probabilities_count_where_they_are_given() -> None:
    said = proposal("e0", "yes")
    tops = [{"token": " Yes", "logprob": math.log(0.2)}, {"token": "no", "logprob": math.log(0.6)}]
    said.body["choices"][0]["logprobs"] = {"content": [{"token": "no", "top_logprobs": tops}]}
    assert chance_of_yes(said) == pytest.approx(0.25)
    assert chance_of_yes(proposal("e0", "No, it is not")) == 0.0


# ---------------------------------------------------------------- building


def test_a_registry_s_aggregators_stand_beside_the_built_ins() -> None:
    registry = Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": "e0", "host": "slot", "model": "x"}],
            "aggregator": {"name": "mine", "kind": "vote"},
            "aggregators": [{"kind": "synthesise", "options": {"expert": "e0"}}],
        }
    )
    found = build_aggregators(registry, Setting((ExpertView("e0"),)))
    assert {"mine", "synthesise", "vote", "first", "self_moa"} <= set(found)
    assert "learned" not in found, "it needs a file"
    assert found["mine"].name == "mine"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "vot"}, 'did you mean "vote"'),
        ({"kind": "no.such:Class"}, "cannot be imported"),
        ({"kind": "coe.types:Options"}, "no aggregator class"),
        ({"kind": "synthesise", "options": {"exprt": "e0"}}, "exprt"),
        ({"kind": "synthesise", "options": {"expert": "e9"}}, 'no expert "e9"'),
        ({"kind": "learned"}, "path"),
        ({"kind": "learned", "options": {"path": "nowhere.json"}}, "no fitted combiner"),
    ],
)
def test_what_cannot_be_built_is_a_clear_error(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_aggregator(AggregatorSpec.model_validate(spec), Setting(VIEWS))


def test_built_in_classes_are_found_without_building_them() -> None:
    assert all(aggregator_class(kind).options_type for kind in BUILT_IN)
