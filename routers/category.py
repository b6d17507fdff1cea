"""The category router of Composition of Experts (arXiv 2412.01868): text -> category -> expert.

The best expert of a single prompt is too noisy to learn; categories are stable. So a classifier learns
categories, and a map, made anew from the experts of the moment, gives each category to its expert: an
expert can come or go without learning anything again. Without examples an expert's card is its category.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from coe.core.decision import decide, generals
from coe.core.errors import ConfigError
from coe.core.files import path_in, readable
from coe.core.types import Decision, ExpertId, ExpertView, Ranked, Rule
from coe.routers.base import RouterOptions, Setting
from coe.routers.category_budget import Budget, BudgetMap, budget_map, kept
from coe.routers.category_evidence import CategoryScoreRouter
from coe.routers.encoders.disk_cache import encode_cached
from coe.routers.encoders.encoder import Encoder, Vectors, is_quick, read_by
from coe.routers.learning.cards import described
from coe.routers.learning.category_classifier import (
    GENERAL,
    CategoryClassifier,
    Neighbour,
    largest_cosines,
)
from coe.routers.learning.familiarity import Familiarity, unless_far
from coe.routers.learning.views import Asked, asked
from coe.routers.per_pool import PerPool

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

_SHOWN_CHARS = 50


class CategoryOptions(RouterOptions):
    """Options of kind ``category``.

    examples: JSONL file of ``{"text", "category"}``, or ``package:demo``; none: by the experts' profiles,
        or without any by their cards
    low_confidence: below this probability the general expert is asked
    encoder: a name of :data:`coe.routers.encoders.encoder.ENCODERS`, or a sentence-transformers folder
    card_temperature: of the softmax over cosines with cards; smaller is more decided
    total_parameters_b, average_active_b, average_price: budgets of the map from categories to experts, in
        billions of parameters hosted, of parameters used a question, and US dollars per million output
        tokens. The map is exact: by the experts' scores where there are profiles, else by their skills and
        cards, all categories weighing the same. Whoever takes the place of the map's expert keeps them too
    """

    examples: str | None = None
    low_confidence: Annotated[float, Field(ge=0, le=1)] = 0.35
    encoder: str = "minilm"
    card_temperature: Annotated[float, Field(gt=0)] = 0.05
    total_parameters_b: Annotated[float, Field(gt=0)] | None = None
    average_active_b: Annotated[float, Field(gt=0)] | None = None
    average_price: Annotated[float, Field(gt=0)] | None = None

    @property
    def reads_profiles(self) -> bool:
        return not self.examples


def budget_of(options: CategoryOptions) -> Budget:
    return Budget(options.total_parameters_b, options.average_active_b, options.average_price)


@dataclass(frozen=True)
class Example:
    text: str
    category: str


@dataclass(frozen=True)
class _Pool:
    """What the map needs of the experts (m); places are those in the sequence of experts."""

    ids: tuple[ExpertId, ...]
    owners: Mapping[str, Places]
    """of each category: who is asked about it, none where nobody has it"""
    heirs: Places
    """of categories without owners: the general experts, else all, who share"""
    newcomers: Places
    """those whose skills have no examples"""
    narrowness: Places
    """(m,) number of skills"""
    cards: Vectors
    """(m, d)"""
    budget: BudgetMap | None
    """of the categories, then of the newcomers' cards"""


@dataclass(frozen=True)
class _Belief:
    """Probability of being the right one, for each expert (m,), and why. Several may be it."""

    masses: Floats
    reason: str
    row: int
    """of the budget's map"""
    category: str | None = None


class CategoryRouter:
    """Building it loads the encoder and learns from the examples (seconds); ``route`` takes as long as the
    encoder (docs/explanation/encoders.md) and half a millisecond. ``blocking``: not with a quick encoder.

    Thread-safe. Deterministic: the same text and experts give the same decision.
    """

    options_type: ClassVar[type[RouterOptions]] = CategoryOptions

    def __init__(
        self, name: str, options: CategoryOptions, setting: Setting, encoder: Encoder | None = None
    ) -> None:
        self.name = name
        self._options = options
        examples = read_examples(options.examples, setting.root)
        self._encoder = encoder or setting.encoder(options.encoder)
        self._classifier: CategoryClassifier | None = None
        self._familiarity = Familiarity(None if encoder else self._encoder)
        if examples:
            self._learn(examples)
        self._scored: CategoryScoreRouter | None = None
        if not examples and setting.evidence is not None and len(setting.evidence):
            self._scored = CategoryScoreRouter(name, options, setting, encoder)
        self.blocking = self._scored is not None or not is_quick(self._encoder)
        self._budget = budget_of(options)
        self._pools = PerPool[_Pool]()
        self._read_cards(setting)
        self._check_budget(setting)

    def renewed(self, setting: Setting) -> CategoryRouter:
        """What it has learned does not depend on the experts."""
        other = copy.copy(self)
        other._pools = PerPool()
        other._read_cards(setting)
        other._check_budget(setting)
        return other

    def _check_budget(self, setting: Setting) -> None:
        """Raises ConfigError where no map of these experts keeps it."""
        if self._scored is not None:
            self._scored.renewed(setting)
        elif self._budget != Budget():
            self._pools.of(setting.experts, self._pool)

    def _read_cards(self, setting: Setting) -> None:
        """Into the encoder's cache; and what tells general questions, where there is a general expert."""
        self._encoder.encode([described(view) for view in setting.experts])
        if self._scored is None:
            self._familiarity.prepare(setting.experts)

    def _learn(self, examples: Sequence[Example]) -> None:
        texts = [read_by(self._encoder, example.text) for example in examples]
        labels = [example.category for example in examples]
        vectors = encode_cached(self._encoder, texts)
        self._classifier = CategoryClassifier().fit(texts, labels, vectors)
        special = [i for i, label in enumerate(labels) if label != GENERAL]
        self._familiarity = self._familiarity.taught_by(vectors[special], [labels[i] for i in special])

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        if self._scored is not None:
            return self._scored.route(text, experts)
        pool = kept(self._pools, experts, self._pool)
        if self._classifier is None:
            seen = asked(text, self._encoder, lambda vectors: largest_cosines(vectors, pool.cards))
            belief = self._by_cards(seen, pool, experts)
        else:
            seen = asked(text, self._encoder, self._classifier.nearness)
            belief = self._by_categories(self._classifier, seen, pool, experts)
        share = self._familiar(seen, pool, experts) if generals(experts) else 1.0
        return self._decide(belief, share, pool, experts)

    def _familiar(self, seen: Asked, pool: _Pool, experts: Sequence[ExpertView]) -> float:
        carded = _places(not view.general for view in experts) if self._classifier is None else pool.newcomers
        shares = self._familiarity.of(seen.vectors, pool.cards[carded])
        return float(seen.settled(shares, shares=False)[0])

    def _pool(self, experts: Sequence[ExpertView]) -> _Pool:
        categories = self._classifier.categories_ if self._classifier else ()
        general = _places(view.general for view in experts)
        owners = {name: _places(name in view.skills for view in experts) for name in categories}
        if GENERAL in owners and not len(owners[GENERAL]):
            owners[GENERAL] = general
        everybody = np.arange(len(experts))
        newcomers = _places(_is_newcomer(view, categories) for view in experts)
        pool = _Pool(
            ids=tuple(view.id for view in experts),
            owners=owners,
            heirs=general if len(general) else everybody,
            newcomers=newcomers if self._classifier else everybody,
            narrowness=np.asarray([len(view.skills) for view in experts]),
            cards=self._encoder.encode([described(view) for view in experts]),
            budget=None,
        )
        return replace(pool, budget=self._map(pool, experts)) if self._budget != Budget() else pool

    def _map(self, pool: _Pool, experts: Sequence[ExpertView]) -> BudgetMap:
        """By claims: a category's owners are right there, newcomers on what their cards say, and general
        experts everywhere by half. All weigh the same, as examples are no traffic."""
        rows = [_map_to_experts({category: 1.0}, pool, experts) for category in pool.owners]
        claims = np.vstack([*rows, np.eye(len(experts))[pool.newcomers]])
        claims = np.maximum(claims, [0.5 * view.general for view in experts])
        return budget_map(claims, np.full(len(claims), 1 / len(claims)), experts, self._budget)

    def _by_categories(
        self,
        classifier: CategoryClassifier,
        seen: Asked,
        pool: _Pool,
        experts: Sequence[ExpertView],
    ) -> _Belief:
        views = zip(seen.texts, seen.vectors, strict=True)
        shares = seen.settled([classifier.shares(text, vector) for text, vector in views], shares=True)
        probabilities = dict(zip(classifier.categories_, shares.tolist(), strict=True))
        category = max(probabilities, key=probabilities.__getitem__)
        vector = seen.vector
        nearest = classifier.nearest(category, vector)
        belief = _Belief(
            masses=_map_to_experts(probabilities, pool, experts),
            reason=_category_reason(probabilities, nearest),
            row=list(pool.owners).index(category),
            category=category,
        )
        if not len(pool.newcomers):
            return belief
        return self._with_newcomers(belief, nearest.similarity, vector, pool, experts)

    def _with_newcomers(
        self,
        belief: _Belief,
        similarity: float,
        vector: Vectors,
        pool: _Pool,
        experts: Sequence[ExpertView],
    ) -> _Belief:
        """Experts whose skills have no examples compete by card, against the category's nearest example."""
        cards = pool.cards[pool.newcomers] @ vector[0]
        shares = _softmax(np.concatenate([[similarity], cards]), self._options.card_temperature)
        known, new = float(shares[0]), shares[1:]
        masses = known * belief.masses
        masses[pool.newcomers] = new
        best = int(np.argmax(new))
        if new[best] <= known:
            return replace(belief, masses=masses)
        newcomer = experts[pool.newcomers[best]]
        reason = f"card of {newcomer.id} {new[best]:.2f}, nearer than any example"
        return _Belief(masses, reason, len(pool.owners) + best)

    def _by_cards(self, seen: Asked, pool: _Pool, experts: Sequence[ExpertView]) -> _Belief:
        cosines = seen.vectors @ pool.cards.T
        shares = seen.settled([_softmax(row, self._options.card_temperature) for row in cosines], shares=True)
        order = np.argsort(-shares, kind="stable")
        named = [f"{experts[place].id} {shares[place]:.2f}" for place in order[:2]]
        return _Belief(shares, "nearest card " + "; runner-up ".join(named), int(order[0]))

    def _decide(self, belief: _Belief, share: float, pool: _Pool, experts: Sequence[ExpertView]) -> Decision:
        """``share``: how probably the question is of a known kind; the rest is the first general expert's."""
        sure, general = min(1.0, float(belief.masses.max())), generals(experts)
        rule = Rule(general=general, unsure_below=self._options.low_confidence, sure=sure)
        masses = share * belief.masses
        if rule.general:
            masses[pool.heirs[0]] += 1 - share
        # Of two experts with the same claim the narrower one goes first, then the one listed first.
        order = np.lexsort((pool.narrowness, -masses))
        chances = np.minimum(1.0, masses[order]).tolist()
        ranking = tuple(map(Ranked, map(pool.ids.__getitem__, order.tolist()), chances))
        if pool.budget is not None:
            rule = pool.budget.rule(rule, belief.row)
        return decide(self.name, ranking, belief.reason, unless_far(rule, share), belief.category)


def _map_to_experts(probabilities: Mapping[str, float], pool: _Pool, experts: Sequence[ExpertView]) -> Floats:
    """CoE's category-to-expert map: each expert's claim (m,) is the probability of its categories.

    A category that no expert has goes to the general experts; when there are none, to all alike.
    """
    masses = np.zeros(len(experts))
    homeless = 0.0
    for category, probability in probabilities.items():
        owners = pool.owners[category]
        masses[owners] += probability
        if not len(owners):
            homeless += probability
    shared = 1 if experts[pool.heirs[0]].general else len(pool.heirs)
    masses[pool.heirs] += homeless / shared
    return masses


def _is_newcomer(view: ExpertView, categories: Sequence[str]) -> bool:
    return bool(view.card) and not view.general and not set(categories) & set(view.skills)


def _places(marks: Iterable[bool]) -> Places:
    return np.flatnonzero(list(marks))


def _softmax(values: npt.ArrayLike, temperature: float) -> Floats:
    scaled = np.asarray(values, dtype=np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    shares: Floats = weights / weights.sum()
    return shares


def _category_reason(probabilities: Mapping[str, float], nearest: Neighbour) -> str:
    ordered = sorted(probabilities.items(), key=lambda item: -item[1])
    shown = " ".join(nearest.text.split())
    if len(shown) > _SHOWN_CHARS:
        shown = shown[: _SHOWN_CHARS - 3] + "..."
    reason = (
        f'category {ordered[0][0]} {ordered[0][1]:.2f}; nearest example "{shown}" ({nearest.similarity:.2f})'
    )
    if len(ordered) > 1:
        reason += f"; runner-up {ordered[1][0]} {ordered[1][1]:.2f}"
    return reason


def read_examples(source: str | None, root: Path) -> list[Example]:
    """Examples from ``package:demo`` or a JSONL file relative to ``root``; ``None`` gives none.

    Raises ConfigError naming the file and line of what cannot be used.
    """
    if source is None:
        return []
    if source == "package:demo":
        from coe.demo.router_examples import router_examples

        return [Example(text, category) for text, category in router_examples()]
    path = path_in(root, source)
    hint = 'Write "package:demo", or a JSONL file with one {"text": ..., "category": ...} a line.'
    with readable(path, hint):
        lines = path.read_text(encoding="utf-8").splitlines()
    examples = [_example(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len({example.category for example in examples}) < 2:
        raise ConfigError(f"router examples {path} hold fewer than two categories: nothing can be learned")
    return examples


def _example(path: Path, number: int, line: str) -> Example:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path}:{number}: not JSON: {error}") from None
    if isinstance(entry, dict):
        text, category = entry.get("text"), entry.get("category")
        if isinstance(text, str) and text and isinstance(category, str) and category:
            return Example(text, category)
    raise ConfigError(f'{path}:{number}: must be {{"text": "...", "category": "..."}}, both not empty')
