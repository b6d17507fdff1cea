"""A small BERT encoder in numpy: the same vectors as sentence-transformers, without importing torch.

Importing torch, transformers and sentence-transformers costs the service many seconds of CPU at each start
and hundreds of megabytes; a six-layer model on short texts needs neither. Only texts of equal length share
a batch, so there is no padding and no attention mask.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = npt.NDArray[np.float32]
_BATCH = 32


@dataclass(frozen=True)
class _Linear:
    weight: Array
    """Shape (out, in), as stored: on few rows the product is quicker this way round."""
    bias: Array

    def __call__(self, x: Array) -> Array:
        product: Array = x @ self.weight.T
        product += self.bias
        return product


@dataclass(frozen=True)
class _Norm:
    weight: Array
    bias: Array
    epsilon: float

    def __call__(self, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        normed: Array = centred / np.sqrt(variance + self.epsilon) * self.weight + self.bias
        return normed


@dataclass(frozen=True)
class _Layer:
    """One transformer layer on shape (texts, tokens, width)."""

    query_key_value: _Linear
    attention_out: _Linear
    attention_norm: _Norm
    inner: _Linear
    outer: _Linear
    norm: _Norm
    heads: int

    def __call__(self, x: Array) -> Array:
        x = self.attention_norm(x + self.attention_out(self._attend(x)))
        return self.norm(x + self.outer(_gelu(self.inner(x))))

    def _attend(self, x: Array) -> Array:
        texts, tokens, width = x.shape
        parts = self.query_key_value(x).reshape(texts, tokens, 3, self.heads, -1)
        query, key, value = parts.transpose(2, 0, 3, 1, 4)  # each (texts, heads, tokens, width of a head)
        scores = query @ key.swapaxes(-1, -2) / np.float32(math.sqrt(width // self.heads))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed: Array = (scores @ value).swapaxes(1, 2).reshape(texts, tokens, width)
        return mixed


def _gelu(x: Array) -> Array:
    from scipy.special import erf

    activated: Array = np.float32(0.5) * x * (np.float32(1.0) + erf(x * np.float32(math.sqrt(0.5))))
    return activated


class BertEncoder:
    """Mean-pooled, normalised sentence vectors of a BERT folder in sentence-transformers' layout.

    Thread-safe: nothing changes after construction. About 10 ms a short text on one core.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = bert_tensors(folder)
        self._tokenizer = open_tokenizer(folder)
        epsilon = float(config["layer_norm_eps"])
        self._words: Array = tensors["embeddings.word_embeddings.weight"]
        # Every token is of the first segment, so its vector is added to the positions once.
        self._positions: Array = (
            tensors["embeddings.position_embeddings.weight"]
            + tensors["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = _norm(tensors, "embeddings.LayerNorm", epsilon)
        self._layers = [
            _layer(tensors, f"encoder.layer.{index}", int(config["num_attention_heads"]), epsilon)
            for index in range(int(config["num_hidden_layers"]))
        ]

    @staticmethod
    def reads(folder: Path) -> bool:
        """Whether ``folder`` is what this class computes exactly: a BERT with GELU and mean pooling."""
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            pooling = json.loads((folder / "1_Pooling/config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        files = ("model.safetensors", "tokenizer.json")
        return (
            config.get("model_type") == "bert"
            and config.get("hidden_act") == "gelu"
            and config.get("position_embedding_type", "absolute") == "absolute"
            and bool(pooling.get("pooling_mode_mean_tokens"))
            and not (folder / "2_Dense").exists()
            and all((folder / name).is_file() for name in files)
        )

    def encode(self, texts: Sequence[str]) -> Array:
        """One row of length 1 per text; shape (len(texts), width)."""
        rows = np.zeros((len(texts), self._words.shape[1]), dtype=np.float32)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        for batch in equal_lengths(ids):
            rows[batch] = self._forward(np.asarray([ids[index] for index in batch]))
        return rows

    def _forward(self, ids: npt.NDArray[np.int64]) -> Array:
        x = self._norm(self._words[ids] + self._positions[: ids.shape[1]])
        for layer in self._layers:
            x = layer(x)
        pooled = x.mean(axis=1)
        unit: Array = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit


def equal_lengths(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices in batches whose texts have equally many tokens."""
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    for _, group in itertools.groupby(order, key=lambda index: len(ids[index])):
        same = list(group)
        yield from (same[start : start + _BATCH] for start in range(0, len(same), _BATCH))


def open_tokenizer(folder: Path) -> Tokenizer:
    """The folder's word-piece tokenizer, cut at the model's length, without padding."""
    from tokenizers import Tokenizer

    limits = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(limits["max_seq_length"]))
    return tokenizer


Tensors = Mapping[str, Any]


def bert_tensors(folder: Path) -> Tensors:
    """The model's weights by their name in BERT, float32."""
    from safetensors.numpy import load_file

    return {name.removeprefix("bert."): t for name, t in load_file(folder / "model.safetensors").items()}


def _linear(tensors: Tensors, *names: str) -> _Linear:
    """One linear map, or several of the same input side by side."""
    weight = np.concatenate([tensors[f"{name}.weight"] for name in names])
    bias = np.concatenate([tensors[f"{name}.bias"] for name in names])
    return _Linear(weight, bias)


def _norm(tensors: Tensors, name: str, epsilon: float) -> _Norm:
    return _Norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"], epsilon)


def _layer(tensors: Tensors, name: str, heads: int, epsilon: float) -> _Layer:
    attention = f"{name}.attention"
    return _Layer(
        query_key_value=_linear(tensors, *(f"{attention}.self.{part}" for part in ("query", "key", "value"))),
        attention_out=_linear(tensors, f"{attention}.output.dense"),
        attention_norm=_norm(tensors, f"{attention}.output.LayerNorm", epsilon),
        inner=_linear(tensors, f"{name}.intermediate.dense"),
        outer=_linear(tensors, f"{name}.output.dense"),
        norm=_norm(tensors, f"{name}.output.LayerNorm", epsilon),
        heads=heads,
    )
