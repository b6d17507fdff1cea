"""Which questions to ask a new expert: those that settle where it is better than the experts known so far.

Bayesian experimental design on :class:`NewcomerModel`. What is to be learned are the means of the
categories. A category weighs by its share of questions and by how near the newcomer's estimate is to the
best known expert there: the chance that a little more knowledge changes the routing (the derivative of the
expected value of perfect information). The next question is the one whose answer is expected to take most
of the weighted variance away (c-optimality summed over categories).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coe.profiles.newcomer import Floats, NewcomerModel, Posterior, Rows

Design = Literal["adaptive", "random"]
BATCH = 20
_EVEN = 0.2
"""Part of a category's weight that it has wherever the newcomer stands: its score is to be known too."""

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
    """Ask ``count`` of the ``allowed`` rows (all when None); adaptively in batches of :data:`BATCH`."""
    rng = np.random.default_rng(seed)
    left = np.arange(len(model.known)) if allowed is None else np.asarray(allowed)
    asked, scores = np.empty(0, dtype=np.intp), np.empty(0)
    posterior = model.prior()
    while len(asked) < count and len(left):
        size = min(BATCH if design == "adaptive" else count, count - len(asked), len(left))
        chosen = next_rows(model, posterior, left, size, design, rng)
        given = answer(chosen)
        told = np.isfinite(given)
        asked, scores = np.append(asked, chosen[told]), np.append(scores, given[told])
        left = np.setdiff1d(left, chosen)
        posterior = model.posterior(asked, scores)
    return Probing(model, asked, scores, posterior)


def next_rows(
    model: NewcomerModel,
    posterior: Posterior,
    left: Rows,
    size: int,
    design: Design,
    rng: np.random.Generator,
) -> Rows:
    """``size`` of the rows ``left``."""
    if design == "random":
        return rng.choice(left, size=size, replace=False)
    chosen: list[int] = []
    for category in _allocated(model, posterior, left, size):
        members = left[model.membership[left, category] > 0]
        chosen.append(int(rng.choice(np.setdiff1d(members, chosen))))
    return np.asarray(chosen, dtype=np.intp)


def _allocated(model: NewcomerModel, posterior: Posterior, left: Rows, size: int) -> list[int]:
    """The categories to draw ``size`` questions from, each seen as its mean question."""
    shares = model.membership / model.membership.sum(axis=0)
    p = 1 / (1 + np.exp(-(model.features @ posterior.mean)))
    information = shares.T @ (p * (1 - p))
    features = shares.T @ model.features
    targets = model.gradients(posterior) * np.sqrt(_weights(model, posterior))[:, None]
    covariance = posterior.covariance.copy()
    room = model.membership[left].sum(axis=0)
    found: list[int] = []
    for _ in range(size):
        known = features @ covariance
        variance = np.einsum("ij,ij->i", known, features)
        gain = ((known @ targets.T) ** 2).sum(axis=1) * information / (1 + information * variance)
        best = int(np.argmax(np.where(room > 0, gain, -1.0)))
        found.append(best)
        room[best] -= 1
        # What the answer will take from the covariance, whatever it is.
        covariance -= np.outer(known[best], known[best]) * (
            information[best] / (1 + information[best] * variance[best])
        )
    return found


def _weights(model: NewcomerModel, posterior: Posterior) -> Floats:
    """(categories,) of the variance of each category's mean."""
    estimates = model.by_category(posterior, np.empty(0, dtype=np.intp))
    mean = np.asarray([each.mean for each in estimates])
    deviation = np.asarray([max(each.deviation, 1e-6) for each in estimates])
    shares = model.membership.mean(axis=0)
    z = (mean - model.best_known()) / deviation
    weights: Floats = shares * (_EVEN + np.exp(-(z**2) / 2)) / deviation
    return weights
