"""Teaching a combiner and its stopping rule from recorded answers. Pure functions on tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from coe.aggregators.combiner.agreement import AgreementLogit
from coe.aggregators.combiner.fitted import FittedCombiner
from coe.aggregators.combiner.stopping import Step, Stopping, standing_features
from coe.aggregators.combiner.tables import ABSENT, Floats, Ints, Mask, Table
from coe.core.errors import ConfigError

PARTS = 5
"""A rule learns how answers stand from fits to all parts of the questions but theirs. Fits to much fewer
questions than the combiner's own are less sure, and would teach it to ask more than is needed."""


def heard(table: Table, asked: Ints) -> Table:
    """``table`` with the answers of the experts ``asked`` (n, k; -1: nobody) alone."""
    kept = np.zeros((len(table), len(table.experts) + 1), dtype=bool)
    np.put_along_axis(kept, asked, True, axis=1)  # -1, nobody, is the last column
    return replace(table, answers=np.where(kept[:, :-1], table.answers, ABSENT))


def ballots(table: Table, asked: Ints) -> tuple[Ints, Floats]:
    """(n, k) answers of the experts ``asked`` (n, k; -1: nobody), and their chances."""
    there = np.maximum(asked, 0)
    answers = np.where(asked >= 0, np.take_along_axis(table.answers, there, axis=1), ABSENT)
    return answers, np.take_along_axis(table.chances, there, axis=1)


def scores_of(table: Table, right: Floats, asked: Ints, taken: Ints) -> npt.NDArray[np.float64]:
    """(n,) scores of the answers ``taken`` (n,); ``right`` (n, m) are those of each expert's answer.

    An answer scores as the best-ranked expert that gave it; where none is taken, that of the best ranked is.
    """
    rows = np.arange(len(table))[:, None]
    gave = (table.answers[rows, asked] == taken[:, None]) & (asked >= 0) & (taken != ABSENT)[:, None]
    giver = np.where(gave.any(axis=1), gave.argmax(axis=1), 0)
    return np.asarray(right[rows[:, 0], asked[rows[:, 0], giver]], dtype=np.float64)


def teach(
    table: Table,
    right: Floats,
    asked: Ints,
    model: AgreementLogit | None = None,
    near: AgreementLogit | None = None,
) -> FittedCombiner:
    """A combiner (``model``, fitted) of the answers of ``asked`` (n, k; best first). Raises ConfigError where
    nobody was right. ``near``: of :meth:`AgreementLogit.fit`."""
    return FittedCombiner((model or AgreementLogit()).fit(heard(table, asked), right, near))


def teach_in_stages(
    table: Table,
    right: Floats,
    asked: Ints,
    mean_experts: float,
    alone: Mask | None = None,
    taught: FittedCombiner | None = None,
) -> FittedCombiner:
    """The same with a rule when to stop asking, so that ``mean_experts`` are asked on average.
    ``taught``: what :func:`teach` gave for the same, where that is at hand.

    The rule learns from answers combined by fits to other questions (in ``PARTS`` parts). ``alone`` marks
    those that one expert answers in any case. Raises ConfigError where nobody was right.
    """
    taught = taught or teach(table, right, asked)
    part_of = np.arange(len(table)) % PARTS
    going_on = np.ones(len(table), dtype=bool) if alone is None else ~alone
    if not going_on.any():
        raise ConfigError("one expert answers every question of the table: there is nothing to stop")
    steps: list[list[Step]] = []
    for part in range(PARTS):
        learned, judged = np.flatnonzero(part_of != part), np.flatnonzero((part_of == part) & going_on)
        fit = teach(rows_of(table, learned), right[learned], asked[learned], near=taught.combiner).combiner
        steps.append(_steps(fit, rows_of(table, judged), right[judged], asked[judged]))
    joined = [
        Step(np.vstack([step.features for step in same]), np.concatenate([step.score for step in same]))
        for same in zip(*steps, strict=True)
    ]
    share = float(going_on.mean())
    wanted = max(1.0, (mean_experts - (1 - share)) / share)
    return replace(taught, stopping=Stopping.fit(joined, wanted))


def _steps(fit: AgreementLogit, table: Table, right: Floats, asked: Ints) -> list[Step]:
    """After one answer, after two, ... after all."""
    steps = []
    for count in range(1, asked.shape[1] + 1):
        part = heard(table, asked[:, :count])
        standing = fit.standing(part)
        score = scores_of(part, right, asked[:, :count], standing.winner)
        steps.append(Step(standing_features(standing, part, coming(table, asked[:, count:])), score))
    return steps


def coming(table: Table, asked: Ints) -> Floats:
    """(n, r) chances of the experts ``asked`` (n, r), NaN for nobody."""
    chances = np.take_along_axis(table.chances, np.maximum(asked, 0), axis=1)
    return np.where(asked >= 0, chances, np.nan)


def rows_of(table: Table, rows: Ints) -> Table:
    """The part of ``table`` with these questions."""
    return replace(
        table,
        answers=table.answers[rows],
        chances=table.chances[rows],
        lengths=None if table.lengths is None else table.lengths[rows],
        options=None if table.options is None else table.options[rows],
    )
