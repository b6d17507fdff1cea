"""A profile belongs to the weights that answered: others under the same name get nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from coe.onboarding.gate import ProfileGate
from coe.onboarding.profiler import Probes, profile_recorded
from coe.profiles.evidence import cautions, evidence_of
from coe.profiles.store import ProfileFolder, open_store
from coe.profiles.weights import weights_of
from coe.registry.schema import Expert, Registry
from tests.support.profiles import data, registry_of


def profiled(root: Path) -> Registry:
    registry = registry_of("lawyer", "counter")
    profile_recorded(registry, root, registry.experts[0], data(), Probes())
    return registry


def with_first(registry: Registry, **fields: object) -> Registry:
    first = registry.experts[0].model_copy(update=fields)
    return registry.model_copy(update={"experts": (first, *registry.experts[1:])})


@pytest.mark.parametrize("fields", [{"model": "models/other"}, {"adapter": "adapters/regex"}])
def test_other_weights_under_the_same_name_do_not_inherit_the_profile(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    now = with_first(profiled(tmp_path), **fields)
    store = open_store(now, tmp_path)
    assert store.of(now.experts[0]) == ()
    evidence = evidence_of(store, now.experts)
    assert evidence is not None
    assert evidence.experts == ("counter",), "the others keep theirs"
    assert "the profile lawyer does not count: it was made of models/lawyer" in cautions(now, tmp_path)[0]
    assert "the profile lawyer does not count" in ProfileGate(tmp_path).check(now, "lawyer").reasons[0]


def test_the_same_weights_keep_their_profile(tmp_path: Path) -> None:
    registry = profiled(tmp_path)
    edited = with_first(registry, card="knows the law", skills=("law",))
    assert len(open_store(edited, tmp_path).of(edited.experts[0])) == 1
    assert not any("does not count" in line for line in cautions(edited, tmp_path))


def test_files_decide_where_they_are_at_hand(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "lawyer"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 400)
    registry = profiled(tmp_path)
    folder.rename(tmp_path / "moved")
    moved = with_first(registry, model="moved")
    assert len(open_store(moved, tmp_path).of(moved.experts[0])) == 1, "in another folder"
    (tmp_path / "moved" / "model.safetensors").write_bytes(bytes(reversed(range(256))) * 400)
    assert open_store(moved, tmp_path).of(moved.experts[0]) == (), "trained on, of the same size"
    assert "an earlier" not in cautions(moved, tmp_path)[0]
    (tmp_path / "moved").rename(folder)
    assert "made of an earlier models/lawyer" in cautions(registry, tmp_path)[0]


def test_a_profile_that_names_no_weights_counts_as_before(tmp_path: Path) -> None:
    registry = profiled(tmp_path)
    folder = ProfileFolder(tmp_path / "profiles")
    for profile in list(folder.profiles()):
        folder.write(profile.model_copy(update={"weights": None}))
    other = with_first(registry, model="models/other")
    assert len(open_store(other, tmp_path).of(other.experts[0])) == 1


def test_an_adapter_is_not_its_base(tmp_path: Path) -> None:
    def expert(**fields: object) -> Expert:
        return (
            registry_of("e")
            .experts[0]
            .model_copy(update={"model": "microsoft/Phi-3-mini-4k-instruct"} | fields)
        )

    registry = registry_of("e", profiles=["package:open-models"])
    store = open_store(registry, tmp_path)
    assert store.of(expert())
    assert not store.of(expert(adapter="adapters/regex"))


def test_samples_see_a_change_anywhere(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "e"
    folder.mkdir(parents=True)
    file, expert = folder / "model.safetensors", registry_of("e").experts[0]
    file.write_bytes(b"a" * 30_000)
    one = weights_of(expert, tmp_path)
    file.write_bytes(b"a" * 15_000 + b"b" * 15_000)
    assert weights_of(expert, tmp_path).files != one.files
    assert weights_of(expert, tmp_path / "elsewhere").files is None
