"""Invented outcomes for tests of aggregators: experts that err together, and built-ins taught by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from coe.aggregators import Outcomes, Setting, build_aggregator
from coe.aggregators.combiner.agreement import AgreementLogit
from coe.aggregators.combiner.fitted import FittedCombiner
from coe.aggregators.combiner.tables import ABSENT, Table
from coe.core.types import ExpertView
from coe.registry.aggregation_settings import AggregatorSpec

VIEWS = tuple(ExpertView(id=f"e{i}") for i in range(5))


def outcomes(copies: bool = True, n: int = 400) -> Outcomes:
    """e1 is a copy of e0 (if ``copies``); e2 is independent of both."""
    rng = np.random.default_rng(0)
    first = rng.random(n) < 0.6
    second = first if copies else rng.random(n) < 0.6
    right = np.stack([first, second, rng.random(n) < 0.6], axis=1)
    return Outcomes(("e0", "e1", "e2"), right.astype(np.float32))


def recorded(seed: int, n: int = 600) -> tuple[Table, Any]:
    """A table and its scores: "e1" and "e2" are copies that err together, "e0" is right more often than its
    chance says. The right answer is 10."""
    rng = np.random.default_rng(seed)
    good, crowd = rng.random(n) < 0.8, rng.random(n) < 0.45
    crowd_said = np.where(crowd, 10, 11)
    answers = np.stack([np.where(good, 10, rng.integers(11, 13, n)), crowd_said, crowd_said], axis=1)
    answers[rng.random((n, 3)) < 0.05] = ABSENT
    table = Table(("e0", "e1", "e2"), answers, np.full((n, 3), 0.6), lengths=np.full((n, 3), 20.0))
    return table, (answers == 10).astype(float)


def fitted(path: Path) -> Path:
    """Writes a combiner without a stopping rule to ``path`` and returns it."""
    FittedCombiner(AgreementLogit().fit(*recorded(seed=0))).save(path)
    return path


def built(kind: str, **options: Any) -> Any:
    """The aggregator ``kind`` over :data:`VIEWS`, taught by :func:`outcomes`."""
    return build_aggregator(AggregatorSpec(kind=kind, options=options), Setting(VIEWS, outcomes=outcomes()))
