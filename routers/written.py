"""Short texts that an LLM of the pool writes about a question, kept so that a question costs one call.

A router never needs them: when the LLM fails or is slow to be had, it decides without.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

from coe.types import ExpertId

log = logging.getLogger(__name__)

Ask = Callable[[ExpertId, str], str]
"""(expert, prompt) -> its answer. Blocking; raises any exception when there is no answer."""

_READ_CHARS = 2000


class Written:
    """``writer``'s answers to ``prompt`` (with ``{question}`` in it), the last ``size`` of them kept.

    Thread-safe. Two threads that ask the same at the same time may both call the LLM.
    """

    def __init__(self, ask: Ask, writer: ExpertId, prompt: str, size: int = 10_000) -> None:
        self._ask, self._writer, self._prompt, self._size = ask, writer, prompt, size
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._order = threading.Lock()
        self.calls = 0
        """LLM calls so far."""

    def about(self, question: str) -> str | None:
        """What the LLM writes; None when it failed (which is not kept) or said nothing."""
        with self._order:
            if question in self._kept:
                self._kept.move_to_end(question)
                return self._kept[question]
            self.calls += 1
        try:
            text = self._ask(self._writer, self._prompt.format(question=question[:_READ_CHARS])).strip()
        except Exception as error:
            log.warning("%s wrote nothing about a question: %s", self._writer, error)
            return None
        with self._order:
            self._kept[question] = text
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return text or None
