"""An expert joins from recorded answers: profiled, judged by the gate, written to experts.yaml, shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner, Result

from coe.cli import main
from coe.core.errors import BadRequest
from coe.onboarding.gate import ProfileGate
from coe.onboarding.onboarding import Onboarding
from coe.onboarding.profiler import ProbeProfiler
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.evidence import Evidence
from coe.service.build_onboarding import file_editor
from coe.service.registry_file import load_registry

CATEGORIES = ("law", "math")
ABILITY = {"lawyer": (0.8, 0.3), "counter": (0.3, 0.8), "newcomer": (0.7, 0.7), "weak": (0.1, 0.1)}
REGISTRY = """\
version: 1
pool:
  hosts:
    - {id: api, kind: remote, url: "http://localhost:1/v1"}
experts:
  - {id: lawyer, host: api, model: lawyer}
  - {id: counter, host: api, model: counter}
profiles: [profiles]
routers:
  default: category
"""


class ByCategory:
    """Vectors near the axis of the category that a text names."""

    identity = "made"
    dimension = 4

    def encode(self, texts: Sequence[str]) -> Vectors:
        rows = np.eye(4, dtype=np.float32)[[CATEGORIES.index(text.split()[0]) for text in texts]]
        rows[:, 3] = [int(text.split()[1]) % 7 / 20 for text in texts]
        unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


class Boast:
    """An estimator that sends everything to the weak expert when it is there."""

    def fit(self, evidence: Evidence) -> Boast:
        self._row = [float(expert == "weak") for expert in evidence.experts]
        return self

    def estimate(self, texts: object, vectors: Vectors) -> Vectors:
        return np.tile(np.asarray(self._row, dtype=np.float32), (len(vectors), 1))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("coe.routers.encoders.encoder.open_encoder", lambda name, root: ByCategory())
    path = tmp_path / "experts.yaml"
    path.write_text(REGISTRY, encoding="utf-8")
    return path


@pytest.fixture
def outcomes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "made"
    folder.mkdir()
    labels = [n % len(CATEGORIES) for n in range(240)]
    questions = [
        {"question_id": str(n), "question": f"{CATEGORIES[k]} {n}", "category": CATEGORIES[k], "split": "dev"}
        | {"options": ["one", "two"], "gold": "AB"[n // 2 % 2]}
        for n, k in enumerate(labels)
    ]
    answers = [
        {"question_id": str(n), "expert": expert, "score": float(rng.random() < chances[k])}
        for n, k in enumerate(labels)
        for expert, chances in ABILITY.items()
    ]
    parquet.write_table(pyarrow.Table.from_pylist(questions), folder / "questions.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(answers), folder / "outcomes.parquet")
    (folder / "experts.csv").write_text("expert\n" + "\n".join(ABILITY) + "\n", encoding="utf-8")
    return folder


def coe(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == code, result.output
    return result


def test_expert_joins_by_its_id_with_a_profile_from_few_answers(registry: Path, outcomes: Path) -> None:
    at = ("--registry", str(registry))
    added = coe("experts", "add", "newcomer", "--outcomes", str(outcomes), "--probes", "60", "--json", *at)
    found = json.loads(added.stdout)
    [joined], [profile] = found["experts"], found["profiles"]
    assert (joined["expert"], joined["shadow"]) == ("newcomer", False)
    assert any("may be routed to" in reason for reason in joined["reasons"])
    assert profile["overall"]["count"] == 60
    assert set(profile["estimated"]) == set(CATEGORIES)

    loaded = load_registry(registry)
    assert [expert.id for expert in loaded.routed] == ["lawyer", "counter", "newcomer"]
    written = {path.stem for path in (registry.parent / "profiles" / "experts").glob("*.json")}
    assert written == {"lawyer", "counter", "newcomer"}

    shown = coe("experts", "show", "newcomer", *at).stdout
    assert "on 60 questions of made" in shown
    assert "warning: the profile newcomer rests on 60 answers" in shown
    listed = coe("experts", "list", "--url", "http://127.0.0.1:9", *at).stderr
    assert "warning: the profile newcomer rests on 60 answers" in listed
    told = json.loads(coe("experts", "show", "newcomer", "--json", *at).stdout)
    assert told["profiles"] == [profile]


def test_expert_that_the_gate_refuses_joins_as_a_shadow(
    registry: Path, outcomes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coe.onboarding.gate.estimator_builder", lambda spec: Boast)
    at = ("--registry", str(registry))
    added = coe("experts", "add", "weak", "--outcomes", str(outcomes), "--probes", "60", *at)
    assert "weak is admitted as a shadow only" in added.stdout
    loaded = load_registry(registry)
    assert [expert.id for expert in loaded.routed] == ["lawyer", "counter"]
    weak = loaded.expert("weak")
    assert weak is not None
    assert weak.shadow


def test_expert_without_answers_in_the_set_is_not_added(registry: Path, outcomes: Path) -> None:
    before = registry.read_text(encoding="utf-8")
    at = ("--registry", str(registry))
    refused = coe("experts", "add", "stranger", "--outcomes", str(outcomes), *at, code=2)
    assert "no outcomes of stranger" in refused.stderr
    assert registry.read_text(encoding="utf-8") == before


@pytest.mark.slow
def test_expert_that_joins_a_service_is_asked_judged_and_routed_to(registry: Path, outcomes: Path) -> None:
    registry.write_text(REGISTRY + f"probes: {outcomes.name}\n", encoding="utf-8")
    asked: list[str] = []

    async def ask(question: str) -> str:
        assert load_registry(registry).expert("fresh").shadow  # type: ignore[union-attr]
        asked.append(question)
        number = int(question.split()[1])
        return (
            f"The answer is ({'AB'[number // 2 % 2]})." if question.startswith("math") else "I am not sure."
        )

    onboarding = Onboarding(
        file_editor(registry),
        ProfileGate(registry.parent),
        ProbeProfiler(registry.parent),
        lambda expert: ask,
    )
    entry = {"id": "fresh", "host": "api", "model": "fresh"}
    [joined] = asyncio.run(onboarding.add([entry], profile=True))
    assert joined.profile is not None
    assert joined.profile.questions == len(asked) == 200
    assert not joined.shadow, joined.reasons
    shown = json.loads(coe("experts", "show", "fresh", "--registry", str(registry), "--json").stdout)
    categories = shown["profiles"][0]["estimated"]
    assert categories["math"]["mean"] > 0.9 > 0.1 > categories["law"]["mean"]


def test_expert_is_not_asked_where_no_questions_are_named(registry: Path) -> None:
    before = registry.read_text(encoding="utf-8")
    root = registry.parent
    onboarding = Onboarding(
        file_editor(registry), ProfileGate(root), ProbeProfiler(root), lambda expert: unasked
    )
    with pytest.raises(BadRequest, match="names no questions"):
        asyncio.run(onboarding.add([{"id": "fresh", "host": "api", "model": "fresh"}], profile=True))
    assert registry.read_text(encoding="utf-8") == before


async def unasked(question: str) -> str:
    raise AssertionError(f"the expert was asked {question!r}")
