"""What was worked out for texts, kept without the texts: a request may be private."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class KeptByText(Generic[Value]):
    """The values of the ``size`` texts used last, by digest of the text. Thread-safe."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._values: OrderedDict[bytes, Value] = OrderedDict()
        self._order = threading.Lock()  # keeps _values at most _size long, in order of use

    def get(self, text: str) -> Value | None:
        key = _digest(text)
        with self._order:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, text: str, value: Value) -> None:
        key = _digest(text)
        with self._order:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
