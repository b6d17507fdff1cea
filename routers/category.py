"""The category router of Composition of Experts (arXiv 2412.01868): text -> category -> expert.

The best expert of a single prompt is too noisy to learn; categories are stable. So a classifier learns
categories, and a map, made anew from the experts of the moment, gives each category to its expert: an
expert can come or go without learning anything again. Without examples an expert's card is its category.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from coe.errors import ConfigError
from coe.types import Decision, ExpertId, ExpertView, Ranked
from routers.base import RouterOptions, Setting
from routers.cards import described
from routers.category_evidence import CategoryScoreRouter
from routers.classifier import CategoryClassifier, Neighbour
from routers.encoder import Encoder, Vectors, open_encoder
from routers.vectors import encode_cached

GENERAL = "general"
"""The category whose questions belong to experts marked ``general``."""

_SHOWN_CHARS = 50


class CategoryOptions(RouterOptions):
    """Options of kind ``category``.

    examples: JSONL file of ``{"text", "category"}``, or ``package:demo``; none: by the experts' profiles,
        or without any by their cards
    low_confidence: below this probability the general expert is asked
    encoder: a name of :data:`routers.encoder.ENCODERS`, or a sentence-transformers folder
    card_temperature: of the softmax over cosines with cards; smaller is more decided
    total_parameters_b, average_active_b, average_price: budgets of the map from categories to experts, in
        billions of parameters hosted, of parameters used a question, and US dollars per million output
        tokens (with profiles; a map that keeps them is exact)
    """

    examples: str | None = None
    low_confidence: Annotated[float, Field(ge=0, le=1)] = 0.35
    encoder: str = "minilm"
    card_temperature: Annotated[float, Field(gt=0)] = 0.05
    total_parameters_b: Annotated[float, Field(gt=0)] | None = None
    average_active_b: Annotated[float, Field(gt=0)] | None = None
    average_price: Annotated[float, Field(gt=0)] | None = None


@dataclass(frozen=True)
class Example:
    text: str
    category: str


@dataclass(frozen=True)
class _Belief:
    """Probability of being the right one, per expert (not yet normalised), and why."""

    masses: Mapping[ExpertId, float]
    reason: str
    category: str | None = None


class CategoryRouter:
    """Building it loads the encoder and learns from the examples (seconds); ``route`` takes about 15 ms.

    Thread-safe. Deterministic: the same text and experts give the same decision.
    """

    options_type: ClassVar[type[RouterOptions]] = CategoryOptions
    blocking = True

    def __init__(
        self, name: str, options: CategoryOptions, setting: Setting, encoder: Encoder | None = None
    ) -> None:
        self.name = name
        self._options = options
        examples = read_examples(options.examples, setting.root)
        self._encoder = encoder or open_encoder(options.encoder, setting.root)
        self._classifier = self._learn(examples) if examples else None
        self._scored: CategoryScoreRouter | None = None
        if not examples and setting.evidence is not None and len(setting.evidence):
            self._scored = CategoryScoreRouter(name, options, setting, self._encoder)
        self._read_cards(setting)

    def renewed(self, setting: Setting) -> CategoryRouter:
        """What it has learned does not depend on the experts."""
        other = copy.copy(self)
        other._read_cards(setting)
        return other

    def _read_cards(self, setting: Setting) -> None:
        """Into the encoder's cache."""
        self._encoder.encode([described(view) for view in setting.experts])

    def _learn(self, examples: Sequence[Example]) -> CategoryClassifier:
        texts = [example.text for example in examples]
        labels = [example.category for example in examples]
        return CategoryClassifier().fit(texts, labels, encode_cached(self._encoder, texts))

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        if self._scored is not None:
            return self._scored.route(text, experts)
        vector = self._encoder.encode([text])
        if self._classifier is None:
            belief = self._by_cards(vector, experts)
        else:
            belief = self._by_categories(self._classifier, text, vector, experts)
        return self._decide(belief, experts)

    def _by_categories(
        self, classifier: CategoryClassifier, text: str, vector: Vectors, experts: Sequence[ExpertView]
    ) -> _Belief:
        probabilities = classifier.probabilities(text, vector)
        nearest = classifier.nearest(max(probabilities, key=probabilities.__getitem__), vector)
        masses = _map_to_experts(probabilities, experts)
        category = max(probabilities, key=probabilities.__getitem__)
        reason = _category_reason(probabilities, nearest)
        newcomers = _without_examples(experts, classifier.categories_)
        if not newcomers:
            return _Belief(masses, reason, category)
        return self._with_newcomers(_Belief(masses, reason), nearest.similarity, vector, newcomers)

    def _with_newcomers(
        self, belief: _Belief, similarity: float, vector: Vectors, newcomers: Sequence[ExpertView]
    ) -> _Belief:
        """Experts whose skills have no examples compete by card, against the category's nearest example."""
        cards = self._encoder.encode([described(view) for view in newcomers]) @ vector[0]
        known, *new = _softmax([similarity, *cards.tolist()], self._options.card_temperature)
        masses = {expert: known * mass for expert, mass in belief.masses.items()}
        masses |= {view.id: weight for view, weight in zip(newcomers, new, strict=True)}
        best = int(np.argmax(new))
        if new[best] <= known:
            return _Belief(masses, belief.reason)
        return _Belief(masses, f"card of {newcomers[best].id} {new[best]:.2f}, nearer than any example")

    def _by_cards(self, vector: Vectors, experts: Sequence[ExpertView]) -> _Belief:
        cosines = self._encoder.encode([described(view) for view in experts]) @ vector[0]
        shares = _softmax(cosines.tolist(), self._options.card_temperature)
        masses = {view.id: share for view, share in zip(experts, shares, strict=True)}
        first, *others = sorted(zip(shares, (view.id for view in experts), strict=True), reverse=True)
        reason = f"nearest card {first[1]} {first[0]:.2f}"
        if others:
            reason += f"; runner-up {others[0][1]} {others[0][0]:.2f}"
        return _Belief(masses, reason)

    def _decide(self, belief: _Belief, experts: Sequence[ExpertView]) -> Decision:
        # Of two experts with the same claim the narrower one goes first, then the one listed first.
        order = sorted(experts, key=lambda view: (-belief.masses[view.id], len(view.skills)))
        total = sum(belief.masses.values())
        ranking = tuple(Ranked(view.id, belief.masses[view.id] / total) for view in order)
        best = order[0]
        confidence = min(1.0, belief.masses[best.id])
        chosen, reason = best.id, belief.reason
        fallback = next((view.id for view in order if view.general), None)
        if confidence < self._options.low_confidence and fallback is not None and not best.general:
            chosen = fallback
            reason = f"unsure, so the general expert {fallback} ({reason})"
        return Decision(self.name, ranking, (chosen,), confidence, reason, belief.category)


def _map_to_experts(
    probabilities: Mapping[str, float], experts: Sequence[ExpertView]
) -> dict[ExpertId, float]:
    """CoE's category-to-expert map: each expert's claim is the probability of its categories.

    A category that no expert has goes to the general experts; when there are none, to all alike.
    """
    masses = dict.fromkeys((view.id for view in experts), 0.0)
    homeless = 0.0
    for category, probability in probabilities.items():
        owners = [view for view in experts if category in view.skills]
        if category == GENERAL:
            owners = owners or [view for view in experts if view.general]
        for view in owners:
            masses[view.id] += probability
        if not owners:
            homeless += probability
    heirs = [view for view in experts if view.general] or list(experts)
    for view in heirs:
        masses[view.id] += homeless / (1 if view.general else len(heirs))
    return masses


def _without_examples(experts: Sequence[ExpertView], categories: Sequence[str]) -> list[ExpertView]:
    known = set(categories)
    return [view for view in experts if view.card and not view.general and not known & set(view.skills)]


def _softmax(values: Sequence[float], temperature: float) -> list[float]:
    scaled = np.asarray(values, dtype=np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    shares: list[float] = (weights / weights.sum()).tolist()
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
        from coe.examples.router_examples import router_examples

        return [Example(text, category) for text, category in router_examples()]
    path = root / Path(source).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"router examples {path} cannot be read: {error}",
            hint='Write "package:demo", or a JSONL file with one {"text": ..., "category": ...} a line.',
        ) from None
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
