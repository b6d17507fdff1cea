"""What an edit of the registry builds anew, what it keeps, and that nothing of earlier generations stays."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from coe.onboarding.profiler import Probes, profile_recorded
from coe.profiles.outcomes import Source, recorded
from coe.registry.schema import Registry
from coe.routers import ESTIMATORS
from coe.routers.base import Setting
from coe.routers.category import CategoryOptions, CategoryRouter
from coe.routers.encoders.encoder import CachedEncoder, Encoders, open_encoder
from coe.service.build_generation import GenerationBuilder
from tests.support.profiles import outcome_set, registry_of

KINDS = (*ESTIMATORS, "cascade")
EXPERTS = ("lawyer", "counter", "other")


def registry(*experts: str, card: str = "answers", kinds: Sequence[str] = ("knn", "pilot")) -> Registry:
    encoder = {"encoder": "static"}
    available: list[dict[str, Any]] = [{"name": kind, "kind": kind, "options": encoder} for kind in kinds]
    available.append(
        {"name": "demo", "kind": "category", "options": encoder | {"examples": "examples.jsonl"}}
    )
    available.append({"name": "dice", "kind": "random"})
    made = registry_of(*experts, routers={"default": "knn", "available": available})
    cards = [expert.model_copy(update={"card": card}) for expert in made.experts]
    return made.model_copy(update={"experts": tuple(cards)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With profiles of the lawyer and the counter."""
    root = tmp_path_factory.mktemp("profiled")
    known, outcomes = registry(*EXPERTS), outcome_set(60)
    vectors = open_encoder("static", root).encode([question.text or "" for question in outcomes.questions])
    examples = [{"text": f"{topic} {i}", "category": topic} for topic in ("law", "sums") for i in range(3)]
    (root / "examples.jsonl").write_text("\n".join(map(json.dumps, examples)))
    for expert in known.experts[:2]:
        made = recorded(outcomes, vectors, "static", Source("made"))
        profile_recorded(known, root, expert, made, Probes())
    return root


@pytest.fixture
def no_collection() -> Iterator[None]:
    """As after ``gc.freeze()``: what hangs in a cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.usefixtures("no_collection")
def test_of_many_edits_only_the_last_generations_routers_are_left(folder: Path) -> None:
    builder = GenerationBuilder(folder)
    seen: list[weakref.ref[object]] = []
    encoders: set[int] = set()
    for number in range(1, 13):
        # Every fourth edit takes a profiled expert out or puts it back: all that learn are built anew.
        names = EXPERTS[: 3 if number // 4 % 2 else 1]
        generation = builder.build(registry(*names, card=f"answers {number}", kinds=KINDS), number)
        routers = list(generation.routers.values())
        for router in routers:
            seen.append(weakref.ref(router))
            generation.routers[router.name].route("What is the law?", generation.experts)
        encoders |= {id(router._encoder) for router in routers if hasattr(router, "_encoder")}
    alive = {id(found) for ref in seen if (found := ref()) is not None}
    assert alive == {id(router) for router in generation.routers.values()}
    assert len(encoders) == 1, "one encoder for all routers and generations"


def test_an_edit_builds_only_what_depends_on_it(folder: Path) -> None:
    builder = GenerationBuilder(folder)
    first = builder.build(registry(*EXPERTS), 1).routers
    same = builder.build(registry(*EXPERTS), 2).routers
    assert all(same[name] is router for name, router in first.items())
    without = builder.build(registry("lawyer", "other"), 3).routers
    assert without["demo"]._classifier is first["demo"]._classifier  # type: ignore[attr-defined]
    assert without["knn"] is not first["knn"], "it had learned from the counter's answers"


def test_what_the_profiles_say_is_held_once(folder: Path) -> None:
    routers = GenerationBuilder(folder).build(registry(*EXPERTS), 1).routers
    assert len({id(routers[kind]._evidence) for kind in ("knn", "pilot")}) == 1  # type: ignore[attr-defined]


def test_an_encoder_is_opened_once_while_somebody_uses_it(tmp_path: Path) -> None:
    encoders = Encoders()
    first = encoders.open("static", tmp_path)
    assert encoders.open("static", tmp_path / "elsewhere") is first
    assert isinstance(first, CachedEncoder)
    gone = weakref.ref(first)
    del first
    assert gone() is None
    setting = Setting(root=tmp_path, encoders=encoders)
    one, two = (CategoryRouter(name, CategoryOptions(encoder="static"), setting) for name in ("a", "b"))
    assert one._encoder is two._encoder
