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
    seen = rng.choice(left, size=min(len(left), max(_LOOKED_AT, size)), replace=False)
    return seen[_most_telling(model, posterior, seen, size)]


def _most_telling(model: NewcomerModel, posterior: Posterior, seen: Rows, size: int) -> Rows:
    """Places in ``seen``, chosen one after the other; what an answer takes from the variances does not
    depend on whether it is right."""
    gradients = model.gradients(posterior)
    shares = model.membership.mean(axis=0)
    targets = np.vstack([gradients * np.sqrt(shares)[:, None], shares @ gradients])
    features = model.features[seen]
    p = model.probabilities(posterior)[seen]
    information = p * (1 - p)
    with_all = features @ posterior.covariance
    variance = (with_all * features).sum(axis=1)
    with_targets = with_all @ targets.T
    found: list[int] = []
    for _ in range(size):
        weight = information / (1 + information * variance)
        gain = (with_targets**2).sum(axis=1) * weight
        gain[found] = -1.0
        best = int(gain.argmax())
        found.append(best)
        with_best = with_all @ features[best]
        with_targets = with_targets - weight[best] * np.outer(with_best, with_targets[best])
        with_all = with_all - weight[best] * np.outer(with_best, with_all[best])
        variance = variance - weight[best] * with_best**2
    return np.asarray(found, dtype=np.intp)
