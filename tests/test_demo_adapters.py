"""The compressed adapters of the demonstration: how they are trained, packed and merged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.training.train import Recipe, train_specialist
from coe.demo import packed, prepare
from coe.demo.files import committed_folder
from coe.demo.skills import all_skills, skill_named
from coe.demo.ternary import dense, ternary
from tests.support.tiny_models import TinyFamily

pytestmark = pytest.mark.slow  # importing torch alone takes seconds

SKILLS = all_skills()


def test_ternary_weights_keep_the_largest_entries_with_one_scale_a_rank_component() -> None:
    weight = torch.tensor([[4.0, -2.0, 0.1, 0.0], [0.1, 0.2, 9.0, -7.0]])
    signs, scales = ternary(weight, dim=0, density=0.5)
    assert signs.tolist() == [[1, -1, 0, 0], [0, 0, 1, -1]]
    assert scales.tolist() == [3.0, 8.0]
    assert dense(signs, scales, dim=0).tolist() == [[3, -3, 0, 0], [0, 0, 8, -8]]
    columns, column_scales = ternary(weight.T, dim=1, density=0.5)
    assert torch.equal(columns, signs.T)
    assert torch.equal(column_scales, scales)


def _adapter(rank: int = 4) -> packed.Adapter:
    generator = torch.Generator().manual_seed(1)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    return packed.Adapter(
        {
            f"{prefix}.lora_A.weight": torch.randn(rank, 16, generator=generator),
            f"{prefix}.lora_B.weight": torch.randn(24, rank, generator=generator),
        },
        rank=rank,
        alpha=8,
    )


def test_a_packed_adapter_comes_back_as_its_ternary_form(tmp_path: Path) -> None:
    adapter = _adapter()
    packed.compress(adapter, tmp_path / "skill.safetensors", density=0.3)
    back = packed.decompress(tmp_path / "skill.safetensors")
    assert (back.rank, back.alpha) == (4, 8)
    for name, weight in adapter.weights.items():
        dim = 0 if "lora_A" in name else 1
        expected = dense(*ternary(weight, dim, 0.3), dim)
        assert torch.allclose(back.weights[name], expected, rtol=1e-3)


def test_a_file_that_is_no_packed_adapter_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a packed ternary adapter"):
        packed.decompress(tmp_path / "other.safetensors")


def test_merging_adds_the_scaled_product_to_the_adapted_weights_only() -> None:
    adapter = _adapter()
    base = {"model.layers.0.self_attn.q_proj.weight": torch.ones(24, 16), "lm_head.weight": torch.ones(2, 2)}
    merged = packed.merged(base, adapter)
    down, up = adapter.weights.values()
    assert torch.allclose(merged["model.layers.0.self_attn.q_proj.weight"], 1 + 2.0 * (up @ down))
    assert torch.equal(merged["lm_head.weight"], base["lm_head.weight"])


def test_every_skill_ships_an_adapter_of_under_a_megabyte() -> None:
    sizes = {path.stem: path.stat().st_size for path in prepare.SHIPPED.glob("*.safetensors")}
    assert set(sizes) == {skill.name for skill in SKILLS}
    assert max(sizes.values()) < 1_000_000


def test_an_interrupted_folder_is_not_taken_for_a_complete_one(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    with pytest.raises(RuntimeError), committed_folder(target) as partial:
        assert partial is not None
        (partial / "half").touch()
        raise RuntimeError("power cut")
    assert not target.exists()
    with committed_folder(target) as partial:
        assert partial is not None
    with committed_folder(target) as partial:
        assert partial is None


RECIPE = Recipe(steps=4, batch=4, rank=4, alpha=8, save_every=1)


def test_training_goes_on_where_it_was_interrupted(
    tiny_family: TinyFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skill = skill_named("arithmetic")
    whole = train_specialist(skill, tiny_family.a, tmp_path / "whole", RECIPE)

    from benchmarks.training import train

    class Interrupted(train._Trainer):
        def update(self, batch: train.Batch) -> None:
            if self.step == 2:
                raise RuntimeError("power cut")
            super().update(batch)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(train, "_Trainer", Interrupted)
        train_specialist(skill, tiny_family.a, tmp_path / "resumed", RECIPE)
    resumed = train_specialist(skill, tiny_family.a, tmp_path / "resumed", RECIPE)
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (whole, resumed))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    assert not (resumed / "training_state.pt").exists()


def test_a_trained_adapter_can_be_packed_merged_and_read_by_peft(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trained = train_specialist(skill_named("units"), tiny_family.a, tmp_path / "trained", RECIPE)
    packed.compress(packed.read_peft(trained), tmp_path / "units.safetensors")
    prepare.make_specialist(tmp_path / "units.safetensors", tiny_family.a, tmp_path / "models")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "models" / "units", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(tiny_family.a, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, tmp_path / "models" / "adapters" / "units")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-4)
