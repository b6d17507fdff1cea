"""Profiles as the :class:`~coe.routers.learning.evidence.Evidence` that routers learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coe.core.errors import ConfigError
from coe.profiles.profile import ENOUGH, ExpertProfile
from coe.profiles.store import ProfileStore, open_store
from coe.profiles.table import QuestionTable
from coe.registry.schema import Expert, Registry, RouterSpec
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.evidence import Evidence, Matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

DEFAULT_ENCODER = "minilm"
"""The encoder of the profiles that come with CoE."""

_FEWEST = 3
"""Models that say how models differ."""

_TWINS = {"minilm": ("minilm-int8",), "minilm-int8": ("minilm",)}
"""One model in two precisions: the cosine of a text's two vectors is about .99
(docs/explanation/encoders.md)."""


def evidence_of(
    store: ProfileStore, experts: Sequence[Expert], encoder: str = DEFAULT_ENCODER
) -> Evidence | None:
    """What is known of those of ``experts`` that have a profile, in their order; None where none has.

    Only tables with vectors by ``encoder`` count. Rows of several tables stand below one another, with NaN
    where an expert was not asked. Raises ConfigError for a profile that does not fit its table.
    """
    by_expert = {expert.id: store.of(expert) for expert in experts}
    wanted = {profile.outcomes.table for profiles in by_expert.values() for profile in profiles}
    tables = [t for key, t in store.tables.items() if key in wanted and _vectors(t, encoder) is not None]
    parts = [_on_table(table, by_expert, encoder) for table in tables]
    if not parts:
        return None
    joined = _stacked(parts)
    known = [
        e for e, column in zip(joined.experts, joined.scores.T, strict=True) if np.isfinite(column).any()
    ]
    if not known:
        return None
    return replace(joined.only(known), reference=_reference(store, by_expert, encoder))


def _reference(
    store: ProfileStore, by_expert: Mapping[str, Sequence[ExpertProfile]], encoder: str
) -> Evidence | None:
    """What the profiles say of models that are no experts here: how models differ."""
    here = {profile.expert for profiles in by_expert.values() for profile in profiles}
    told: dict[str, list[ExpertProfile]] = {}
    for profile in store.profiles:
        if profile.expert not in here and profile.overall.count >= ENOUGH:
            told.setdefault(profile.expert, []).append(profile)
    if len(told) < _FEWEST:
        return None
    tables = [t for t in store.tables.values() if _vectors(t, encoder) is not None]
    found = [_on_table(table, told, encoder) for table in tables]
    parts = [part for part in found if np.isfinite(part.scores).any(axis=1).all()]
    return _stacked(parts) if parts else None


def described(registry: Registry, root: Path) -> list[str]:
    """Lines for people: which experts have profiles, made from what. Raises ConfigError."""
    store = open_store(registry, root)
    lines, without = [], []
    for expert in registry.routed:
        profiles = store.of(expert)
        if not profiles:
            without.append(expert.id)
        for profile in profiles:
            known = f", {profile.overall.count:g} questions" if profile.overall.count else ""
            lines.append(
                f"{expert.id} has the profile {profile.expert}: {profile.overall.mean:.3f} on "
                f"{profile.provenance.source}{known}"
            )
    if lines and without:
        lines.append(f"no profile, so routed by card and skills only: {', '.join(without)}")
    return lines


def cautions(registry: Registry, root: Path) -> list[str]:
    """Lines for people: profiles of other weights, and those that rest on few answers. Raises ConfigError."""
    store = open_store(registry, root)
    found = [line for expert in registry.experts if (line := stale(store, expert))]
    few = (profile.caution for expert in registry.routed for profile in store.of(expert))
    return [*found, *(line for line in few if line)]


def stale(store: ProfileStore, expert: Expert) -> str | None:
    """A sentence for people where a profile of the expert's name does not count, as other weights made it."""
    for profile in store.stale(expert):
        then = profile.weights
        made = f"{then.model} with {then.adapter}" if then and then.adapter else then.model if then else ""
        now = f"{expert.model} with {expert.adapter}" if expert.adapter else expert.model
        what = (
            f"made of {made}, and {expert.id} is {now} now" if made != now else f"made of an earlier {made}"
        )
        return f"the profile {profile.expert} does not count: it was {what}; profile {expert.id} again"
    return None


def encoder_of(spec: RouterSpec, root: Path) -> str:
    """The encoder whose vectors this router reads: its option ``encoder``, or that option's default."""
    from coe.routers import router_class

    field = router_class(spec.kind, root).options_type.model_fields.get("encoder")
    return str(spec.options.get("encoder", field.default if field else DEFAULT_ENCODER))


def _on_table(
    table: QuestionTable, by_expert: Mapping[str, Sequence[ExpertProfile]], encoder: str
) -> Evidence:
    """About all experts, NaN for those without a profile on this table."""
    vectors = _vectors(table, encoder)
    if vectors is None:
        raise ValueError(f"{table.name} has no vectors by {encoder}")
    scores: Matrix = np.full((len(table), len(by_expert)), np.nan, dtype=np.float32)
    counts: Matrix = np.zeros_like(scores)
    costs: list[float | None] = [None] * len(by_expert)
    for column, profiles in enumerate(by_expert.values()):
        for profile in profiles:
            if profile.outcomes.table == table.fingerprint:
                scores[:, column], counts[:, column] = columns_of(profile, table)
                costs[column] = profile.cost.mean_usd
    return Evidence(
        ids=table.ids,
        categories=table.categories,
        vectors=vectors,
        experts=tuple(by_expert),
        scores=scores,
        counts=counts,
        # By name, as people write it: an identity is for what is kept on one machine.
        encoder=encoder,
        cost_usd=tuple(costs),
        features=table.features,
    )


def _vectors(table: QuestionTable, encoder: str) -> Vectors | None:
    """Those by the encoder, else by one that is as good as the same."""
    twins = (encoder, *_TWINS.get(encoder, ()))
    return next((table.vectors[name] for name in twins if name in table.vectors), None)


def columns_of(profile: ExpertProfile, table: QuestionTable) -> tuple[Matrix, Matrix]:
    """Scores and counts, each (n,): the answers where there are some, else the estimate, else NaN and 0."""
    scores: Matrix = np.full(len(table), np.nan, dtype=np.float32)
    counts: Matrix = np.zeros(len(table), dtype=np.float32)
    estimate, outcomes = profile.estimate, profile.outcomes
    try:
        if estimate is not None and estimate.table == table.fingerprint:
            scores[:] = estimate.scores
            counts[:] = estimate.weight
        rows = list(range(len(table)) if outcomes.rows is None else outcomes.rows)
        given = np.asarray(outcomes.scores, dtype=np.float32)
        behind = np.ones(len(rows), np.float32) if outcomes.counts is None else np.asarray(outcomes.counts)
        told = np.isfinite(given)
        scores[np.asarray(rows, dtype=np.intp)[told]] = given[told]
        counts[np.asarray(rows, dtype=np.intp)[told]] = behind[told]
    except (ValueError, IndexError):
        raise ConfigError(
            f"the profile of {profile.expert} does not fit the question table {table.name}",
            hint="Make it again with `coe experts profile`, or delete it.",
        ) from None
    return scores, counts


def _stacked(parts: Sequence[Evidence]) -> Evidence:
    first = parts[0]
    if len(parts) == 1:
        return first
    names = [f"{part}:{identity}" for part, each in enumerate(parts) for identity in each.ids]
    unique = len({identity for each in parts for identity in each.ids}) == len(names)
    costs = zip(*(each.cost_usd for each in parts), strict=True)
    return Evidence(
        ids=tuple(identity for each in parts for identity in each.ids) if unique else tuple(names),
        categories=tuple(category for each in parts for category in each.categories),
        vectors=np.concatenate([each.vectors for each in parts]),
        experts=first.experts,
        scores=np.concatenate([each.scores for each in parts]),
        counts=np.concatenate([each.counts for each in parts]),
        encoder=first.encoder,
        cost_usd=tuple(next((cost for cost in row if cost is not None), None) for row in costs),
        features=_stacked_features(parts),
    )


def _stacked_features(parts: Sequence[Evidence]) -> csr_matrix | None:
    """None where a part has none: a learner reads the wording of all rows or of none."""
    from scipy.sparse import vstack

    found = [part.features for part in parts if part.features is not None]
    return vstack(found, format="csr") if len(found) == len(parts) else None
