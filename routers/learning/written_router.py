"""Routers that let an expert of the pool write about a question before they decide.

A router does no I/O: it says what it wants written (:class:`coe.core.types.RouterCall`), the pipeline has it
written or finds it among what was written before, and the router decides with the note. Without one (the
writer was slow, failed, or nobody was to be asked) the question's own embedding takes the note's place, and
the reason says so.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from coe.core.reading import ends, read_text
from coe.core.suggest import suggest
from coe.core.types import Decision, ExpertId, ExpertView, RouterCall, RouterText
from coe.routers.learning.learned_router import LearnedOptions, LearnedRouter
from coe.routers.learning.views import Asked

NOT_ASKED = RouterText(None, "not asked")
READ_CHARS = 2000
_SHOWN_CHARS = 80


class WriterOptions(LearnedOptions):
    """Options of routers with a writer.

    writer: an expert of the pool that writes about each new question before it is routed
    writer_deadline_s: seconds for waiting for it and writing; without a text by then the router decides
        without
    writer_tokens: of a text, at most
    """

    writer: ExpertId | None = None
    writer_deadline_s: Annotated[float, Field(gt=0, le=600)] = 2.0
    writer_tokens: Annotated[int, Field(ge=1, le=1000)] = 32

    def faults(self, experts: Sequence[ExpertId]) -> Mapping[str, str]:
        if self.writer is None or self.writer in experts:
            return {}
        found = suggest(self.writer, experts)
        return {"writer": f'there is no expert "{self.writer}", or it is a shadow; {found}'}


class WritingRouter(LearnedRouter):
    """A learned router that may have a writer."""

    prompt: ClassVar[str]
    """with ``{question}`` in it"""
    written: ClassVar[str]
    """what the writer writes, as the reason names it"""
    _options: WriterOptions

    def call(self, text: str) -> RouterCall | None:
        """What to have written about ``text``; None without a writer."""
        options = self._options
        if options.writer is None:
            return None
        prompt = self.prompt.format(question=_question(text))
        return RouterCall(options.writer, prompt, options.writer_tokens, options.writer_deadline_s)

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        return self.route_with(text, experts, NOT_ASKED)

    def route_with(self, text: str, experts: Sequence[ExpertView], note: RouterText) -> Decision:
        """Decide with what the writer wrote."""
        account = self._account(note) if self._options.writer is not None else ""
        return self._decided(self._noted(self._seen(text, experts), note.text), experts, account)

    @abstractmethod
    def _noted(self, seen: Asked, note: str | None) -> Asked:
        """The question as the router sees it beside the note, where there is one."""

    def _account(self, note: RouterText) -> str:
        if note.text is None:
            return f"without {self.written} by {self._options.writer} ({note.missing})"
        shown = " ".join(note.text.split())[:_SHOWN_CHARS]
        return f'{self.written} by {self._options.writer} "{shown}"'


def _question(text: str) -> str:
    """What the writer is shown: of a long text its ends, and the text before where one leans on it."""
    reading = read_text(text)
    before = reading.earlier[-1:] if reading.follow_up else ()
    return "\n".join(ends(part, READ_CHARS) for part in (*before, reading))
