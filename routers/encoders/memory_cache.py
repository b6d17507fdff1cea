"""What was worked out for texts, kept without the texts: a request may be private."""

from __future__ import annotations

import hashlib
import threading
from typing import Generic, TypeVar

from cachetools import LRUCache

Value = TypeVar("Value")


class KeptByText(Generic[Value]):
    """The values of the ``size`` texts used last, by digest of the text. Thread-safe."""

    def __init__(self, size: int = 4096) -> None:
        self._values: LRUCache[bytes, Value] = LRUCache(size)
        self._one_at_a_time = threading.Lock()

    def get(self, text: str) -> Value | None:
        with self._one_at_a_time:
            return self._values.get(_digest(text))

    def put(self, text: str, value: Value) -> None:
        with self._one_at_a_time:
            self._values[_digest(text)] = value


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
