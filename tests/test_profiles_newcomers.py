"""Newcomers: what few answers tell, and which questions to ask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.probing import probe_in_steps
from coe.onboarding.profiler import Probes, profile_recorded
from coe.profiles.evidence import evidence_of
from coe.profiles.newcomer import NewcomerModel
from coe.profiles.probing import Design, next_rows, probe
from coe.profiles.store import open_store
from tests.support.profiles import data, known_and_newcomer, registry_of


@pytest.mark.parametrize("design", ["adaptive", "random"])
def test_few_answers_tell_a_newcomers_categories(design: str) -> None:
    known, truth = known_and_newcomer()
    found = probe(NewcomerModel(known), lambda rows: truth[rows], 150, design=design)  # type: ignore[arg-type]
    assert len(found.rows) == len(set(found.rows)) == 150
    labels = np.asarray(known.categories)
    for each in found.model.by_category(found.posterior, found.rows):
        assert abs(each.mean - truth[labels == each.category].mean()) < 0.15
        assert 0 < each.deviation < 0.15


def test_answers_narrow_the_estimate() -> None:
    known, truth = known_and_newcomer()
    model = NewcomerModel(known)
    few, many = (probe(model, lambda rows: truth[rows], count) for count in (20, 200))

    def widths(found: object) -> float:
        return sum(e.deviation for e in model.by_category(found.posterior, found.rows))  # type: ignore[attr-defined]

    assert widths(many) < widths(few)


def test_chosen_questions_are_expected_to_tell_more_than_random_ones() -> None:
    model = NewcomerModel(known_and_newcomer()[0])
    prior = model.prior()
    p = model.probabilities(prior)
    gradient = model.membership.mean(axis=0) @ model.gradients(prior)

    def left_unknown(design: str) -> float:
        rows = next_rows(model, prior, np.arange(600), 30, design, np.random.default_rng(0))  # type: ignore[arg-type]
        told = (model.features[rows].T * (p * (1 - p))[rows]) @ model.features[rows]
        return float(gradient @ np.linalg.solve(np.linalg.inv(prior.covariance) + told, gradient))

    assert left_unknown("adaptive") < 0.9 * left_unknown("random")


def test_newcomer_that_answers_as_a_known_expert_is_expected_to_surprise_where_that_one_does() -> None:
    known, _ = known_and_newcomer()
    twin = known.scores[:, known.experts.index("counter")].astype(np.float64)
    found = probe(NewcomerModel(known), lambda rows: twin[rows], 150)
    unasked = np.setdiff1d(np.arange(len(known)), found.rows)
    right, wrong = unasked[twin[unasked] == 1], unasked[twin[unasked] == 0]
    assert found.probabilities[right].mean() > found.probabilities[wrong].mean() + 0.3


@pytest.mark.slow
def test_more_known_experts_than_directions_are_kept_few() -> None:
    rng = np.random.default_rng(0)
    known, _ = known_and_newcomer(120)
    scores = (rng.random((120, 50)) < 0.5).astype(np.float32)
    many = replace(
        known, experts=tuple(map(str, range(50))), scores=scores, counts=np.ones_like(scores), cost_usd=()
    )
    model = NewcomerModel(many)
    assert model.features.shape[1] < 2 + 3 + 10 + 50
    assert np.isfinite(probe(model, lambda rows: scores[rows, 0].astype(float), 20).probabilities).all()


def test_unanswered_probes_are_not_counted() -> None:
    known, truth = known_and_newcomer()
    truth = truth.copy()
    truth[::2] = np.nan
    found = probe(NewcomerModel(known), lambda rows: truth[rows], 40)
    assert len(found.rows) == 40
    assert np.isfinite(found.scores).all()


@pytest.mark.parametrize("design", ["adaptive", "random"])
def test_probing_in_steps_finds_what_probing_so_far_finds(design: Design) -> None:
    known, truth = known_and_newcomer()
    truth = np.where(np.arange(len(truth)) % 7 == 0, np.nan, truth)
    model, counts = NewcomerModel(known), (30, 40, 95)
    steps = probe_in_steps(model, truth.__getitem__, counts, design, seed=3)
    for count, found in zip(counts, steps, strict=True):
        alone = probe(model, truth.__getitem__, count, design=design, seed=3)
        assert found.rows.tolist() == alone.rows.tolist()
        assert len(found.rows) == count
        np.testing.assert_array_equal(found.posterior.mean, alone.posterior.mean)


def test_newcomer_is_estimated_where_only_one_expert_is_known() -> None:
    known, truth = known_and_newcomer()
    found = probe(NewcomerModel(known.only(["weak"])), lambda rows: truth[rows], 80)
    assert abs(found.probabilities.mean() - truth.mean()) < 0.12


def test_probed_profile_has_observed_answers_and_estimates(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "newcomer")
    made = data()
    profile = profile_recorded(registry, tmp_path, registry.experts[1], made, Probes(40))
    assert profile.overall.count == 40
    evidence = evidence_of(open_store(registry, tmp_path), registry.experts)
    assert evidence is not None
    counts = evidence.counts[:, 1]
    assert (counts == 1).sum() == 40
    assert np.isfinite(evidence.scores[:, 1]).all()
    assert (counts > 0).all()
