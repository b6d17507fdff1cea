"""Fine-tune one specialist of the CPU pool: LoRA by PEFT on questions that the skill's module makes.

Two phases in one run. First plain LoRA; then each step's forward uses the *ternary* weights
(:mod:`coe.demo.ternary`) while the gradient updates the dense ones (straight-through), so the
compressed adapter that ships is the one that was trained.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coe.demo.skill import Question, Skill
from coe.demo.ternary import DENSITY, dense, rank_dimension, ternary

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a specialist is trained. ``ternary_from``: share of the steps after which weights are ternary."""

    steps: int = 180
    batch: int = 32
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 1.5e-3
    warmup: int = 10
    ternary_from: float = 0.6
    density: float = DENSITY
    seed: int = 0
    save_every: int = 40

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, then cosine to a twentieth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


STEPS = {"json": 60, "sql": 60, "regex": 110, "letters": 150, "sorting": 170, "calendar": 360, "logic": 340}
"""Skills that need another number of steps than the recipe's."""


def recipe_for(skill: str, steps: int | None = None) -> Recipe:
    """The recipe that the shipped adapter of ``skill`` was trained with, or the same with other steps."""
    return Recipe(steps=steps or STEPS.get(skill, Recipe.steps))


@dataclass(frozen=True)
class Batch:
    """Token ids, attention mask and labels (-100 = not trained on), each (questions, tokens)."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor


def train_specialist(skill: Skill, base: Path, folder: Path, recipe: Recipe) -> Path:
    """Train ``skill``'s adapter into ``folder`` (PEFT format, dense float32); resumes from its last save.

    A finished folder is left alone. Takes about 2 s a step on 2 cores with AVX512-BF16.
    """
    import torch

    state_file = folder / "training_state.pt"
    if (folder / "adapter_model.safetensors").exists() and not state_file.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    trainer = _Trainer(skill, base, recipe)
    if state_file.exists():
        trainer.load(torch.load(state_file, weights_only=True))
        LOG.info("%s: resuming at step %d", skill.name, trainer.step)
    for batch in trainer.batches():
        trainer.update(batch)
        if trainer.step % recipe.save_every == 0:
            torch.save(trainer.state(), state_file)
    trainer.save(folder)
    state_file.unlink(missing_ok=True)
    return folder


class _Trainer:
    """Owns the model, the dense float32 copy of the adapter and the optimiser of one run."""

    def __init__(self, skill: Skill, base: Path, recipe: Recipe) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.skill, self.recipe, self.step = skill, recipe, 0
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        # bfloat16 halves the time of a step; eager attention's backward beats SDPA's on CPU (0.1 v 0.8 s).
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, attn_implementation="eager")
        config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear")
        self.model: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
        self.live = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.dense = {n: p.detach().float().clone().requires_grad_() for n, p in self.live.items()}
        self.optimiser = torch.optim.AdamW(self.dense.values(), lr=recipe.learning_rate, weight_decay=0.0)
        self.started = time.monotonic()

    def batches(self) -> Iterator[Batch]:
        """Fresh questions; skips the steps already done.

        Pairs of batches are split by length, which saves padding; sorting more of them would make
        batches of one kind of question, whose gradients pull the adapter to and fro.
        """
        questions = self.skill.questions("train", self.recipe.seed)
        rng = random.Random(self.recipe.seed)
        made = 0
        while True:
            pool = list(itertools.islice(questions, self.recipe.batch * 2))
            pool.sort(key=lambda q: len(q.text) + len(q.answer))
            groups = [pool[i : i + self.recipe.batch] for i in range(0, len(pool), self.recipe.batch)]
            rng.shuffle(groups)
            for group in groups:
                if made == self.recipe.steps:
                    return
                made += 1
                if made > self.step:
                    yield self.encode(group)

    def encode(self, questions: list[Question]) -> Batch:
        import torch

        rows = [encode_question(self.tokenizer, q) for q in questions]
        width = -(-max(len(p) + len(a) for p, a in rows) // 4) * 4
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), -100)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[i, :end] = torch.tensor(prompt + answer)
            labels[i, len(prompt) : end] = torch.tensor(answer)
            mask[i, :end] = 1
        return Batch(ids, mask, labels)

    def update(self, batch: Batch) -> None:
        """One step: loss on the answer tokens only, so the vocabulary projection runs on few positions."""
        import torch

        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        self._put_weights()
        inner = self.model.get_base_model()
        hidden = inner.model(
            input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
        ).last_hidden_state
        targets = batch.labels[:, 1:]
        logits = inner.lm_head(hidden[:, :-1][targets != -100]).float()
        loss = torch.nn.functional.cross_entropy(logits, targets[targets != -100])
        loss.backward()  # type: ignore[no-untyped-call]
        for name, live in self.live.items():
            self.dense[name].grad = live.grad.float() if live.grad is not None else None
            live.grad = None
        torch.nn.utils.clip_grad_norm_(self.dense.values(), 1.0)
        self.optimiser.step()
        self.step += 1
        if self.step % 20 == 0:
            LOG.info(
                "%s: step %d loss %.3f %.0f s",
                self.skill.name,
                self.step,
                loss.item(),
                time.monotonic() - self.started,
            )

    def _put_weights(self) -> None:
        import torch

        compressed = self.step >= self.recipe.ternary_from * self.recipe.steps
        with torch.no_grad():
            for name, live in self.live.items():
                live.copy_(self.shipped(name) if compressed else self.dense[name])

    def shipped(self, name: str) -> torch.Tensor:
        dim = rank_dimension(name)
        return dense(*ternary(self.dense[name].detach(), dim, self.recipe.density), dim)

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "dense": self.dense, "optimiser": self.optimiser.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        import torch

        self.step = state["step"]
        self.optimiser.load_state_dict(state["optimiser"])
        with torch.no_grad():
            for name, weight in state["dense"].items():
                self.dense[name].copy_(weight)

    def save(self, folder: Path) -> None:
        """PEFT adapter with the dense weights: compression is a separate, repeatable step."""
        import json

        from safetensors.torch import save_file

        self.model.peft_config["default"].save_pretrained(folder)
        tensors = {n.replace(".default.", "."): w.detach().contiguous() for n, w in self.dense.items()}
        (folder / "recipe.json").write_text(json.dumps(asdict(self.recipe), indent=1))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def encode_question(tokenizer: Any, question: Question) -> tuple[list[int], list[int]]:
    """Token ids of the chat prompt, and of the answer with its end-of-turn token."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question.text}], add_generation_prompt=True, tokenize=False
    )
    encode = tokenizer.encode
    return encode(prompt, add_special_tokens=False), encode(
        question.answer + tokenizer.eos_token, add_special_tokens=False
    )
