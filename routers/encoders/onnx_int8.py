"""A BERT encoder in 8-bit integers through onnxruntime: a third of the time of
:mod:`coe.routers.encoders.bert`.

The graph is made from the installed model's folder: weights to int8 with one scale per output (symmetric),
activations to uint8 at run time with one scale per matrix. Nothing else is quantised.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from coe.routers.encoders.bert import Array, BertEncoder, Tensors, bert_tensors, equal_lengths, open_tokenizer

if TYPE_CHECKING:
    import onnx

_WEIGHT_LIMIT = 127
_OPSETS = {"": 17, "com.microsoft": 1}


class QuantisedBertEncoder:
    """As :class:`coe.routers.encoders.bert.BertEncoder`, with nearly the same vectors
    (docs/explanation/encoders.md). Thread-safe."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        model = quantised_model(folder).SerializeToString()
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tokenizer = open_tokenizer(folder)
        self._width = int(self._session.get_outputs()[0].shape[1])

    @staticmethod
    def reads(folder: Path) -> bool:
        """Whether ``folder`` is a BERT with GELU and mean pooling."""
        return BertEncoder.reads(folder)

    def encode(self, texts: Sequence[str]) -> Array:
        """One row of length 1 per text; shape (len(texts), width)."""
        rows = np.zeros((len(texts), self._width), dtype=np.float32)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        for batch in equal_lengths(ids):
            tokens = np.asarray([ids[index] for index in batch], dtype=np.int64)
            feed = {"ids": tokens, "positions": np.arange(tokens.shape[1], dtype=np.int64)}
            rows[batch] = self._session.run(None, feed)[0]
        return rows


def quantised_model(folder: Path) -> onnx.ModelProto:
    """The encoder as an ONNX graph: ``ids`` (texts, tokens), ``positions`` (tokens) -> ``vectors``."""
    from onnx import TensorProto, helper

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = bert_tensors(folder)
    graph = _Graph(float(config["layer_norm_eps"]), int(config["num_attention_heads"]))
    x = graph.embedded(tensors)
    for index in range(int(config["num_hidden_layers"])):
        x = graph.layer(tensors, f"encoder.layer.{index}", x)
    pooled = graph.add("ReduceMean", [x], axes=[1], keepdims=0)
    graph.add("LpNormalization", [pooled], "vectors", axis=1, p=2)
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"]),
        helper.make_tensor_value_info("positions", TensorProto.INT64, ["tokens"]),
    ]
    width = int(config["hidden_size"])
    outputs = [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", width])]
    made = helper.make_graph(graph.nodes, "encoder", inputs, outputs, graph.constants)
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


class _Graph:
    """Collects nodes and constants; each method returns the name of its result."""

    def __init__(self, epsilon: float, heads: int) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._epsilon, self._heads = epsilon, heads

    def embedded(self, tensors: Tensors) -> str:
        # Every token is of the first segment, so its vector is added to the positions once.
        table = (
            tensors["embeddings.position_embeddings.weight"]
            + tensors["embeddings.token_type_embeddings.weight"][0]
        )
        words = self.add("Gather", [self._constant(tensors["embeddings.word_embeddings.weight"]), "ids"])
        places = self.add("Gather", [self._constant(table), "positions"])
        return self._norm(tensors, "embeddings.LayerNorm", self.add("Add", [words, places]))

    def layer(self, tensors: Tensors, name: str, x: str) -> str:
        attended = self._attention(tensors, f"{name}.attention.self", x)
        projected = self._linear(tensors, [f"{name}.attention.output.dense"], attended)
        x = self._norm(tensors, f"{name}.attention.output.LayerNorm", self.add("Add", [x, projected]))
        inner = self._linear(tensors, [f"{name}.intermediate.dense"], x)
        activated = self.add("Gelu", [inner], domain="com.microsoft")
        outer = self._linear(tensors, [f"{name}.output.dense"], activated)
        return self._norm(tensors, f"{name}.output.LayerNorm", self.add("Add", [x, outer]))

    def _attention(self, tensors: Tensors, name: str, x: str) -> str:
        packed = self._linear(tensors, [f"{name}.{part}" for part in ("query", "key", "value")], x)
        parts = [f"{packed}_{part}" for part in ("query", "key", "value")]
        from onnx import helper

        self.nodes.append(helper.make_node("Split", [packed], parts, axis=-1))
        return self.add("MultiHeadAttention", parts, domain="com.microsoft", num_heads=self._heads)

    def _linear(self, tensors: Tensors, names: Sequence[str], x: str) -> str:
        weight = np.concatenate([tensors[f"{name}.weight"] for name in names])
        bias = np.concatenate([tensors[f"{name}.bias"] for name in names])
        scale = np.abs(weight).max(axis=1) / np.float32(_WEIGHT_LIMIT)
        rounded = np.rint(weight / scale[:, None]).astype(np.int8)
        zero = np.zeros(len(scale), dtype=np.int8)
        constants = [self._constant(part) for part in (rounded.T, scale, zero, bias)]
        return self.add("DynamicQuantizeMatMul", [x, *constants], domain="com.microsoft")

    def _norm(self, tensors: Tensors, name: str, x: str) -> str:
        parts = [self._constant(tensors[f"{name}.{part}"]) for part in ("weight", "bias")]
        return self.add("LayerNormalization", [x, *parts], axis=-1, epsilon=self._epsilon)

    def add(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def _constant(self, values: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name
