"""Profiles out of recorded outcomes: of every answer there is, or of a few probes only."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coe.core.errors import ConfigError
from coe.outcomes.outcome_set import Floats, Indices, OutcomeSet
from coe.outcomes.splits import is_held_out
from coe.outcomes.statistics import Z95
from coe.outcomes.text_key import text_key
from coe.profiles.names import HUB_IDS
from coe.profiles.newcomer import NewcomerModel
from coe.profiles.probing import Design, Probing, probe
from coe.profiles.profile import Cost, Estimate, ExpertProfile, Outcomes, Provenance, Tally
from coe.profiles.table import QuestionTable
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.evidence import Evidence
from coe.routers.learning.features import text_features

MODEL_WEIGHT = 0.05
"""Of one answer: what an estimated row counts where rows are weighted."""


@dataclass(frozen=True)
class Source:
    """Where outcomes come from, as profiles say it."""

    name: str
    licence: str = ""
    prompt: str = ""


@dataclass(frozen=True)
class Recorded:
    """The rows of an outcome set that profiles may be made from, and their question table."""

    outcomes: OutcomeSet
    table: QuestionTable
    encoder: str

    def evidence(self, experts: Sequence[str]) -> Evidence:
        """Raises ConfigError for an expert that the set does not have."""
        part = self.outcomes.scores[:, [self.outcomes.experts.index(expert) for expert in experts]]
        return Evidence(
            ids=self.table.ids,
            categories=self.table.categories,
            vectors=self.table.vectors[self.encoder],
            experts=tuple(experts),
            scores=part.astype(np.float32),
            counts=np.isfinite(part).astype(np.float32),
            encoder=self.encoder,
            features=self.table.features,
        )


def training_rows(outcomes: OutcomeSet, split: str | None = None) -> Indices:
    """Questions with text that are not held out (and of ``split``), and no copies of held-out ones.

    Raises ConfigError when there are none, or when ``split`` itself is a held-out one.
    """
    if split is not None and is_held_out(split):
        raise ConfigError(
            f'the split "{split}" is held out: profiles are never made from test questions',
            hint="Name the split to learn from, for example --split dev.",
        )
    questions = outcomes.questions
    tested = {text_key(q.stem) for q in questions if q.stem and is_held_out(q.split)}
    rows = [
        i
        for i, q in enumerate(questions)
        if q.stem is not None
        and not is_held_out(q.split)
        and (split is None or q.split == split)
        and text_key(q.stem) not in tested
    ]
    if not rows:
        raise ConfigError(
            f"{outcomes.name} has no question with text outside of held-out splits: nothing to learn from"
        )
    return np.asarray(rows, dtype=np.intp)


def recorded(outcomes: OutcomeSet, vectors: Vectors, encoder: str, source: Source) -> Recorded:
    """``outcomes`` hold training rows only (:func:`training_rows`), ``vectors`` are theirs by ``encoder``."""
    questions = outcomes.questions
    table = QuestionTable(
        name=outcomes.name,
        ids=tuple(q.id for q in questions),
        categories=tuple(q.category for q in questions),
        splits=tuple(q.split for q in questions),
        vectors={encoder: vectors},
        keys=frozenset(text_key(q.stem) for q in questions if q.stem),
        features=text_features([q.text or "" for q in questions]),
        source=source.name,
        licence=source.licence,
    )
    return Recorded(outcomes, table, encoder)


def full_profile(data: Recorded, expert: str, source: Source, name: str | None = None) -> ExpertProfile:
    """From every answer of ``expert`` in the set; ``name``: what the profile is called."""
    scores = data.outcomes.scores[:, data.outcomes.experts.index(expert)]
    asked = np.flatnonzero(np.isfinite(scores))
    return _profile(data, expert, asked, scores[asked], source, name)


def probed_profile(
    data: Recorded, expert: str, probing: Probing, source: Source, name: str | None = None
) -> ExpertProfile:
    """From the answers of a :class:`Probing`, with its estimate of all other rows."""
    profile = _profile(data, expert, probing.rows, probing.scores, source, name)
    estimate = Estimate(
        table=data.table.fingerprint,
        scores=tuple(round(float(p), 3) for p in probing.probabilities),
        weight=MODEL_WEIGHT,
        method=f"hierarchical logistic model over {len(probing.model.known.experts)} known experts",
    )
    return profile.model_copy(update={"estimate": estimate, "estimated": _estimated(probing)})


def probe_recorded(
    data: Recorded, expert: str, known: Sequence[str], count: int, design: Design = "adaptive", seed: int = 0
) -> Probing:
    """Ask ``expert`` through its recorded answers. Raises ConfigError when there is none."""
    scores = data.outcomes.scores[:, data.outcomes.experts.index(expert)]
    allowed = np.flatnonzero(np.isfinite(scores))
    if not len(allowed):
        raise ConfigError(f"{data.outcomes.name} has no answer of {expert} to a question of a training split")
    model = NewcomerModel(data.evidence(known))
    return probe(model, lambda rows: scores[rows], count, allowed=allowed, design=design, seed=seed)


def _estimated(probing: Probing) -> dict[str, Tally]:
    found = {}
    for each in probing.model.by_category(probing.posterior, probing.rows):
        half = Z95 * each.deviation
        low, high = max(0.0, each.mean - half), min(1.0, each.mean + half)
        found[each.category] = Tally(
            mean=round(each.mean, 4), count=each.asked, low=round(low, 4), high=round(high, 4)
        )
    return found


def _profile(
    data: Recorded, expert: str, rows: Indices, scores: Floats, source: Source, name: str | None
) -> ExpertProfile:
    questions = data.outcomes.questions
    labels = np.asarray([questions[row].category for row in rows], dtype=object)
    everywhere = len(rows) == len(questions)
    aliases = (*(() if name is None or name == expert else (expert,)), *HUB_IDS.get(expert, ()))
    return ExpertProfile(
        expert=name or expert,
        models=aliases,
        overall=_tally(scores),
        categories={str(name): _tally(scores[labels == name]) for name in sorted(set(labels))},
        outcomes=Outcomes(
            table=data.table.fingerprint,
            rows=None if everywhere else tuple(int(row) for row in rows),
            scores=tuple(round(float(score), 4) for score in scores),
        ),
        cost=_cost(data.outcomes, expert, rows),
        provenance=Provenance(
            source=source.name,
            licence=source.licence,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            prompt=source.prompt,
            splits=tuple(sorted({questions[row].split for row in rows})),
        ),
    )


def _tally(scores: Floats) -> Tally:
    return Tally.of(float(scores.mean()) if len(scores) else 0.0, len(scores))


def _cost(outcomes: OutcomeSet, expert: str, rows: Indices) -> Cost:
    if expert not in outcomes.experts:
        return Cost()
    costs = outcomes.costs[rows, outcomes.experts.index(expert)]
    known = costs[np.isfinite(costs)]
    return Cost(mean_usd=round(float(known.mean()), 8) if len(known) else None)
