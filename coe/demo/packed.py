"""Ternary adapters on disk: a bit mask of the kept entries, their sign bits, and the scales.

One ``.safetensors`` file an expert: ``mask`` and ``signs`` (packed bits over all tensors in the order of
the metadata), ``scales`` (float16). The metadata holds names and shapes, rank and alpha. At density 0.3
an entry costs 1.3 bits instead of 32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coe.demo.ternary import DENSITY, dense, rank_dimension, ternary


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in PEFT's terms: ``weights`` maps PEFT names to float32 tensors."""

    weights: dict[str, Any]
    rank: int
    alpha: int


def read_peft(folder: Path) -> Adapter:
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    return Adapter(load_file(folder / "adapter_model.safetensors"), config["r"], config["lora_alpha"])


def compress(adapter: Adapter, path: Path, density: float = DENSITY) -> int:
    """Write the ternary form of ``adapter``; returns its size in bytes."""
    import torch
    from safetensors.torch import save_file

    names = sorted(adapter.weights)
    signs_all, scales_all = [], []
    for name in names:
        signs, scales = ternary(adapter.weights[name].float(), rank_dimension(name), density)
        signs_all.append(signs.reshape(-1).numpy())
        scales_all.append(scales)
    flat = np.concatenate(signs_all)
    tensors = {
        "mask": torch.from_numpy(np.packbits(flat != 0)),
        "signs": torch.from_numpy(np.packbits(flat[flat != 0] > 0)),
        "scales": torch.cat(scales_all).half(),
    }
    shapes = [[name, list(adapter.weights[name].shape)] for name in names]
    metadata = {"shapes": json.dumps(shapes), "rank": str(adapter.rank), "alpha": str(adapter.alpha)}
    save_file(tensors, path, metadata=metadata)
    return path.stat().st_size


def decompress(path: Path) -> Adapter:
    """The adapter that a packed file stands for. Raises ``ValueError`` when the file is not one."""
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        if "shapes" not in metadata:
            raise ValueError(f"{path.name} is not a packed ternary adapter")
        mask, signs, scales = (file.get_tensor(key) for key in ("mask", "signs", "scales"))
    shapes = json.loads(metadata["shapes"])
    entries = sum(int(np.prod(shape)) for _, shape in shapes)
    kept = np.unpackbits(mask, count=entries).astype(bool)
    flat = np.zeros(entries, dtype=np.int8)
    flat[kept] = np.unpackbits(signs, count=int(kept.sum())).astype(np.int8) * 2 - 1
    weights, at, scale_at, rank = {}, 0, 0, int(metadata["rank"])
    for name, shape in shapes:
        size = int(np.prod(shape))
        part = torch.from_numpy(flat[at : at + size].reshape(shape).copy())
        scale = torch.from_numpy(scales[scale_at : scale_at + rank].astype(np.float32))
        weights[name] = dense(part, scale, rank_dimension(name))
        at, scale_at = at + size, scale_at + rank
    return Adapter(weights, rank, int(metadata["alpha"]))


def write_peft(adapter: Adapter, folder: Path) -> None:
    """Write ``adapter`` as a PEFT folder that vLLM loads as a LoRA adapter."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    modules = sorted({name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapter.weights})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))
    tensors = {name: weight.contiguous() for name, weight in adapter.weights.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def merged(base: dict[str, Any], adapter: Adapter) -> dict[str, Any]:
    """The base's weights plus ``alpha / rank * B @ A`` for every adapted module (LoRA, Hu et al. 2021)."""
    weights = dict(base)
    for name, down in adapter.weights.items():
        if ".lora_A." not in name:
            continue
        up = adapter.weights[name.replace(".lora_A.", ".lora_B.")]
        target = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        if target not in weights:
            raise ValueError(f"the adapter changes {target}, which the base does not have")
        weights[target] = base[target] + (adapter.alpha / adapter.rank) * (up @ down)
    return weights
