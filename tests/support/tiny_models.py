"""Tiny random Llama checkpoints with a tokenizer of their own: real files for real engines, made in a
second without torch. What they say is noise, but always the same noise, and each says another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
RANK = 8


@dataclass(frozen=True)
class Sizes:
    """The architecture. ``spread`` is the weights' standard deviation: large enough that two seeds
    answer differently."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    inner: int = 256
    spread: float = 0.15

    @property
    def head(self) -> int:
        return self.hidden // self.heads


@dataclass(frozen=True)
class TinyFamily:
    """``a`` and ``b`` can be swapped in one slot, ``tied`` cannot, nor can ``wide`` (another shape);
    ``lora`` is a PEFT adapter for ``a``. All below ``root``."""

    root: Path

    @property
    def a(self) -> Path:
        return self.root / "a"

    @property
    def b(self) -> Path:
        return self.root / "b"

    @property
    def tied(self) -> Path:
        return self.root / "tied"

    @property
    def wide(self) -> Path:
        return self.root / "wide"

    @property
    def lora(self) -> Path:
        return self.root / "lora"


def build_tiny_family(root: Path) -> TinyFamily:
    """Write the family to ``root`` (a few megabytes)."""
    family = TinyFamily(root)
    write_checkpoint(family.a, seed=1)
    write_checkpoint(family.b, seed=2)
    write_checkpoint(family.tied, seed=3, tied=True)
    write_checkpoint(family.wide, seed=4, sizes=Sizes(inner=384))
    write_adapter(family.lora, base=family.a, seed=5)
    return family


def write_checkpoint(folder: Path, seed: int, sizes: Sizes | None = None, tied: bool = False) -> None:
    """A complete float32 checkpoint that transformers and vLLM load."""
    from safetensors.numpy import save_file

    sizes = sizes or Sizes()
    folder.mkdir(parents=True)
    vocabulary = _write_tokenizer(folder)
    _write_json(folder / "config.json", _config(sizes, vocabulary, tied))
    _write_json(folder / "generation_config.json", {"eos_token_id": 2, "do_sample": False})
    save_file(_weights(sizes, vocabulary, seed, tied), folder / "model.safetensors", {"format": "pt"})


def write_adapter(folder: Path, base: Path, seed: int, sizes: Sizes | None = None) -> None:
    """A PEFT LoRA adapter on the attention projections of ``base``, strong enough to change answers."""
    import numpy as np
    from safetensors.numpy import save_file

    sizes, random = sizes or Sizes(), np.random.default_rng(seed)
    folder.mkdir(parents=True)
    _write_json(folder / "adapter_config.json", _adapter_config(base))
    tensors = {}
    for layer in range(sizes.layers):
        for name, out in (("q_proj", sizes.hidden), ("v_proj", sizes.kv_heads * sizes.head)):
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{at}.lora_A.weight"] = _normal(random, (RANK, sizes.hidden), 0.3)
            tensors[f"{at}.lora_B.weight"] = _normal(random, (out, RANK), 0.3)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def _weights(sizes: Sizes, vocabulary: int, seed: int, tied: bool) -> dict[str, np.ndarray[Any, Any]]:
    import numpy as np

    random = np.random.default_rng(seed)
    hidden, inner, kv = sizes.hidden, sizes.inner, sizes.kv_heads * sizes.head
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    for layer in range(sizes.layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (hidden, hidden) for name in "qo"}
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (kv, hidden) for name in "kv"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (hidden, inner)
    return {
        name: np.ones(shape, np.float32) if "norm" in name else _normal(random, shape, sizes.spread)
        for name, shape in shapes.items()
    }


def _normal(random: Any, shape: tuple[int, ...], spread: float) -> np.ndarray[Any, Any]:
    import numpy as np

    values: np.ndarray[Any, Any] = random.normal(0.0, spread, shape).astype(np.float32)
    return values


def _config(sizes: Sizes, vocabulary: int, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": vocabulary,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }


def _adapter_config(base: Path) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _write_tokenizer(folder: Path) -> int:
    """A byte-level BPE without merges: every text has tokens. Returns the size of the vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "model_max_length": 512,
    }
    _write_json(folder / "tokenizer_config.json", {**settings, "pad_token": "<|im_end|>"})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return len(vocabulary)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1))
