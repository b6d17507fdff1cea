"""Accuracy of one adapter with plain transformers: how much the ternary form costs.

The service's own figures come from `coe eval demo`; this compares two forms of one adapter before it is
served at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coe.demo.packed import Adapter, decompress, merged, read_peft
from coe.demo.skill import Question, Skill

if TYPE_CHECKING:
    from torch import nn

BATCH = 50


def read_adapter(path: Path) -> Adapter:
    """A PEFT folder, or a packed ternary file."""
    return read_peft(path) if path.is_dir() else decompress(path)


def accuracy(base: Path, adapter: Path | None, skill: Skill, questions: Sequence[Question]) -> float:
    """Share of ``questions`` answered right by ``base`` with ``adapter`` merged in (None: as it is).

    Greedy, float32, answers cut at the skill's token bound. Minutes on a CPU.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        _merge(model, read_adapter(adapter))
    right = 0
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        turns = [[{"role": "user", "content": question.text}] for question in batch]
        prompts: Any = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        )
        with torch.inference_mode():
            tokens = model.generate(**prompts, max_new_tokens=skill.max_tokens, do_sample=False)
        made = tokens[:, prompts["input_ids"].shape[1] :]
        answers: list[str] = tokenizer.batch_decode(made, skip_special_tokens=True)
        right += sum(skill.check(question, answer) for question, answer in zip(batch, answers, strict=True))
    return right / len(questions)


def _merge(model: nn.Module, adapter: Adapter) -> None:
    model.load_state_dict(merged(model.state_dict(), adapter))
