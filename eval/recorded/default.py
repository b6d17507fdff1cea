"""What the service does when nobody says: chosen on learning questions only, and modest.

Every candidate, the best single expert too, is judged on questions that did not choose it. From many
questions the best one is taken only if it beats the best single expert beyond doubt; else that expert answers
everything. Few questions can put nothing beyond doubt, so there what is known beforehand weighs in: that a
vote of experts who err apart gains, and that models differ here as other models do elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from coe.eval.recorded.combining import combiner
from coe.eval.recorded.methods import expert_accuracy
from coe.eval.statistics import paired_bootstrap
from coe.outcomes.combiner_fits import available_top
from coe.outcomes.combiner_tables import Lessons
from coe.outcomes.outcome_set import Floats, Indices, OutcomeSet
from coe.routers import ESTIMATORS

CANDIDATES = tuple(name for name in ("blend", "traits", "linear", "knn", "category") if name in ESTIMATORS)
COMBINING = ("vote", "weighted_vote")
LEARNING = "learned"
ADAPTIVE = "adaptive"
"""The learning combiner, asking one after the other until another answer is not worth its price."""
FEW = 1500
"""Questions below which what is known beforehand counts."""
_DRAWS = 2000
_ONE, _SEVERAL = (0.01, 0.01), (0.03, 0.03)
"""Gain expected beforehand and its deviation: of one expert chosen by ``transfer``, and of several that vote.
Round numbers, near what draws of pool A showed that no table uses (docs/measurements/routing-results.md)."""
_CAUTION = 0.5
"""Deviations by which the gain expected afterwards must be above 0."""


@dataclass(frozen=True)
class Choice:
    """A way to answer: the ``count`` most probable experts of ``router``, made one by ``aggregator``; with
    ``top_p`` at most so many."""

    router: str
    aggregator: str = "first"
    count: int = 1
    top_p: float | None = None


ALONE = Choice("static")


def choose_default(
    learned: OutcomeSet, most: int, held_out: Callable[[str], Floats], seed: int, related: bool = False
) -> Choice:
    """The best way to answer with at most ``most`` experts; ``held_out(router)`` are estimates (n, m).
    ``related``: what other models did is known too."""
    few = related and len(learned) < FEW
    base = _best_in_halves(learned)
    best, best_scores = ALONE, base
    for ways in _ways(learned, most, few):
        tried = [(choice, _scores(choice, learned, held_out)) for choice in ways]
        choice, scores = max(tried, key=lambda one: float(one[1].mean()))
        if best == ALONE or _clearly_better(scores, best_scores):
            best, best_scores = choice, scores
    if best.count > 1:  # A combiner that learns takes seconds: it is tried on the best router only.
        choice = Choice(best.router, LEARNING, most)
        scores = _scores(choice, learned, held_out)
        if scores.mean() > best_scores.mean():
            best, best_scores = choice, scores
    if best == ALONE:
        return ALONE
    if few:
        return best if _expected(best, best_scores - base) else ALONE
    gain = paired_bootstrap(best_scores, base, draws=_DRAWS, seed=seed)
    return best if gain.low > 0 else ALONE


def _expected(choice: Choice, gained: Floats) -> bool:
    """Whether a gain is expected after ``gained`` (n,), on top of what is expected beforehand."""
    prior, spread = _ONE if choice.count == 1 else _SEVERAL
    weight, told = spread**-2, len(gained) / max(float(gained.var()), 1e-9)
    mean = (weight * prior + told * float(gained.mean())) / (weight + told)
    return mean > float(_CAUTION * (weight + told) ** -0.5)


def _best_in_halves(learned: OutcomeSet) -> Floats:
    """(n,) scores of the best single expert, each half answered by that of the other: the best of several on
    the very questions that made it the best flatters itself."""
    scores = np.zeros(len(learned))
    for taught, judged in _halves(len(learned)):
        strength = np.tile(expert_accuracy(learned.scores[taught]), (len(judged), 1))
        first = available_top(strength, learned.scores[judged], 1)[:, 0]
        scores[judged] = learned.scores[judged, first]
    return scores


def _halves(count: int) -> Iterator[tuple[Indices, Indices]]:
    """Rows that teach and rows that are judged, and the other way round."""
    even, odd = np.arange(0, count, 2), np.arange(1, count, 2)
    yield odd, even
    yield even, odd


def _ways(learned: OutcomeSet, most: int, few: bool) -> Iterator[list[Choice]]:
    """What can be done with each router, the most dependable router first."""
    combine = learned.answers is not None and most > 1
    for router in (*(("transfer",) if few else ()), *CANDIDATES, "static"):
        several = [Choice(router, name, most) for name in COMBINING if combine]
        yield [Choice(router), *several]


def _clearly_better(scores: Floats, than: Floats) -> bool:
    """By more than one standard error of the paired difference (Breiman's rule): among near equals the first
    stays, since picking the luckiest of them costs more on new questions than it gains."""
    gained = scores - than
    return bool(gained.mean() > gained.std() / np.sqrt(len(gained)))


def _scores(choice: Choice, learned: OutcomeSet, held_out: Callable[[str], Floats]) -> Floats:
    probabilities = held_out(choice.router)
    asked = available_top(probabilities, learned.scores, choice.count)
    if choice.count == 1:
        alone: Floats = learned.scores[np.arange(len(learned)), asked[:, 0]]
        return alone
    return _in_halves(choice, learned, asked, probabilities)


def _in_halves(choice: Choice, learned: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:
    """Scores of a combiner, each half judged by a fit to the other."""
    scores = np.zeros(len(learned))
    for taught, judged in _halves(len(learned)):
        lessons = Lessons(learned.rows(taught), probabilities[taught], asked[taught])
        made = combiner(choice.aggregator).fit(lessons)
        scores[judged] = made.scores(learned.rows(judged), asked[judged], probabilities[judged])
    return scores
