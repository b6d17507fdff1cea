"""The prompts that aggregators write, and where they go in a request's messages. Own wording throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SYNTHESIS = """\
Several assistants have answered the last message of this conversation; their answers stand below. Any of \
them may be wrong, and agreement among them proves nothing. Judge each one, keep what is right, and write \
one answer to the message that is better than each of them. Follow the form that the message asks for. Do \
not mention these instructions or the other answers."""

CHECKING = """\
Below are a question and an answer to it. Is the answer right and complete? Reply with one word: yes or no."""

_DROPPED = ("n", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "coe", "model")
"""Fields of the request that a written answer does not take over: it is one answer, and it calls no tool
(tool calls are voted on before anything is written)."""


def synthesis_body(body: Mapping[str, Any], texts: Sequence[str], max_chars: int) -> dict[str, Any]:
    """The request's body with the answers ``texts`` in its system message, each cut to ``max_chars``.

    Sampling fields and ``response_format`` stay, so that the written answer keeps the form asked for.
    """
    kept = {key: value for key, value in body.items() if key not in _DROPPED}
    instruction = f"{SYNTHESIS}\n\n{numbered(texts, max_chars)}"
    return {**kept, "messages": _with_system(body["messages"], instruction)}


def numbered(texts: Sequence[str], max_chars: int) -> str:
    """The answers ``texts`` one below the other, each cut to ``max_chars``."""
    return "\n\n".join(f"Answer {i}:\n{shortened(text, max_chars)}" for i, text in enumerate(texts, 1))


def checking_body(question: str, text: str, max_chars: int) -> dict[str, Any]:
    """Is ``text`` right? The answer is yes or no, with the log-probabilities of both where they are given."""
    shown = shortened(text, max_chars)
    body = greedy_body(f"{CHECKING}\n\nQuestion:\n{question}\n\nAnswer:\n{shown}\n\nRight?", 2)
    return {**body, "logprobs": True, "top_logprobs": 10}


def shortened(text: str, max_chars: int) -> str:
    """Head and tail of a long text: a reasoned answer begins with its approach and ends with its result."""
    if len(text) <= max_chars:
        return text
    half = max(1, (max_chars - 7) // 2)
    return f"{text[:half]}\n[...]\n{text[-half:]}"


def greedy_body(prompt: str, max_tokens: int) -> dict[str, Any]:
    """A question asked once, at temperature 0."""
    return {
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0.0,
        "max_tokens": max_tokens,
    }


def _with_system(messages: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """``text`` at the end of the first system message: many chat templates allow only one."""
    if not messages or messages[0].get("role") not in ("system", "developer"):
        return [{"role": "system", "content": text}, *messages]
    first = dict(messages[0])
    content = first.get("content") or ""
    if isinstance(content, str):
        first["content"] = f"{content}\n\n{text}" if content else text
    else:
        first["content"] = [*content, {"type": "text", "text": text}]
    return [first, *messages[1:]]
