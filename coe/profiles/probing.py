"""Which questions to ask a new expert: those that settle where it is better than the experts known so far.

Bayesian experimental design on :class:`NewcomerModel`. What is to be learned are the expert's mean scores:
over all questions, and in each category, which weighs by its share of questions. The next question is the one
whose answer is expected to take most of their variance away (c-optimality summed over these means), that is
one whose outcome is open and that tells the known experts apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator, default_rng

from coe.profiles.newcomer import Floats, NewcomerModel, Posterior, Rows

Design = Literal["adaptive", "random"]
BATCH = 20
_LOOKED_AT = 600
"""Questions drawn at random, of which a batch is chosen: so that draws differ, and for speed."""

Answer = Callable[[Rows], Floats]
"""Scores in 0..1 of the newcomer on rows of the known evidence; NaN where it gave none."""


@dataclass(frozen=True)
class Probing:
    """What was asked, the scores given, and what follows from them."""

    model: NewcomerModel
    rows: Rows
    scores: Floats
    posterior: Posterior

    @property
    def probabilities(self) -> Floats:
        """(n,) on every row of the known evidence: the score where it was asked, else the estimate."""
        return self.model.probabilities(self.posterior)


def probe(
    model: NewcomerModel,
    answer: Answer,
    count: int,
    *,
    allowed: Rows | None = None,
    design: Design = "adaptive",
    seed: int = 0,
) -> Probing:
    """Ask ``count`` of the ``allowed`` rows (all when None); adaptively in batches of :data:`BATCH`, so that
    larger counts begin with the questions of smaller ones."""
    left = np.arange(len(model.known)) if allowed is None else np.asarray(allowed)
    found, rng = Probing(model, np.empty(0, dtype=np.intp), np.empty(0), model.prior()), default_rng(seed)
    batch = BATCH if design == "adaptive" else count
    while size := min(count - len(found.rows), len(left), batch):
        found, left = ask_more(found, left, answer, size, design, rng)
    return found


def ask_more(
    found: Probing, left: Rows, answer: Answer, size: int, design: Design, rng: Generator
) -> tuple[Probing, Rows]:
    """With ``size`` of the rows ``left`` asked too, and those that are left then."""
    model = found.model
    chosen = next_rows(model, found.posterior, left, size, design, rng)
    given = answer(chosen)
    told = np.isfinite(given)
    rows, scores = np.append(found.rows, chosen[told]), np.append(found.scores, given[told])
    asked = Probing(model, rows, scores, model.posterior(rows, scores))
    return asked, np.setdiff1d(left, chosen, assume_unique=True)


def next_rows(
    model: NewcomerModel,
    posterior: Posterior,
    left: Rows,
    size: int,
    design: Design,
    rng: Generator,
) -> Rows:
    """``size`` of the rows ``left``."""
    if design == "random":
        return rng.choice(left, size=size, replace=False)
    seen = rng.choice(left, size=min(len(left), max(_LOOKED_AT, size)), replace=False)
    return seen[_most_telling(model, posterior, seen, size)]


def _most_telling(model: NewcomerModel, posterior: Posterior, seen: Rows, size: int) -> Rows:
    """Places in ``seen``, chosen one after the other; what an answer takes from the variances does not
    depend on whether it is right."""
    gradients = model.gradients(posterior)
    shares = model.membership.mean(axis=0)
    targets = np.vstack([gradients * np.sqrt(shares)[:, None], shares @ gradients])
    features = model.features[seen]
    p = model.probabilities(posterior, seen)
    information = p * (1 - p)
    with_all = features @ posterior.covariance
    variance = (with_all * features).sum(axis=1)
    with_targets = with_all @ targets.T
    found: list[int] = []
    # Of each one found its covariances then, times the root of its weight: what its answer takes away.
    with_found = np.zeros((len(seen), size))
    for _ in range(size):
        weight = information / (1 + information * variance)
        gain = (with_targets**2).sum(axis=1) * weight
        gain[found] = -1.0
        best = int(gain.argmax())
        found.append(best)
        with_best = with_all @ features[best] - with_found @ with_found[best]
        with_targets -= weight[best] * np.outer(with_best, with_targets[best])
        with_found[:, len(found) - 1] = np.sqrt(weight[best]) * with_best
        variance -= weight[best] * with_best**2
    return np.asarray(found, dtype=np.intp)
