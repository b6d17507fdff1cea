"""From an outcome set on disk to a study: pool, folds, vectors."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coe.core.errors import ConfigError
from coe.core.types import ExpertId
from coe.eval.recorded.folds import Fold, cross_folds, split_folds
from coe.eval.recorded.kept import KeptFits, digest_of
from coe.eval.recorded.methods import BASELINES, CASCADE
from coe.eval.recorded.study import Plan, Study, check_plan
from coe.outcomes.outcome_set import OutcomeSet, read_outcomes
from coe.outcomes.vectors import question_vectors
from coe.routers import ESTIMATORS
from coe.routers.encoders.encoder import open_encoder


@dataclass(frozen=True)
class Settings:
    """What `coe eval recorded` was asked for."""

    outcomes: Path
    pool: tuple[ExpertId, ...] = ()
    """empty: every expert of the set"""
    routers: tuple[str, ...] = (*BASELINES, *ESTIMATORS, CASCADE)
    aggregators: tuple[str, ...] = ("vote", "weighted_vote", "learned")
    experts_per_query: tuple[int, ...] = (1,)
    top_p: tuple[float, ...] = ()
    train_split: str | None = None
    test_split: str | None = None
    folds: int = 5
    seed: int = 0
    encoder: str = "minilm-int8"
    fits: Path | None = None
    """folder of fits that several runs share"""


def open_study(settings: Settings) -> Study:
    """Read, check and encode. Blocking: minutes when the texts were never encoded. Raises ConfigError."""
    outcomes = read_outcomes(settings.outcomes)
    outcomes = outcomes.pool(settings.pool or outcomes.experts)
    encoder = open_encoder(settings.encoder, Path())
    plan = Plan(
        folds=_folds(settings, outcomes),
        routers=settings.routers,
        aggregators=settings.aggregators,
        experts_per_query=settings.experts_per_query,
        top_p=settings.top_p,
        seed=settings.seed,
        encoder=encoder.identity,
    )
    check_plan(plan, outcomes)
    vectors = question_vectors(outcomes, encoder)
    kept = None
    if settings.fits is not None:
        kept = KeptFits(settings.fits, digest_of(outcomes, vectors, encoder.identity))
    return Study(outcomes, vectors, plan, kept)


def _folds(settings: Settings, outcomes: OutcomeSet) -> list[Fold]:
    if (settings.train_split is None) != (settings.test_split is None):
        raise ConfigError("give both --train-split and --test-split, or neither to use --folds")
    if settings.train_split is not None and settings.test_split is not None:
        return split_folds(outcomes.questions, settings.train_split, settings.test_split)
    return cross_folds(outcomes.questions, settings.folds, settings.seed)


def listed(text: str) -> tuple[str, ...]:
    """The names of a comma-separated list; one that holds a comma stands in double quotes."""
    cells: Sequence[str] = next(csv.reader([text], skipinitialspace=True), [])
    return tuple(cell.strip() for cell in cells if cell.strip())
