"""RouteLLM's routers beside ours: the figures by hand, and its own package where it is installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from benchmarks.peers import accuracy_by_share, own_routers, peer_rows, routellm_installed
from benchmarks.peers_llmrouter import llmrouter_installed
from coe.core.errors import ConfigError
from coe.eval.recorded.folds import cross_folds
from coe.eval.recorded.study import Plan, Study
from coe.outcomes.outcome_set import OutcomeSet, Question

COUNT = 80


def study(experts: tuple[str, ...] = ("strong", "weak")) -> Study:
    """The weak expert is right on even questions, the strong one on three of four; vectors tell which."""
    questions = tuple(
        Question(str(n), f"question {chr(97 + n % 26)}{chr(97 + n // 26)} of many", category="x")
        for n in range(COUNT)
    )
    scores = np.asarray([[float(n % 4 > 0), float(n % 2 == 0)] for n in range(COUNT)])
    vectors = np.eye(4, dtype=np.float32)[np.arange(COUNT) % 4]
    nothing = np.full(len(experts), np.nan)
    outcomes = OutcomeSet("set", questions, experts, np.resize(scores, (COUNT, len(experts))), None,
                          np.full((COUNT, len(experts)), np.nan), nothing, nothing)  # fmt: skip
    return Study(outcomes, vectors, Plan(cross_folds(questions, 2, 0), own_routers(), (), (1,)))


def test_accuracy_grows_as_the_right_questions_go_to_the_strong_expert() -> None:
    strong, weak = np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0])
    good = accuracy_by_share(np.array([3.0, 2.0, 1.0]), strong, weak)
    assert good == pytest.approx([2 / 3, 1, 1, 2 / 3])


def test_every_router_is_asked_about_the_same_questions() -> None:
    rows = {row.router: row for row in peer_rows(study())}
    assert {"random", *own_routers()} <= set(rows)
    assert all(
        row.share_at_95 is None or 0 <= row.share_at_95 <= (row.share_at_99 or 1) for row in rows.values()
    )


def test_a_pool_of_three_is_refused() -> None:
    with pytest.raises(ConfigError, match="between two models"):
        peer_rows(study(("a", "b", "c")))


@pytest.mark.skipif(
    importlib.util.find_spec("llmrouter") is None, reason="pip install --no-deps llmrouter-lib"
)
def test_llmrouters_own_routers_learn_on_our_folds() -> None:
    assert llmrouter_installed()
    rows = {row.router: row for row in peer_rows(study())}
    assert rows["llmrouter mlprouter"].apgr > rows["random"].apgr
    assert "llmrouter mfrouter" in rows


@pytest.mark.skipif(importlib.util.find_spec("routellm") is None, reason="pip install --no-deps routellm")
def test_routellms_own_routers_learn_on_our_folds() -> None:
    assert routellm_installed()
    rows = {row.router: row for row in peer_rows(study())}
    for name in ("routellm matrix factorisation", "routellm similarity-weighted"):
        assert rows[name].apgr > rows["random"].apgr
