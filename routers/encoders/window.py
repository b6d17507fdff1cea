"""Which part of a text a model reads: all of it, or as many of its own tokens of head and tail as fit.

What is asked stands at either end of a long text, so both are kept. A text within the window is read whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CUT = "2"
"""The number of the way of cutting: vectors of longer texts than a window are other ones than before."""
CERTAINLY_WHOLE = 250
"""Characters: no text up to so long has more tokens than a window of 254."""
_CHARS_A_TOKEN = 8
"""More than any text has on average, but for what is no text: a longer one is not tokenized whole."""


class Window:
    """The first and the last tokens of texts, ``size`` of them. ``tokenizer`` neither pads nor truncates.
    Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self._tokenizer = tokenizer
        self.size = size
        self._tail = size // 2
        self._head = size - self._tail

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens that are read of each text, without special ones."""
        near = [self._near(text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(near, add_special_tokens=False)
        return [self._ends(encoding.ids) for encoding in encodings]

    def cut(self, text: str) -> str:
        """The text that is read, for what reads letters beside the model."""
        if len(text) <= self.size:  # no token is without a letter
            return text
        near = self._near(text)
        offsets = self._tokenizer.encode(near, add_special_tokens=False).offsets
        if len(offsets) <= self.size:
            return near
        return f"{near[: offsets[self._head - 1][1]]}\n{near[offsets[-self._tail][0] :]}"

    def _near(self, text: str) -> str:
        """A text of a megabyte without its middle, of which no token could be read."""
        chars = self.size * _CHARS_A_TOKEN // 2
        return text if len(text) <= 2 * chars else f"{text[:chars]}\n{text[-chars:]}"

    def _ends(self, ids: list[int]) -> list[int]:
        return ids if len(ids) <= self.size else ids[: self._head] + ids[-self._tail :]
