"""Profiles: the format on disk, what never enters it, what routers get from it, those that come with CoE."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from coe.core.errors import ConfigError
from coe.onboarding.profiler import Probes, profile_recorded
from coe.outcomes.outcome_set import OutcomeSet, Question, read_outcomes
from coe.outcomes.splits import is_held_out
from coe.outcomes.text_key import text_key
from coe.profiles.evidence import cautions, described, evidence_of
from coe.profiles.names import name_among
from coe.profiles.outcomes import Source, full_profile, training_rows
from coe.profiles.profile import Tally
from coe.profiles.store import ProfileFolder, open_store
from coe.profiles.table import QuestionTable, read_table, write_table
from coe.registry.schema import Registry
from coe.routers.learning.features import text_features
from coe.service.check import explain
from tests.support.profiles import data, outcome_set, registry_of

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
    assert Tally.of(0.0, 0) == Tally(mean=0, count=0, low=0, high=1)


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


def test_profile_from_few_answers_is_warned_of(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "newcomer")
    profile_recorded(registry, tmp_path, registry.experts[1], data(), Probes(30))
    assert cautions(registry, tmp_path) == [
        "the profile newcomer rests on 30 answers, fewer than 200: routing by it may do harm"
    ]
    (found,) = (f for f in explain(registry, tmp_path).issues if "rests on 30" in f.message)
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
        assert not set(each.ids) & {q.id for q in tested}
        assert not each.keys & {text_key(q.stem) for q in tested if q.stem}
