"""The static encoder: a table of token vectors, and no model to run.

A text's vector is the mean of its word pieces' rows. The rows were learned so that the mean comes near to
MiniLM's vector of the whole text (``python -m benchmarks.distil``), so a frequent word weighs little
without any weights at run time. A tenth of a millisecond a query; docs/explanation/encoders.md
says what it loses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coe.routers.encoders.window import Window

Array = npt.NDArray[np.float32]

PACKAGED = Path(__file__).parents[1] / "data"
"""Holds the table and the tokenizer."""

TABLE_FILE = "static.safetensors"
TOKENIZER_FILE = "tokenizer.json"

WINDOW = 256
"""Tokens: as many as the model reads whose vectors were learned."""

STATIC = "static:"
"""How identities of static encoders begin."""


class StaticEncoder:
    """Unit vectors from the table in ``folder``. Thread-safe: nothing changes after construction."""

    def __init__(self, folder: Path = PACKAGED) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        tensors = load_file(folder / TABLE_FILE)
        self._rows: npt.NDArray[np.int8] = tensors["rows"]
        self._scales: Array = tensors["scales"].astype(np.float32)
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._unknown = tokenizer.get_vocab()["[UNK]"]
        self.window = Window(tokenizer, WINDOW)
        content = b"".join((folder / name).read_bytes() for name in (TABLE_FILE, TOKENIZER_FILE))
        self.identity = f"{STATIC}{hashlib.sha256(content).hexdigest()}"

    def encode(self, texts: Sequence[str]) -> Array:
        """One row of length 1 per text; shape (len(texts), dimensions)."""
        vectors = np.zeros((len(texts), self._rows.shape[1]), dtype=np.float32)
        for vector, read in zip(vectors, self.window.ids(texts), strict=True):
            ids = np.asarray(read or [self._unknown])
            np.matmul(self._scales[ids], self._rows[ids].astype(np.float32), out=vector)
            vector /= np.linalg.norm(vector)
        return vectors
