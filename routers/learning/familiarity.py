"""How probable it is that a question is of a kind that some specialist is known for.

Probabilities of right answers say little of a question that is far from all that they were learned from: a
greeting is somewhere near some example. So what specialists are known by, their examples, profiles and cards,
is set against everyday texts that come with CoE, and a question far from it belongs to a general expert.
Nothing is tuned on questions asked: the boundary is learned from the known texts, each without those like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coe.core.types import ExpertView, Rule
from coe.routers.encoders.disk_cache import encode_cached
from coe.routers.encoders.encoder import Encoder, Vectors
from coe.routers.learning.calibration import sigmoid
from coe.routers.learning.category_classifier import largest_cosines
from coe.routers.learning.clusters import groups

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

Floats = npt.NDArray[np.float64]

FAR = 0.5
"""A question less probably known than this is far from all that is known."""
_EVERYDAY = Path(__file__).parents[1] / "data" / "everyday.txt"
_KNOWN_SHARE = 0.8
"""Of the weight in learning: a question that a specialist lost costs more than a greeting that it got."""
_LOST = 0.02
_LEAST = 0.01
"""Nobody is surer, so that one message does not outweigh all that it goes on with."""
_PARTS = 5
_MOST_KNOWN = 1000
_LIKE = 6
"""Questions that are left out together, about: all of one wording."""
_NEAR = 5
_INVERSE_REGULARISATION = 10.0


def everyday() -> list[str]:
    """Texts that a specialist is hardly asked: greetings, next to nothing, matters of every day."""
    return _EVERYDAY.read_text(encoding="utf-8").splitlines()


class Familiarity:
    """Learns when it is first asked (a second); thread-safe.

    ``encoder``: one of languages; None, in its place, and nothing is far. ``vectors`` (n, d) are of questions
    that specialists are known by, ``labels`` their subjects; none: cards are all there is.
    """

    def __init__(
        self, encoder: Encoder | None, vectors: Vectors | None = None, labels: Sequence[str] = ()
    ) -> None:
        self._encoder = encoder
        self._vectors, self._labels = vectors, labels

    def taught_by(self, vectors: Vectors, labels: Sequence[str]) -> Familiarity:
        return Familiarity(self._encoder, vectors, labels)

    def of(self, vectors: Vectors, cards: Vectors, *, taught: bool = True) -> Floats:
        """(k, 1) for vectors of texts (k, d). ``cards`` (c, d): of specialists known by their card alone;
        ``taught``: others are known by questions."""
        found = []
        if self._encoder is not None and len(cards):
            found.append(self._by_cards(vectors, cards))
        if self._encoder is not None and taught and self._boundary is not None:
            found.append(self._boundary.known(vectors))
        shares = np.max(found, axis=0) if found else np.ones(len(vectors))
        return np.clip(shares, _LEAST, 1 - _LEAST if found else 1.0)[:, None]

    def prepare(self, experts: Sequence[ExpertView]) -> None:
        """Learn now, if it may be asked: where there is a general expert."""
        if self._encoder is not None and any(view.general for view in experts):
            _ = self._apart, self._boundary

    @cached_property
    def _everyday(self) -> Vectors:
        assert self._encoder is not None
        return encode_cached(self._encoder, everyday())

    @cached_property
    def _boundary(self) -> _Boundary | None:
        return None if self._vectors is None else _Boundary(self._vectors, self._labels, self._everyday)

    @cached_property
    def _apart(self) -> Floats:
        """(k,) how near each everyday text is to the others."""
        return _nearest(self._everyday, self._everyday, itself=True)

    def _by_cards(self, vectors: Vectors, cards: Vectors) -> Floats:
        """A card says little of how questions sound, so everyday texts alone say what is near to one: nearer
        than all but a few of these. In log-odds, by their own spread."""
        usual = (self._everyday @ cards.T).max(axis=1) - 0.5 * self._apart
        middle, low = np.quantile(usual, [0.5, 0.05])
        # As far above the middle as the lowest are below: the highest may be what a card does cover.
        limit, spread = 2 * middle - low, max(float(middle - low) / 1.645, 1e-6)
        found = (vectors @ cards.T).max(axis=1) - 0.5 * _nearest(vectors, self._everyday, itself=False)
        return sigmoid(2 * (found - limit) / spread)


def unless_far(rule: Rule, share: float) -> Rule:
    """``rule``, but a question that is probably of no known kind goes to a general expert that it allows."""
    if share >= FAR:
        return rule
    doubt = f"far from all that is known ({share:.2f})"
    return replace(rule, sure=share, unsure_below=FAR, doubt=doubt, prefers=None, why="best", phrase="")


def _nearest(vectors: Vectors, others: Vectors, *, itself: bool) -> Floats:
    """(k,) mean cosine with the few nearest of ``others``; ``itself``: they are the same, and no text counts
    as near to itself."""
    cosines = vectors @ others.T
    if itself:
        np.fill_diagonal(cosines, -1.0)
    count = min(_NEAR, cosines.shape[1])
    found: Floats = np.sort(cosines, axis=1)[:, -count:].mean(axis=1).astype(np.float64)
    return found


class _Boundary:
    """A logistic regression between known questions and everyday texts, over a question's vector and how near
    it is to either. Nearness is learned without those that are worded alike. It is moved so that of known
    questions that it did not learn from, ``_LOST`` at most count as far."""

    def __init__(self, vectors: Vectors, labels: Sequence[str], everyday_vectors: Vectors) -> None:
        rows = np.sort(np.random.default_rng(0).permutation(len(vectors))[:_MOST_KNOWN])
        self._known, self._everyday = vectors[rows], everyday_vectors
        group = groups(self._known, np.asarray(labels, dtype=object)[rows], _LIKE)
        inside = self._inputs(self._known, _without_like(self._known, group), itself=False)
        outside = self._inputs(self._everyday, (self._everyday @ self._known.T).max(axis=1), itself=True)
        self._model = _parted(inside, outside)
        self._shift = 0.0
        if (parts := min(_PARTS, int(group.max()) + 1)) > 1:
            held = np.zeros(len(inside))
            for part in range(parts):
                one = group % parts == part
                held[one] = _parted(inside[~one], outside).decision_function(inside[one])
            self._shift = max(0.0, -float(np.quantile(held, _LOST)))

    def known(self, vectors: Vectors) -> Floats:
        """(k,)"""
        inputs = self._inputs(vectors, largest_cosines(vectors, self._known), itself=False)
        return sigmoid(self._model.decision_function(inputs) + self._shift)

    def _inputs(self, vectors: Vectors, to_known: Floats, *, itself: bool) -> Floats:
        near = np.stack([to_known, _nearest(vectors, self._everyday, itself=itself)], axis=1)
        return np.hstack([vectors, near]).astype(np.float64)


def _parted(inside: Floats, outside: Floats) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    total = len(inside) + len(outside)
    weight = {1: _KNOWN_SHARE * total / len(inside), 0: (1 - _KNOWN_SHARE) * total / len(outside)}
    model = LogisticRegression(C=_INVERSE_REGULARISATION, class_weight=weight, max_iter=1000)
    return model.fit(np.vstack([inside, outside]), np.repeat([1, 0], [len(inside), len(outside)]))


def _without_like(vectors: Vectors, group: npt.NDArray[np.intp]) -> Floats:
    """(n,) cosine of each question with the nearest one that is not worded like it."""
    cosines = vectors @ vectors.T
    cosines[group[:, None] == group[None, :]] = -1.0
    found: Floats = cosines.max(axis=1).astype(np.float64)
    return found
