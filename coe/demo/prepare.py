"""Make the CPU pool's checkpoints from what the repository ships: base, then one per packed adapter.

``models/base``, ``models/<skill>`` (full merged checkpoints, float32, each with a ``canary.json`` that the
engine checks after every swap) and ``models/adapters/<skill>`` (PEFT folders). Each folder appears only when
it is complete, so an interrupted run is simply repeated.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coe.demo.base import unpack_base
from coe.demo.files import committed_folder
from coe.demo.packed import decompress, merged, write_peft
from coe.demo.skills import skill_named

LOG = logging.getLogger(__name__)
SHIPPED = Path(__file__).parent / "adapters"
CANARY_TOKENS = 5


def prepare_pool(
    folder: Path, shipped: Path = SHIPPED, progress: Callable[[str], None] = lambda _name: None
) -> list[str]:
    """Make every missing checkpoint under ``folder``; returns the specialists' names. No network."""
    base = unpack_base(folder / "base")
    names = []
    for packed in sorted(shipped.glob("*.safetensors")):
        progress(packed.stem)
        make_specialist(packed, base, folder)
        names.append(packed.stem)
    return names


def make_specialist(packed: Path, base: Path, folder: Path) -> None:
    """Write the adapter folder and the merged checkpoint of one packed adapter, where missing."""
    from safetensors.torch import load_file, save_file

    adapter_folder, checkpoint = folder / "adapters" / packed.stem, folder / packed.stem
    if adapter_folder.exists() and checkpoint.exists():
        return
    adapter = decompress(packed)
    with committed_folder(adapter_folder) as partial:
        if partial:
            write_peft(adapter, partial)
    with committed_folder(checkpoint) as partial:
        if partial:
            weights = merged(load_file(base / "model.safetensors"), adapter)
            save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
            _copy_settings(base, partial)
            write_canary(partial, _own_prompt(packed.stem))


def _own_prompt(skill: str) -> str:
    """A question of the skill, as the chat template writes it: there the specialists differ most."""
    question = next(question for question in skill_named(skill).questions("train", seed=0))
    return f"<|im_start|>user\n{question.text}<|im_end|>\n<|im_start|>assistant\n"


def write_canary(checkpoint: Path, prompt: str) -> None:
    """Record what transformers computes after ``prompt``, as :mod:`coe.engines.vllm.canary` reads it.

    Another implementation's figures prove more than the engine's own first observation.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    top = torch.log_softmax(logits, -1).topk(CANARY_TOKENS)
    likeliest = {str(int(i)): round(float(v), 5) for v, i in zip(top.values, top.indices, strict=True)}
    (checkpoint / "canary.json").write_text(json.dumps({"prompt": prompt, "top_logprobs": likeliest}))


def _copy_settings(base: Path, checkpoint: Path) -> None:
    """Tokenizer, template and configuration are the base's: one slot serves all with one tokenizer."""
    for file in base.iterdir():
        if file.is_file() and file.name != "model.safetensors":
            shutil.copy2(file, checkpoint / file.name)
    config = json.loads((checkpoint / "config.json").read_text())
    if config.get("tie_word_embeddings"):
        raise ValueError(f"{base} has tied embeddings, which in-place swaps corrupt: make it again")
