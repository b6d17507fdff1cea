"""One recorded run: every router asked every held-out question once, alone and with every aggregator."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from coe.aggregators.worth import CLEAR
from coe.core.errors import ConfigError
from coe.core.types import ExpertId
from coe.eval.recorded.combining import combiner
from coe.eval.recorded.default import ADAPTIVE, Choice, choose_default
from coe.eval.recorded.folds import Fold, cross_folds, wording
from coe.eval.recorded.kept import KeptFits
from coe.eval.recorded.masses import by_mass
from coe.eval.recorded.methods import CASCADE, Fitted, Lesson, expert_accuracy, method
from coe.outcomes.combiner_fits import InStages, available_top
from coe.outcomes.combiner_tables import Lessons
from coe.outcomes.outcome_set import Floats, Indices, OutcomeSet
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.evidence import Evidence
from coe.routers.learning.features import text_features

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Plan:
    """What a recorded run measures."""

    folds: Sequence[Fold]
    routers: tuple[str, ...]
    aggregators: tuple[str, ...]
    experts_per_query: tuple[int, ...]
    seed: int = 0
    encoder: str = ""
    top_p: tuple[float, ...] = ()
    """also measured: as many experts as top-p says, at most the largest number above"""


@dataclass(frozen=True)
class Asked:
    """Whom a router asked, over the test questions of all folds, in order of the questions' rows."""

    experts: Indices
    """(n, k) columns, best first; -1 where fewer were available"""
    probabilities: Floats
    """(n, m) of a right answer"""
    scores: Floats
    """(n,) of the answer given in the end"""
    seconds: float


@dataclass
class Wording:
    """The features of all questions' texts, which takes seconds: made when first asked for."""

    _features: csr_matrix | None = None

    def features(self, outcomes: OutcomeSet) -> csr_matrix:
        if self._features is None:
            self._features = text_features([question.text or "" for question in outcomes.questions])
        return self._features


@dataclass
class Study:
    """Owns the fits of its folds; everything asked of it is computed once."""

    outcomes: OutcomeSet
    vectors: Vectors
    """(n, d); zero where a question has no text"""
    plan: Plan
    kept: KeptFits | None = None
    """where fits are kept between runs"""
    reference: OutcomeSet | None = None
    """other models on the same questions: what they did on those that are not asked says how models differ;
    no fits are kept of it"""
    _fits: dict[tuple[str, int], tuple[Fitted, float]] = field(default_factory=dict)
    _defaults: dict[tuple[int, int], Choice] = field(default_factory=dict)
    _taught: dict[tuple[str, int, int], Lessons] = field(default_factory=dict)
    _parts: dict[tuple[int, bool], OutcomeSet] = field(default_factory=dict)
    _lessons: dict[int, Lesson] = field(default_factory=dict)
    _read: Wording = field(default_factory=Wording)

    @cached_property
    def rows(self) -> Indices:
        """The test questions of all folds."""
        return np.sort(np.concatenate([fold.test for fold in self.plan.folds]))

    @cached_property
    def tested(self) -> OutcomeSet:
        return self.outcomes.rows(self.rows)

    def with_folds(self, folds: Sequence[Fold], seed: int) -> Study:
        """The same questions in other folds; nothing is fitted yet."""
        return Study(
            self.outcomes,
            self.vectors,
            replace(self.plan, folds=folds, seed=seed),
            self.kept,
            self.reference,
            _read=self._read,
        )

    def reseeded(self, seed: int) -> Study:
        """The same questions in as many folds, drawn by ``seed``."""
        return self.with_folds(cross_folds(self.outcomes.questions, len(self.plan.folds), seed), seed)

    def fitted(self, router: str, fold: int) -> tuple[Fitted, float]:
        """A router's estimates of one fold, and the seconds they took."""
        if (router, fold) not in self._fits:
            self._fits[router, fold] = self._kept_fit(router, fold)
        return self._fits[router, fold]

    def _kept_fit(self, router: str, fold: int) -> tuple[Fitted, float]:
        rows, seed = self.plan.folds[fold], self.plan.seed
        found = self.kept and self.kept.read(router, rows, seed)
        if found:
            return found
        started = time.perf_counter()
        fitted = method(router)(self._lesson(fold))
        seconds = time.perf_counter() - started
        if self.kept:
            self.kept.write(router, rows, seed, fitted, seconds)
        return fitted, seconds

    def part(self, fold: int, *, learned: bool = False) -> OutcomeSet:
        """The questions of a fold that are asked, or those that are ``learned`` from."""
        if (fold, learned) not in self._parts:
            chosen = self.plan.folds[fold]
            self._parts[fold, learned] = self.outcomes.rows(chosen.train if learned else chosen.test)
        return self._parts[fold, learned]

    def lessons(self, router: str, fold: int, count: int) -> Lessons:
        """What teaches to combine the answers of the router's ``count`` experts."""
        if (router, fold, count) not in self._taught:
            learned, held_out = self.part(fold, learned=True), self.fitted(router, fold)[0].held_out
            would_ask = available_top(held_out, learned.scores, count)
            self._taught[router, fold, count] = Lessons(learned, held_out, would_ask)
        return self._taught[router, fold, count]

    def asked(self, router: str, aggregator: str, count: int) -> Asked:
        """``router`` with ``aggregator`` over the answers of its ``count`` most probable experts."""
        choice = Choice(router, aggregator, count)
        return self._merged([choice] * len(self.plan.folds), count)

    def default(self, count: int) -> Asked:
        """What the service would do unasked with at most ``count`` experts: chosen fold by fold."""
        started = time.perf_counter()
        choices = self.default_choices(count)
        choosing = time.perf_counter() - started
        merged = self._merged(choices, count)
        return Asked(merged.experts, merged.probabilities, merged.scores, merged.seconds + choosing)

    def adaptive(self, limit: int) -> Asked:
        """The same where the answers decide how many are asked, at most ``limit``."""
        choices = [
            Choice(choice.router, ADAPTIVE, limit) if choice.count > 1 else choice
            for choice in self.default_choices(limit)
        ]
        return self._merged(choices, limit)

    def by_top_p(self, p: float, limit: int) -> Asked:
        """The same where top-p with a null expert says beforehand how many are asked, at most ``limit``."""
        choices = [replace(choice, top_p=p) for choice in self.default_choices(limit)]
        return self._merged(choices, limit)

    def default_choices(self, count: int) -> list[Choice]:
        return [self._default_choice(fold, count) for fold in range(len(self.plan.folds))]

    @cached_property
    def best_single(self) -> ExpertId:
        """The expert that was best on the learning questions of most folds."""
        best = Counter(
            int(np.argmax(expert_accuracy(self.outcomes.scores[fold.train]))) for fold in self.plan.folds
        )
        return self.outcomes.experts[best.most_common(1)[0][0]]

    def category_oracle(self) -> Floats:
        """(n,) scores when the true category's best expert on learning questions is asked."""
        ranking = np.zeros(self.outcomes.scores.shape)
        for fold in self.plan.folds:
            ranking[fold.test] = self._by_category(fold)
        tested = self.tested.scores
        first = available_top(ranking[self.rows], tested, 1)[:, 0]
        scores: Floats = tested[np.arange(len(tested)), first]
        return scores

    def oracle(self) -> Floats:
        """(n,) 1 where any expert is right."""
        best: Floats = np.nanmax(self.tested.scores, axis=1)
        return best

    def _by_category(self, fold: Fold) -> Floats:
        scores, questions = self.outcomes.scores, self.outcomes.questions
        overall = expert_accuracy(scores[fold.train])
        learned = np.asarray([questions[i].category for i in fold.train], dtype=object)
        means = {
            category: _shrunk(scores[fold.train[learned == category]], overall) for category in set(learned)
        }
        return np.asarray([means.get(questions[i].category, overall) for i in fold.test])

    def _default_choice(self, fold: int, count: int) -> Choice:
        if (fold, count) not in self._defaults:
            self._defaults[fold, count] = choose_default(
                self.part(fold, learned=True),
                count,
                lambda router: self.fitted(router, fold)[0].held_out,
                self.plan.seed,
                self.reference is not None,
            )
        return self._defaults[fold, count]

    def _merged(self, choices: Sequence[Choice], count: int) -> Asked:
        """The folds' results side by side; ``choices`` holds one way to run a fold."""
        n, m = self.outcomes.scores.shape
        experts = np.full((n, count), -1, dtype=np.intp)
        probabilities, scores, seconds = np.zeros((n, m)), np.zeros(n), 0.0
        for number, (fold, choice) in enumerate(zip(self.plan.folds, choices, strict=True)):
            found, spent = self.fitted(choice.router, number)
            started = time.perf_counter()
            asked, scored = self._answered(choice, number, found)
            experts[fold.test, : asked.shape[1]] = asked
            probabilities[fold.test] = found.test
            scores[fold.test] = scored
            seconds += spent + time.perf_counter() - started
        return Asked(experts[self.rows], probabilities[self.rows], scores[self.rows], seconds)

    def _answered(self, choice: Choice, fold: int, found: Fitted) -> tuple[Indices, Floats]:
        """Whom the fold's test questions went to (n, k), and the (n,) scores of the combined answers."""
        made, part = combiner(choice.aggregator), self.part(fold)
        asked = available_top(found.test, part.scores, choice.count)
        if choice.count > 1:
            made = made.fit(self.lessons(choice.router, fold, choice.count))
        if isinstance(made, InStages):
            asked = made.asked_of(part, asked, found.test)
        if choice.top_p is not None:
            asked = by_mass(asked, found.test, choice.top_p, CLEAR)
        return asked, made.scores(part, asked, found.test)

    def _lesson(self, number: int) -> Lesson:
        if number not in self._lessons:
            self._lessons[number] = self._new_lesson(self.plan.folds[number])
        return self._lessons[number]

    def _new_lesson(self, fold: Fold) -> Lesson:
        questions = self.outcomes.questions
        with_text = np.asarray([questions[i].text is not None for i in fold.train], dtype=bool)
        learned = np.flatnonzero(with_text)
        return Lesson(
            outcomes=self.outcomes,
            train=fold.train,
            test=fold.test,
            evidence=replace(
                self._evidence(self.outcomes, fold.train[learned]), reference=self._others(fold)
            ),
            learned=learned,
            vectors=self.vectors[fold.test],
            readable=np.asarray([questions[i].text is not None for i in fold.test], dtype=bool),
            texts=tuple(questions[i].text or "" for i in fold.test),
            seed=self.plan.seed,
        )

    def _evidence(self, outcomes: OutcomeSet, rows: Indices) -> Evidence:
        return evidence_of(
            outcomes, self.vectors, self._read.features(self.outcomes), rows, self.plan.encoder
        )

    def _others(self, fold: Fold) -> Evidence | None:
        """What the other models did on questions that are not asked."""
        if self.reference is None:
            return None
        asked = {wording(self.outcomes.questions[i]) for i in fold.test}
        questions = self.reference.questions
        rows = [i for i, q in enumerate(questions) if q.text is not None and wording(q) not in asked]
        return self._evidence(self.reference, np.asarray(rows, dtype=np.intp))


def evidence_of(
    outcomes: OutcomeSet, vectors: Vectors, features: csr_matrix, rows: Indices, encoder: str
) -> Evidence:
    """What these questions tell of the experts."""
    scores = outcomes.scores[rows].astype(np.float32)
    prices = [_mean(outcomes.costs[rows, j]) for j in range(len(outcomes.experts))]
    return Evidence(
        ids=tuple(outcomes.questions[i].id for i in rows),
        categories=tuple(outcomes.questions[i].category for i in rows),
        vectors=vectors[rows],
        experts=outcomes.experts,
        scores=scores,
        counts=np.isfinite(scores).astype(np.float32),
        encoder=encoder,
        cost_usd=tuple(prices),
        features=features[rows],
    )


def _shrunk(scores: Floats, overall: Floats) -> Floats:
    """Means of a category's scores, pulled to the overall ones as by a few questions."""
    known = np.isfinite(scores)
    means: Floats = (np.where(known, scores, 0.0).sum(0) + 5.0 * overall) / (known.sum(0) + 5.0)
    return means


def _mean(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def check_plan(plan: Plan, outcomes: OutcomeSet) -> None:
    """Raises ConfigError for names that do not exist, and counts that the pool cannot fill."""
    for name in plan.routers:
        if name != CASCADE:  # not a way to rank experts: it asks one after the other
            method(name)
    for name in plan.aggregators:
        combiner(name)
    largest = max(plan.experts_per_query, default=0)
    if min(plan.experts_per_query, default=0) < 1:
        raise ConfigError("experts per query must be 1 or more")
    if largest > len(outcomes.experts):
        raise ConfigError(f"{largest} experts per query, but the pool has only {len(outcomes.experts)}")
