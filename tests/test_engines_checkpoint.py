"""What is found out about a checkpoint before it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from coe.core.errors import EngineError
from coe.engines.vllm.canary import Fingerprint, fingerprint, read_canary
from coe.engines.vllm.checkpoint import Checkpoint, resolve_adapter, resolve_model, same_weights
from tests.support.tiny_models import RANK, TinyFamily


def test_a_relative_model_is_a_folder_beside_experts_yaml(tmp_path: Path) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    assert resolve_model("models/base", tmp_path).folder == tmp_path / "models" / "base"


@pytest.mark.parametrize("model", ["models/base", "./models/base", "/nowhere/base", "base", "../x/y/z"])
def test_a_missing_folder_is_an_error_and_not_a_hub_model(model: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not exist") as missing:
        resolve_model(model, tmp_path)
    assert missing.value.code == "checkpoint_missing"
    assert missing.value.hint


@pytest.mark.parametrize("model", ["Qwen/Qwen3-0.6B", "hf:Qwen/Qwen3-0.6B"])
def test_a_hub_id_is_passed_on(model: str, tmp_path: Path) -> None:
    source = resolve_model(model, tmp_path)
    assert (source.name, source.folder) == ("Qwen/Qwen3-0.6B", None)


def test_a_missing_folder_beside_existing_ones_is_not_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(EngineError, match="does not exist"):
        resolve_model("checkpoints/math", tmp_path)


def test_untied_checkpoints_of_one_architecture_may_be_swapped(tiny_family: TinyFamily) -> None:
    a, b = Checkpoint.read(tiny_family.a), Checkpoint.read(tiny_family.b)
    a.require_swappable()
    b.require_like(a)


def test_tied_embeddings_are_refused(tiny_family: TinyFamily) -> None:
    with pytest.raises(EngineError, match="tie_word_embeddings"):
        Checkpoint.read(tiny_family.tied).require_swappable()


def test_a_missing_lm_head_counts_as_tied_whatever_the_config_says(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    shutil.copytree(tiny_family.tied, tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert Checkpoint.read(tmp_path / "copy").tied


def test_another_architecture_is_refused_by_the_first_tensor_that_differs(tiny_family: TinyFamily) -> None:
    with pytest.raises(EngineError, match=r"model\.layers\.0\.mlp\.down_proj") as refused:
        Checkpoint.read(tiny_family.wide).require_like(Checkpoint.read(tiny_family.a))
    assert refused.value.code == "checkpoint_mismatch"


def test_another_chat_template_is_refused(tiny_family: TinyFamily, tmp_path: Path) -> None:
    shutil.copytree(tiny_family.b, tmp_path / "copy")
    (tmp_path / "copy" / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(EngineError, match="chat template"):
        Checkpoint.read(tmp_path / "copy").require_like(Checkpoint.read(tiny_family.a))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "config.json cannot be read"),
        ("config.json", b"[]", "not an object"),
        ("model.safetensors", b"", "not a safetensors file"),
        ("model.safetensors", b"\xff" * 64, "not a safetensors file"),
        ("model.safetensors", None, r"no \*\.safetensors"),
    ],
)
def test_a_broken_checkpoint_is_named_with_the_reason(
    tiny_family: TinyFamily, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    shutil.copytree(tiny_family.a, tmp_path / "copy")
    target = tmp_path / "copy" / file
    target.unlink() if content is None else target.write_bytes(content)
    with pytest.raises(EngineError, match=message) as broken:
        Checkpoint.read(tmp_path / "copy")
    assert broken.value.code == "checkpoint_broken"


def test_a_weight_file_that_was_cut_short_is_noticed(tiny_family: TinyFamily, tmp_path: Path) -> None:
    shutil.copytree(tiny_family.a, tmp_path / "copy")
    target = tmp_path / "copy" / "model.safetensors"
    target.write_bytes(target.read_bytes()[:-100])
    with pytest.raises(EngineError, match="cut short"):
        Checkpoint.read(tmp_path / "copy")


def test_weights_are_compared_by_content(tiny_family: TinyFamily, tmp_path: Path) -> None:
    shutil.copytree(tiny_family.a, tmp_path / "copy")
    assert same_weights(tiny_family.a, tmp_path / "copy")
    assert not same_weights(tiny_family.a, tiny_family.b)


def test_an_adapter_of_too_high_a_rank_is_refused(tiny_family: TinyFamily, tmp_path: Path) -> None:
    assert resolve_adapter(str(tiny_family.lora), tmp_path, RANK).folder == tiny_family.lora
    with pytest.raises(EngineError, match="allows 7"):
        resolve_adapter(str(tiny_family.lora), tmp_path, RANK - 1)


def test_a_missing_adapter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="adapter folder"):
        resolve_adapter("adapters/none", tmp_path, 16)


def test_fingerprints_differ_by_their_largest_difference_or_their_top_token() -> None:
    one = Fingerprint("x", {"1": -0.5, "2": -1.0})
    assert one.distance(Fingerprint("x", {"1": -0.5, "2": -1.25})) == pytest.approx(0.25)
    assert one.distance(Fingerprint("x", {"7": -0.5, "2": -1.0})) == float("inf")


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{"logprobs": None}]}, None])
def test_an_answer_without_logprobs_fails_the_canary(answer: object) -> None:
    with pytest.raises(EngineError) as failed:
        fingerprint("x", answer)
    assert failed.value.code == "canary_failed"


def test_a_canary_file_is_read_or_refused_by_name(tmp_path: Path) -> None:
    assert read_canary(tmp_path) is None
    file = tmp_path / "canary.json"
    file.write_text(json.dumps({"prompt": "x", "top_logprobs": {"5": -0.5}, "tolerance": 0.2}))
    recorded = read_canary(tmp_path)
    assert recorded is not None
    assert (recorded.fingerprint.top, recorded.tolerance) == ("5", 0.2)
    for broken in ("{", "[]", '{"prompt": "x"}', '{"prompt": "x", "top_logprobs": {}}'):
        file.write_text(broken)
        with pytest.raises(EngineError, match=r"canary\.json"):
            read_canary(tmp_path)


@pytest.mark.parametrize(
    "name", ["outside/evil", "../evil", "/etc/model", "~/model", "a/b/c", "evil", "./a/b", ""]
)
def test_only_the_name_of_a_hubs_model_is_taken_for_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside" / "evil").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError) as refused:
        resolve_model(f"hf:{name}", tmp_path / "root")
    assert refused.value.code == "checkpoint_missing"


def test_a_hubs_model_is_passed_on_by_its_name(tmp_path: Path) -> None:
    assert resolve_model("hf:org/name-1.5_b", tmp_path).name == "org/name-1.5_b"
