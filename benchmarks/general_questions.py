"""Which questions reach the general expert, and at what loss: ``python -m benchmarks.general_questions``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from coe.core.types import ExpertView, Router
from coe.demo.questions import distinct_questions
from coe.demo.skills import all_skills
from coe.routers import router_class
from coe.routers.base import Setting
from coe.routers.encoders.encoder import Encoder, Encoders
from coe.routers.learning.evidence import Evidence
from coe.routers.learning.features import text_features
from tests.support.general_questions import greetings, next_to_nothing, off_topic

LEARNED = ("category", "skill", "instruction", "knn", "linear", "traits", "pilot", "blend", "cascade")
BASE = ExpertView("base", card="General chat and everything that no specialist covers.", general=True)


def demo_views() -> list[ExpertView]:
    made = (ExpertView(s.name, card=s.card, skills=(s.name,), parameters_b=0.1) for s in all_skills())
    return [BASE, *made]


def own_questions(per_skill: int = 30) -> list[tuple[str, str]]:
    """Texts with the skill that each needs, of wordings that nobody has learned from."""
    return [(q.text, s.name) for s in all_skills() for q in distinct_questions(s, "test", per_skill, 11)]


def drawn_profiles(encoder: Encoder) -> Evidence:
    """20 questions of each skill; its specialist is right on 90%, everybody else on 4%."""
    asked = [(q, s.name) for s in all_skills() for q in distinct_questions(s, "train", 20, 7)]
    texts, skills = [q.text for q, _ in asked], [name for _, name in asked]
    experts = tuple(view.id for view in demo_views())
    chance = [[0.9 if expert == name else 0.04 for expert in experts] for name in skills]
    scores = (np.random.default_rng(5).random((len(asked), len(experts))) < chance).astype(np.float32)
    return Evidence(
        ids=tuple(q.id for q, _ in asked),
        categories=tuple(skills),
        vectors=encoder.encode(texts),
        experts=experts,
        scores=scores,
        counts=np.ones_like(scores),
        encoder=encoder.identity,
        features=text_features(texts),
    )


def to_general(router: Router, texts: Sequence[str]) -> float:
    return sum(router.route(text, demo_views()).expert == BASE.id for text in texts) / len(texts)


def own_right(router: Router, views: Sequence[ExpertView], per_skill: int = 30) -> float:
    asked = own_questions(per_skill)
    return sum(router.route(text, views).expert == skill for text, skill in asked) / len(asked)


@click.command()
@click.option("--encoder", default="minilm", show_default=True)
def main(encoder: str) -> None:
    """A row for each kind of router, with profiles, with examples, and with cards alone."""
    encoders = Encoders()
    evidence = drawn_profiles(encoders.open(encoder, Path()))
    views = demo_views()
    without = [replace(view, general=False) for view in views]
    cases: list[tuple[str, str, Evidence | None, dict[str, Any]]] = [
        *((kind, "profiles", evidence, {}) for kind in LEARNED),
        ("category", "examples", None, {"examples": "package:demo"}),
        *((kind, "cards", None, {}) for kind in ("category", "knn")),
    ]
    click.echo("| router | known by | greetings | next to nothing | off topic | own without | own with |")
    click.echo("|---|---|--:|--:|--:|--:|--:|")
    for kind, known_by, known, options in cases:
        cls: Any = router_class(kind)
        setting = Setting(experts=tuple(views), evidence=known, encoders=encoders)
        router = cls("measured", cls.options_type(encoder=encoder, **options), setting)
        shares = [f"{to_general(router, asked()):.2f}" for asked in (greetings, next_to_nothing, off_topic)]
        own = [f"{100 * own_right(router, experts):.1f}" for experts in (without, views)]
        click.echo(f"| {kind} | {known_by} | {' | '.join([*shares, *own])} |")


if __name__ == "__main__":
    main()
