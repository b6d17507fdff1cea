"""A small BERT encoder through onnxruntime: the vectors of sentence-transformers, without importing torch.

Importing torch, transformers and sentence-transformers costs the service many seconds of CPU at each start
and hundreds of megabytes; a six-layer model on short texts needs neither. The graph is made from the
installed model's folder of onnxruntime's own layers. In 8 bits each matrix of weights has one scale per
output, its input one scale per text, made at run time; nothing else is quantised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from coe.routers.encoders.window import Window

if TYPE_CHECKING:
    import onnx
    from tokenizers import Tokenizer

Array = npt.NDArray[np.float32]

_WEIGHT_LIMIT = 64
"""Weights of 7 bits: with 8, processors without VNNI instructions overflow, and get other vectors."""
_MS = "com.microsoft"
"""The domain of onnxruntime's own layers."""


class BertEncoder:
    """Mean-pooled, normalised sentence vectors of a BERT folder in sentence-transformers' layout.

    Each text runs alone, which on one core takes no longer than in a batch: its vector does not depend on
    the texts beside it. ``int8``: nearly the same vectors, sooner (docs/explanation/encoders.md).
    Thread-safe.
    """

    def __init__(self, folder: Path, int8: bool = False) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # A query is too short to gain from more threads, which would take their cores from the experts.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = _bert_model(folder, int8).SerializeToString()
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        tokenizer = open_tokenizer(folder)
        self._first, self._last = tokenizer.encode("").ids
        self.window = Window(tokenizer, longest(folder) - 2)
        self._width = int(self._session.get_outputs()[0].shape[1])

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
        rows = np.zeros((len(texts), self._width), dtype=np.float32)
        for row, ids in zip(rows, self.window.ids(texts), strict=True):
            read = np.asarray([[self._first, *ids, self._last]], dtype=np.int32)
            row[:] = self._session.run(None, {"ids": read})[0][0]
        return rows


def open_tokenizer(folder: Path) -> Tokenizer:
    """The folder's own, which reads texts of any length."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def longest(folder: Path) -> int:
    """Tokens that the model reads at once, with the special ones."""
    limits = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    return int(limits["max_seq_length"])


def _bert_model(folder: Path, int8: bool) -> onnx.ModelProto:
    """The encoder as an ONNX graph: ``ids`` (texts, tokens) -> ``vectors``."""
    from onnx import TensorProto, helper
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = load_file(folder / "model.safetensors")
    tensors = {name.removeprefix("bert."): tensor for name, tensor in stored.items()}
    graph = _Graph(tensors, float(config["layer_norm_eps"]), int(config["num_attention_heads"]), int8)
    x = graph.embedded()
    for index in range(int(config["num_hidden_layers"])):
        x = graph.layer(f"encoder.layer.{index}", x)
    pooled = graph.add("ReduceMean", [x], axes=[1], keepdims=0)
    graph.add("LpNormalization", [pooled], ["vectors"], axis=1, p=2)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT32, ["texts", "tokens"])
    width = int(config["hidden_size"])
    vectors = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", width])
    made = helper.make_graph(graph.nodes, "encoder", [ids], [vectors], graph.constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_MS, 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


class _Graph:
    """Collects nodes and constants; each method returns the name of its result."""

    def __init__(self, tensors: Mapping[str, Any], epsilon: float, heads: int, int8: bool) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._tensors, self._epsilon, self._heads, self._int8 = tensors, epsilon, heads, int8

    def embedded(self) -> str:
        words = self._tensors["embeddings.word_embeddings.weight"]
        # Every token is of the first segment, so its vector is added to the positions once.
        positions = (
            self._tensors["embeddings.position_embeddings.weight"]
            + self._tensors["embeddings.token_type_embeddings.weight"][0]
        )
        inputs = ["ids", "", self._constant(words), self._constant(positions), ""]
        inputs += self._norm("embeddings.LayerNorm")
        outputs = ["embedded", "mask"]
        return self.add("EmbedLayerNormalization", inputs, outputs, domain=_MS, epsilon=self._epsilon)

    def layer(self, name: str, x: str) -> str:
        names = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        self.add("Split", [self._product(x, names)], parts, axis=-1)
        attended = self.add(
            "MultiHeadAttention", [*parts, self._bias(names)], domain=_MS, num_heads=self._heads
        )
        x = self._residual(x, attended, f"{name}.attention.output")
        inner = [f"{name}.intermediate.dense"]
        activated = self.add("BiasGelu", [self._product(x, inner), self._bias(inner)], domain=_MS)
        return self._residual(x, activated, f"{name}.output")

    def add(self, kind: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any) -> str:
        from onnx import helper

        outputs = outputs or [f"t{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0]

    def _residual(self, x: str, y: str, name: str) -> str:
        """``x`` plus a projection of ``y``, normalised."""
        dense = [f"{name}.dense"]
        inputs = [x, self._product(y, dense), *self._norm(f"{name}.LayerNorm"), self._bias(dense)]
        return self.add("SkipLayerNormalization", inputs, domain=_MS, epsilon=self._epsilon)

    def _product(self, x: str, names: Sequence[str]) -> str:
        """``x`` times one matrix of weights, or several side by side."""
        weight = np.concatenate([self._tensors[f"{name}.weight"] for name in names])
        if not self._int8:
            return self.add("MatMul", [x, self._constant(weight.T)])
        scale = np.abs(weight).max(axis=1) / np.float32(_WEIGHT_LIMIT)
        rounded = np.rint(weight / scale[:, None]).astype(np.int8)
        inputs = [x, self._constant(rounded.T), self._constant(scale)]
        return self.add("DynamicQuantizeMatMul", inputs, domain=_MS)

    def _bias(self, names: Sequence[str]) -> str:
        return self._constant(np.concatenate([self._tensors[f"{name}.bias"] for name in names]))

    def _norm(self, name: str) -> list[str]:
        return [self._constant(self._tensors[f"{name}.{part}"]) for part in ("weight", "bias")]

    def _constant(self, values: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name
