"""What all routers that learn from evidence share: text -> vector -> estimate -> decision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from coe.core.decision import decide, generals
from coe.core.errors import ConfigError
from coe.core.types import Decision, ExpertId, ExpertView, Ranked, Rule
from coe.routers.base import RouterOptions, Setting
from coe.routers.encoders.encoder import Encoder, Vectors, unit
from coe.routers.learning.cards import described, with_newcomers
from coe.routers.learning.category_classifier import largest_cosines
from coe.routers.learning.evidence import Estimator, Evidence
from coe.routers.learning.familiarity import Familiarity, unless_far
from coe.routers.learning.views import Asked, asked
from coe.routers.per_pool import PerPool

Floats = npt.NDArray[np.float64]
SHOWN = 3
"""Examples in a reason."""


class LearnedOptions(RouterOptions):
    """Options of every router that learns. ``encoder``: the one that the profiles were made with."""

    encoder: str = "minilm"


@dataclass(frozen=True)
class Judged:
    """How the expert is chosen from the ranking, and what the question is about."""

    rule: Rule
    category: str | None = None
    """where this kind knows categories; marks of clients count by it"""
    label: str = ""
    """for people"""


class LearnedRouter(ABC):
    """Ranks experts by an estimator's calibrated probability that they answer rightly.

    A subclass names its estimator and says why (``_because``). Experts without evidence compete by their
    cards; when no expert has any, cards alone decide. Where there is a general expert, the less a question is
    like what the others are known by, the likelier it is the general one's. Thread-safe; deterministic.
    """

    options_type: ClassVar[type[RouterOptions]] = LearnedOptions
    blocking = True

    def __init__(
        self, name: str, options: LearnedOptions, setting: Setting, encoder: Encoder | None = None
    ) -> None:
        self.name = name
        self._options = options
        self._encoder = encoder or setting.encoder(options.encoder)
        self._cards = PerPool[Vectors]()
        self._places = PerPool[npt.NDArray[np.intp]]()
        self._read_cards(setting.experts)  # into the encoder's cache
        self._evidence = setting.evidence if setting.evidence and len(setting.evidence) else None
        self._estimator: Any = None
        self._place: dict[ExpertId, int] = {}
        if self._evidence is not None:
            check_encoder(name, self._evidence, (options.encoder, self._encoder.identity))
            self._estimator = self._make(options).fit(self._evidence)
            self._categories, self._centres = _centres(self._evidence)
            self._place = {expert: i for i, expert in enumerate(self._estimator.experts_)}
        known = () if self._evidence is None else (self._evidence.vectors, self._evidence.categories)
        self._familiarity = Familiarity(None if encoder else self._encoder, *known)
        self._familiarity.prepare(setting.experts)

    def renewed(self, setting: Setting) -> Self:
        """What was learned stays: experts without evidence are judged by their cards at each decision."""
        self._read_cards(setting.experts)
        self._familiarity.prepare(setting.experts)
        return self

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        return self._decided(self._seen(text, experts), experts)

    def _seen(self, text: str, experts: Sequence[ExpertView]) -> Asked:
        return asked(text, self._encoder, partial(self._nearness, experts))

    def _nearness(self, experts: Sequence[ExpertView], vectors: Vectors) -> Floats:
        """(k,) largest cosine of vectors (k, d) with a question of the evidence, or with a card."""
        known = (
            self._cards.of(experts, self._read_cards) if self._evidence is None else self._evidence.vectors
        )
        return largest_cosines(vectors, known)

    def _decided(self, asked: Asked, experts: Sequence[ExpertView], account: str = "") -> Decision:
        """``account``: for people, what was written about the question."""
        known = self._known(asked, experts)
        chances = known
        if not np.isfinite(known).all():
            chances = with_newcomers(known, self._card_cosines(asked.vectors, experts, asked.weights))
        judged = self._judged(asked, experts)
        if judged.rule.general:
            share = self._familiar(asked, experts)
            chances = share * chances + (1 - share) * self._beyond(experts)
            judged = replace(judged, rule=unless_far(judged.rule, share))
        order = np.argsort(-chances, kind="stable").tolist()
        ids = [experts[i].id for i in order]
        ranking = tuple(map(Ranked, ids, chances[order].tolist()))
        reason = self._reason(asked, ranking, known_first=bool(np.isfinite(known[order[0]])))
        because = "; ".join(part for part in (judged.label, reason, account) if part)
        return decide(self.name, ranking, because, judged.rule, judged.category)

    def _judged(self, asked: Asked, experts: Sequence[ExpertView]) -> Judged:
        return Judged(Rule(general=generals(experts)), self._category(asked))

    def _category(self, asked: Asked) -> str | None:
        """The one of the evidence whose questions are nearest on average; None without evidence."""
        if self._evidence is None:
            return None
        return self._categories[int((self._centres @ asked.vector[0]).argmax())]

    def _familiar(self, asked: Asked, experts: Sequence[ExpertView]) -> float:
        """How probably the question is of a kind that one of the specialists is known for."""
        known = self._places.of(experts, self._find_places) >= 0
        special = np.asarray([not view.general for view in experts])
        cards = self._cards.of(experts, self._read_cards)[special & ~known]
        vectors = self._encoder.encode(asked.texts)  # not that of what a writer wrote
        shares = self._familiarity.of(vectors, cards, taught=bool((special & known).any()))
        return float(asked.settled(shares, shares=False)[0])

    def _beyond(self, experts: Sequence[ExpertView]) -> Floats:
        """(m,) probabilities of a right answer to a question of no known kind, where nobody was marked: even
        for a general expert, or as the best on what is known; for others as where they are at their worst."""
        level, worst = 0.5, np.zeros(0)
        if self._estimator is not None:
            estimates = self._estimator.cross_fitted_
            level = min(level, float(estimates.max(axis=1).mean()))
            worst = np.quantile(estimates, 0.1, axis=0)
        places = self._places.of(experts, self._find_places).tolist()
        others = [level / 2 if place < 0 else min(level, float(worst[place])) for place in places]
        return np.asarray([level if v.general else p for v, p in zip(experts, others, strict=True)])

    def _known(self, asked: Asked, experts: Sequence[ExpertView]) -> Floats:
        """(m,) calibrated probabilities; NaN for experts without evidence."""
        places = self._places.of(experts, self._find_places)
        if self._estimator is None or not (places >= 0).any():
            return np.full(len(experts), np.nan)
        estimates = asked.settled(self._estimator.estimate(asked.texts, asked.vectors), shares=False)
        found: Floats = np.where(places >= 0, estimates[places], np.nan)
        return found

    def _find_places(self, experts: Sequence[ExpertView]) -> npt.NDArray[np.intp]:
        """(m,) columns of the estimator; -1 for experts without evidence."""
        return np.asarray([self._place.get(view.id, -1) for view in experts], dtype=np.intp)

    def _read_cards(self, experts: Sequence[ExpertView]) -> Vectors:
        """(m, d)"""
        return self._encoder.encode([described(view) for view in experts])

    def _card_cosines(
        self, vectors: Vectors, experts: Sequence[ExpertView], weights: Floats | None = None
    ) -> Floats:
        """(m,) cosine of each expert's card with texts whose vectors (k, d) are given, by their weights."""
        cards = self._cards.of(experts, self._read_cards)
        seen = vectors[0] if len(vectors) == 1 or weights is None else weights @ vectors
        cosines: Floats = (cards @ seen).astype(np.float64)
        return cosines

    def _reason(self, asked: Asked, ranking: Sequence[Ranked], known_first: bool) -> str:
        first = ranking[0]
        parts = [f"{first.expert} right {first.probability:.2f}"]
        if len(ranking) > 1:
            parts.append(f"runner-up {ranking[1].expert} {ranking[1].probability:.2f}")
        if self._estimator is None:
            parts.append("by cards alone, there are no profiles yet: `coe experts profile` makes them")
        elif not known_first:
            parts.append("by its card, as it has no profile yet")
        if self._estimator is not None and (because := self._because(asked, first.expert)):
            parts.append(because)
        return "; ".join(parts)

    def _examples(self, rows: Sequence[int], cosines: Sequence[float]) -> str:
        """Questions of the evidence for people: ids and categories, as it holds no text."""
        if self._evidence is None:
            return ""
        shown = [
            f"{self._evidence.ids[row]} ({self._evidence.categories[row]}) {cosine:.2f}"
            for row, cosine in zip(rows, cosines, strict=True)
        ]
        return "nearest " + ", ".join(shown)

    @abstractmethod
    def _make(self, options: Any) -> Estimator:
        """The estimator that these options ask for, not fitted yet."""

    def _because(self, asked: Asked, expert: ExpertId) -> str:  # noqa: ARG002
        """What in the evidence speaks for ``expert``, in one line; empty when there is nothing to say."""
        return ""


def _centres(evidence: Evidence) -> tuple[tuple[str, ...], Vectors]:
    """The categories, and the direction (c, d) of each one's questions."""
    categories = tuple(sorted(set(evidence.categories)))
    labels = np.asarray(evidence.categories, dtype=object)
    centres = [evidence.vectors[labels == category].mean(axis=0) for category in categories]
    return categories, np.stack([unit(centre) for centre in centres])


def check_encoder(name: str, evidence: Evidence, encoders: Sequence[str]) -> None:
    """Raises ConfigError when the vectors of the evidence are by none of ``encoders`` (names of one)."""
    if evidence.encoder and evidence.encoder not in encoders:
        raise ConfigError(
            f'router "{name}": the profiles were made with another sentence encoder ({evidence.encoder})',
            hint="Name that encoder in the router's options, or make the profiles again.",
        )
