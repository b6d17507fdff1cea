"""Profiles: the format on disk, what routers get from it, newcomers from few answers, the regression gate."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from aiohttp import web

from coe.errors import BadRequest, ConfigError, EngineError
from coe.profiles import joining
from coe.profiles.evidence import cautions, described, evidence_of
from coe.profiles.gate import compare
from coe.profiles.joining import ProbeProfiler, Probes, ProfileGate, profile_asked, profile_recorded
from coe.profiles.names import name_among
from coe.profiles.newcomer import NewcomerModel
from coe.profiles.outcomes import Recorded, Source, full_profile, recorded, training_rows
from coe.profiles.probing import next_rows, probe
from coe.profiles.profile import Tally
from coe.profiles.store import ProfileFolder, open_store
from coe.profiles.table import QuestionTable, is_held_out, leaks, read_table, write_table
from coe.registry.check import explain
from coe.registry.models import Registry
from eval.contamination import text_key
from eval.recorded.outcomes import OutcomeSet, Question, read_outcomes
from routers.evidence import Evidence
from routers.features import text_features
from routers.knn import KnnEstimator

CATEGORIES = ("law", "maths", "biology")
ABILITY = {
    "lawyer": (0.8, 0.3, 0.5),
    "counter": (0.3, 0.8, 0.4),
    "all-round": (0.5, 0.5, 0.6),
    "weak": (0.2, 0.2, 0.2),
    "newcomer": (0.4, 0.7, 0.9),
}


def outcome_set(count: int = 240, seed: int = 0, split: str = "dev") -> OutcomeSet:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CATEGORIES)
    ease = rng.normal(0, 0.15, count)
    chance = np.clip(np.asarray(list(ABILITY.values()))[:, labels].T + ease[:, None], 0.02, 0.98)
    unknown = np.full(len(ABILITY), np.nan)
    return OutcomeSet(
        name="made",
        questions=tuple(
            Question(f"q{i}", f"question {i}", category=CATEGORIES[label], split=split)
            for i, label in enumerate(labels)
        ),
        experts=tuple(ABILITY),
        scores=(rng.random(chance.shape) < chance).astype(np.float64),
        answers=None,
        costs=np.full(chance.shape, np.nan),
        active_b=unknown,
        parameters_b=unknown,
    )


def vectors_of(outcomes: OutcomeSet, seed: int = 0) -> np.ndarray:
    """Near the axis of the question's category."""
    labels = [CATEGORIES.index(question.category) for question in outcomes.questions]
    rows = np.eye(8)[labels] + np.random.default_rng(seed).normal(0, 0.15, (len(labels), 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def data(count: int = 240) -> Recorded:
    outcomes = outcome_set(count)
    return recorded(outcomes, vectors_of(outcomes), "minilm", Source("made"))


def registry_of(*experts: str, **fields: object) -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "api", "kind": "remote", "url": "http://localhost:1/v1"}]},
            "experts": [{"id": expert, "host": "api", "model": f"models/{expert}"} for expert in experts],
            "profiles": ["profiles"],
        }
        | fields
    )


# The format


def table(**fields: object) -> QuestionTable:
    vectors = np.eye(3, 4, dtype=np.float32)
    given = {
        "name": "three",
        "ids": ("a", "b", "c"),
        "categories": ("x", "x", "y"),
        "splits": ("dev",) * 3,
        "vectors": {"minilm": vectors},
        "questions": (1, 2, 3),
        "keys": frozenset({text_key("one"), text_key("two")}),
        "licence": "MIT",
    } | fields
    return QuestionTable(**given)  # type: ignore[arg-type]


def test_table_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    write_table(table(), tmp_path)
    read = read_table(tmp_path)
    assert np.allclose(read.vectors["minilm"], np.eye(3, 4), atol=0.01)
    assert (read.ids, read.categories, read.questions, read.keys, read.fingerprint, read.licence) == (
        table().ids, table().categories, (1, 2, 3), table().keys, table().fingerprint, "MIT",
    )  # fmt: skip


def test_profile_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    profile = full_profile(data(), "lawyer", Source("made", "MIT"))
    folder = ProfileFolder(tmp_path)
    folder.write(profile)
    assert list(folder.profiles()) == [profile]
    assert profile.categories["law"].low < profile.categories["law"].mean < profile.categories["law"].high


def test_expert_ids_of_any_form_are_file_names(tmp_path: Path) -> None:
    profile = full_profile(data(), "lawyer", Source("made"), name="org/lawyer v1 (early)")
    assert ProfileFolder(tmp_path).write(profile).parent == tmp_path / "experts"
    assert [p.expert for p in ProfileFolder(tmp_path).profiles()] == ["org/lawyer v1 (early)"]


def test_damaged_profile_is_refused_with_its_name(tmp_path: Path) -> None:
    path = ProfileFolder(tmp_path).write(full_profile(data(), "lawyer", Source("made")))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"overall": 7}))
    with pytest.raises(ConfigError, match=r"lawyer\.json"):
        list(ProfileFolder(tmp_path).profiles())


def test_rows_that_do_not_belong_to_the_table_are_refused(tmp_path: Path) -> None:
    write_table(table(), tmp_path)
    (tmp_path / "rows.csv").write_text("row,category,split,questions\nz,x,dev,1\nb,x,dev,1\nc,x,dev,1\n")
    with pytest.raises(ConfigError, match=r"rows\.csv"):
        read_table(tmp_path)


def test_tally_without_questions_knows_nothing() -> None:
    assert Tally.of([], []) == Tally(mean=0, count=0, low=0, high=1)


# Never test items


@pytest.mark.parametrize("split", ["heldout", "held-out", "Held Out", "test", "TEST", "evaluation"])
def test_held_out_questions_never_enter_a_table(split: str) -> None:
    assert is_held_out(split)
    with pytest.raises(ConfigError, match="held-out"):
        table(splits=("dev", "dev", split))


def test_held_out_rows_and_their_copies_are_left_out() -> None:
    outcomes = outcome_set(30)
    questions = list(outcomes.questions)
    questions[0] = Question("q0", "Question, 1!", category="law", split="heldout")  # a copy of q1
    part = OutcomeSet(**{**vars(outcomes), "questions": tuple(questions)})
    rows = training_rows(part)
    assert 0 not in rows
    assert 1 not in rows
    assert len(rows) == 28
    with pytest.raises(ConfigError, match="held out"):
        training_rows(part, split="heldout")


def test_set_of_held_out_questions_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to learn from"):
        training_rows(outcome_set(30, split="test"))


def test_leaks_are_found_by_id_and_by_text() -> None:
    asked = {text_key("ONE."), text_key("four")}
    assert leaks(table(), ids=["b", "z"], keys=asked) == {"b", text_key("one")}
    assert leaks(table(), ids=["z"], keys=[text_key("four")]) == frozenset()


# What routers get


def test_profiles_become_evidence_of_the_registrys_experts(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "counter", "stranger")
    profile_recorded(registry, tmp_path, registry.experts[0], data(), Probes())
    evidence = evidence_of(open_store(registry, tmp_path), registry.experts)
    assert evidence is not None
    assert evidence.experts == ("lawyer", "counter")
    assert np.array_equal(evidence.scores, outcome_set().scores[:, :2])
    lines = described(registry, tmp_path)
    assert "lawyer has the profile lawyer" in lines[0]
    assert "stranger" in lines[-1]


def test_vectors_of_another_encoder_are_no_evidence(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "counter")
    profile_recorded(registry, tmp_path, registry.experts[0], data(), Probes())
    assert evidence_of(open_store(registry, tmp_path), registry.experts, encoder="other") is None


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-8B-Instruct", "hf:meta-llama/llama-3.1-8b-instruct"])
def test_hub_id_leads_to_the_recorded_name(model: str) -> None:
    expert = registry_of("a").experts[0].model_copy(update={"model": model})
    assert name_among(expert, ["gemma-7b", "Meta-Llama-3.1-8B-Instruct"]) == "Meta-Llama-3.1-8B-Instruct"
    assert name_among(expert, ["gemma-7b"]) is None


def test_named_profile_goes_before_id_and_model(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "counter")
    ProfileFolder(tmp_path / "profiles").write_table(data().table)
    for name in ("counter", "lawyer"):
        ProfileFolder(tmp_path / "profiles").write(full_profile(data(), name, Source("made")))
    expert = registry.experts[0].model_copy(update={"profile": "counter"})
    assert [p.expert for p in open_store(registry, tmp_path).of(expert)] == ["counter"]


# Newcomers


def known_and_newcomer(count: int = 600) -> tuple[Evidence, np.ndarray]:
    made = data(count)
    known = made.evidence(["lawyer", "counter", "all-round", "weak"])
    return known, made.outcomes.scores[:, made.outcomes.experts.index("newcomer")]


@pytest.mark.parametrize("design", ["adaptive", "random"])
def test_few_answers_tell_a_newcomers_categories(design: str) -> None:
    known, truth = known_and_newcomer()
    found = probe(NewcomerModel(known), lambda rows: truth[rows], 150, design=design)  # type: ignore[arg-type]
    assert len(found.rows) == len(set(found.rows)) == 150
    labels = np.asarray(known.categories)
    for each in found.model.by_category(found.posterior, found.rows):
        assert abs(each.mean - truth[labels == each.category].mean()) < 0.15
        assert 0 < each.deviation < 0.15


def test_answers_narrow_the_estimate() -> None:
    known, truth = known_and_newcomer()
    model = NewcomerModel(known)
    few, many = (probe(model, lambda rows: truth[rows], count) for count in (20, 200))

    def widths(found: object) -> float:
        return sum(e.deviation for e in model.by_category(found.posterior, found.rows))  # type: ignore[attr-defined]

    assert widths(many) < widths(few)


def test_chosen_questions_are_expected_to_tell_more_than_random_ones() -> None:
    model = NewcomerModel(known_and_newcomer()[0])
    prior = model.prior()
    p = model.probabilities(prior)
    gradient = model.membership.mean(axis=0) @ model.gradients(prior)

    def left_unknown(design: str) -> float:
        rows = next_rows(model, prior, np.arange(600), 30, design, np.random.default_rng(0))  # type: ignore[arg-type]
        told = (model.features[rows].T * (p * (1 - p))[rows]) @ model.features[rows]
        return float(gradient @ np.linalg.solve(np.linalg.inv(prior.covariance) + told, gradient))

    assert left_unknown("adaptive") < 0.9 * left_unknown("random")


def test_newcomer_that_answers_as_a_known_expert_is_expected_to_surprise_where_that_one_does() -> None:
    known, _ = known_and_newcomer()
    twin = known.scores[:, known.experts.index("counter")].astype(np.float64)
    found = probe(NewcomerModel(known), lambda rows: twin[rows], 150)
    unasked = np.setdiff1d(np.arange(len(known)), found.rows)
    right, wrong = unasked[twin[unasked] == 1], unasked[twin[unasked] == 0]
    assert found.probabilities[right].mean() > found.probabilities[wrong].mean() + 0.3


def test_more_known_experts_than_directions_are_kept_few() -> None:
    rng = np.random.default_rng(0)
    known, _ = known_and_newcomer(120)
    scores = (rng.random((120, 50)) < 0.5).astype(np.float32)
    many = replace(
        known, experts=tuple(map(str, range(50))), scores=scores, counts=np.ones_like(scores), cost_usd=()
    )
    model = NewcomerModel(many)
    assert model.features.shape[1] < 2 + 3 + 10 + 50
    assert np.isfinite(probe(model, lambda rows: scores[rows, 0].astype(float), 20).probabilities).all()


def test_unanswered_probes_are_not_counted() -> None:
    known, truth = known_and_newcomer()
    truth = truth.copy()
    truth[::2] = np.nan
    found = probe(NewcomerModel(known), lambda rows: truth[rows], 40)
    assert len(found.rows) == 40
    assert np.isfinite(found.scores).all()


def test_newcomer_is_estimated_where_only_one_expert_is_known() -> None:
    known, truth = known_and_newcomer()
    found = probe(NewcomerModel(known.only(["weak"])), lambda rows: truth[rows], 80)
    assert abs(found.probabilities.mean() - truth.mean()) < 0.12


def test_probed_profile_has_observed_answers_and_estimates(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "newcomer")
    made = data()
    profile = profile_recorded(registry, tmp_path, registry.experts[1], made, Probes(40))
    assert profile.overall.count == 40
    evidence = evidence_of(open_store(registry, tmp_path), registry.experts)
    assert evidence is not None
    counts = evidence.counts[:, 1]
    assert (counts == 1).sum() == 40
    assert np.isfinite(evidence.scores[:, 1]).all()
    assert (counts > 0).all()


# The gate


def evidence_with(newcomer: np.ndarray, count: int = 600) -> Evidence:
    made = data(count)
    known = made.evidence(["lawyer", "counter", "all-round"])
    scores = np.column_stack([known.scores, newcomer]).astype(np.float32)
    return Evidence(
        **{
            **vars(known),
            "experts": (*known.experts, "newcomer"),
            "scores": scores,
            "counts": np.ones_like(scores),
        }
    )


def test_gate_admits_an_expert_that_helps() -> None:
    _, truth = known_and_newcomer()
    found = compare(evidence_with(truth), "newcomer", KnnEstimator)
    assert found.faults == ()
    assert found.categories["biology"].mean > 0.05


def test_gate_refuses_an_expert_whose_estimate_promises_what_answers_do_not_hold() -> None:
    promised = np.full(600, 0.95)
    asked = np.arange(0, 600, 2)
    promised[asked] = 0.0  # every second question it was asked, and failed
    evidence = evidence_with(promised)
    evidence.counts[:, -1] = 0.05
    evidence.counts[asked, -1] = 1
    boastful = compare(evidence, "newcomer", lambda: _Boast("newcomer"))
    assert boastful.faults
    assert "overall" in boastful.faults[0]


class _Boast:
    """An estimator that sends everything to one expert when it is there."""

    def __init__(self, favourite: str) -> None:
        self.favourite = favourite

    def fit(self, evidence: Evidence) -> _Boast:
        self.experts_ = evidence.experts
        return self

    def estimate(self, texts: object, vectors: np.ndarray) -> np.ndarray:
        row = [1.0 if expert == self.favourite else 0.5 for expert in self.experts_]
        return np.tile(np.asarray(row, dtype=np.float32), (len(vectors), 1))


def test_gate_of_a_registry_reports_and_admits(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "counter", "newcomer")
    profile_recorded(registry, tmp_path, registry.experts[2], data(), Probes(60))
    report = ProfileGate(tmp_path).check(registry, "newcomer")
    assert report.admit, report.reasons
    assert "allowed" in report.reasons[-1]


def test_expert_without_profile_is_admitted_unchecked(tmp_path: Path) -> None:
    report = ProfileGate(tmp_path).check(registry_of("lawyer", "counter"), "counter")
    assert report.admit
    assert "unchecked" in report.reasons[0]


def test_example_registry_names_the_profiles() -> None:
    example = yaml.safe_load((Path(__file__).parents[1] / "docs" / "experts.example.yaml").read_text())
    assert example["profiles"] == list(Registry.model_fields["profiles"].default)


# Asking


async def _expert_that_answers_b(request: web.Request) -> web.Response:
    body = await request.json()
    request.app[ASKED].append(body["messages"][0]["content"])
    return web.json_response(
        {"choices": [{"message": {"content": "So. The answer is (B)."}}], "usage": {"completion_tokens": 7}}
    )


ASKED = web.AppKey("asked", list)


def choice_data(count: int = 60) -> Recorded:
    made = outcome_set(count)
    questions = tuple(
        replace(q, options=("one", "two"), gold="B" if i % 4 else "A") for i, q in enumerate(made.questions)
    )
    made = replace(made, questions=questions)
    return recorded(made, vectors_of(made), "minilm", Source("made"))


def test_asked_expert_gets_a_profile_and_the_run_goes_on_where_it_was(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "stranger")
    with Served(_expert_that_answers_b) as server:
        ask = functools.partial(
            profile_asked, registry, tmp_path, registry.experts[1], choice_data(), server.url
        )
        first = ask(Probes(20))
        again = ask(Probes(20))
        asked = len(server.asked)
        other = registry.experts[1].model_copy(update={"model": "org/other"})
        profile_asked(registry, tmp_path, other, choice_data(), server.url, Probes(20))
    assert (asked, len(server.asked)) == (20, 40)  # what the former model answered does not count for another
    assert first == again
    assert 0.5 < first.overall.mean < 1
    assert first.cost.mean_output_tokens == 7
    assert evidence_of(open_store(registry, tmp_path), registry.experts) is not None


def test_running_expert_is_asked_by_the_service_it_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "read_recorded", lambda folder: choice_data(400))
    asked: list[str] = []

    async def ask(question: str) -> str:
        asked.append(question)
        return "The answer is (B)."

    registry = registry_of("lawyer", "stranger", probes="questions")
    report = asyncio.run(ProbeProfiler(tmp_path).profile(registry, "stranger", ask))
    assert report.questions == len(set(asked)) == 200
    found = open_store(registry, tmp_path).of(registry.experts[1])
    assert [profile.overall.count for profile in found] == [200]
    assert 0.6 < found[0].overall.mean < 0.9
    assert found[0].estimate is not None


def test_registry_without_probe_questions_says_how_to_name_some(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="names no questions") as refused:
        ProbeProfiler(tmp_path).require(registry_of("lawyer"))
    assert "probes: DIR" in str(refused.value.hint)


def test_profile_from_few_answers_is_warned_of(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "newcomer")
    profile_recorded(registry, tmp_path, registry.experts[1], data(), Probes(30))
    assert cautions(registry, tmp_path) == [
        "the profile newcomer rests on 30 answers, fewer than 200: routing by it may do harm"
    ]
    (found,) = (f for f in explain(registry, tmp_path).findings if "rests on 30" in f.message)
    assert found.severity == "warning"


def test_wording_of_the_questions_reaches_the_evidence(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "newcomer")
    made = data()
    profile_recorded(registry, tmp_path, registry.experts[1], made, Probes())
    evidence = evidence_of(open_store(registry, tmp_path), registry.experts)
    assert evidence is not None
    assert evidence.features is not None
    expected = text_features([question.text or "" for question in made.outcomes.questions])
    assert np.allclose(evidence.features.toarray(), expected.toarray(), atol=0.01)


def test_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    registry = registry_of("stranger", "lawyer")
    with pytest.raises(EngineError, match="did not answer a probe question"):
        profile_asked(
            registry, tmp_path, registry.experts[0], choice_data(), "http://127.0.0.1:9", Probes(20)
        )


class Served:
    """An HTTP server in a thread of its own."""

    def __init__(self, handler: Callable[[web.Request], Awaitable[web.Response]]) -> None:
        self.asked: list[str] = []
        self._app = web.Application()
        self._app[ASKED] = self.asked
        self._app.router.add_post("/v1/chat/completions", handler)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def _start(self) -> int:
        self._runner = web.AppRunner(self._app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return int(self._runner.addresses[0][1])

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


# The profiles that come with CoE

GPU = {
    "llama": "meta-llama/Llama-3.1-8B-Instruct",
    "phi": "microsoft/Phi-3-mini-4k-instruct",
    "mathstral": "mistralai/Mathstral-7B-v0.1",
}


def gpu_registry() -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "gpu", "swap": "sleep", "memory_gb": 80}]},
            "experts": [{"id": e, "host": "gpu", "model": m} for e, m in GPU.items()],
        }
    )


@pytest.mark.parametrize("encoder", ["minilm", "minilm-int8", "static"])
def test_hub_models_have_evidence_at_once(encoder: str) -> None:
    registry = gpu_registry()
    evidence = evidence_of(open_store(registry, Path()), registry.experts, encoder)
    assert evidence is not None
    assert evidence.experts == tuple(GPU)
    labels = np.asarray(evidence.categories)
    weighted = evidence.scores * evidence.counts
    maths, law = (weighted[labels == c].sum(0) / evidence.counts[labels == c].sum(0) for c in ("math", "law"))
    assert GPU_IDS[int(maths.argmax())] == "mathstral"
    assert GPU_IDS[int(law.argmax())] != "mathstral"


GPU_IDS = tuple(GPU)


def test_shipped_profiles_say_where_they_come_from_and_hold_no_held_out_row() -> None:
    store = open_store(gpu_registry(), Path())
    assert len(store.profiles) >= 20
    for profile in store.profiles:
        assert profile.provenance.licence == "Apache-2.0"
        assert profile.models
    for each in store.tables.values():
        assert not any(is_held_out(split) for split in each.splits)
        assert each.keys


@pytest.mark.skipif("COE_DATA" not in os.environ, reason="needs the recorded outcomes in COE_DATA")
def test_shipped_profiles_were_made_from_development_questions_only() -> None:
    questions = read_outcomes(Path(os.environ["COE_DATA"]) / "outcomes" / "mmlu_pro").questions
    allowed = {text_key(q.stem) for q in questions if q.stem and not is_held_out(q.split)}
    tested = [q for q in questions if is_held_out(q.split)]
    for each in open_store(gpu_registry(), Path()).tables.values():
        assert each.keys <= allowed
        assert not leaks(each, [q.id for q in tested], [text_key(q.stem) for q in tested if q.stem])
