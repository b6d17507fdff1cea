"""The prompts that aggregators write, and where they go in a request's messages. Own wording throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SYNTHESIS = """\
Several assistants have answered the last message of this conversation; their answers stand below. Any of \
them may be wrong, and agreement among them proves nothing. Judge each one, keep what is right, and write \
one answer to the message that is better than each of them. Follow the form that the message asks for. Do \
not mention these instructions or the other answers."""

CHOOSING = """\
Below are a question and several answers to it. Exactly one answer is right. Reply with the number of the \
right answer and nothing else."""

CHECKING = """\
Below are a question and an answer to it. Is the answer right and complete? Reply with one word: yes or no."""

_DROPPED = ("n", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "coe", "model")
"""Fields of the request that a written answer does not take over: it is one answer, and it calls no tool
(tool calls are voted on before anything is written)."""


def synthesis_body(
    body: Mapping[str, Any], texts: Sequence[str], max_chars: int, extra: str = ""
) -> dict[str, Any]:
    """The request's body with the answers ``texts`` in its system message, each cut to ``max_chars``.

    Sampling fields and ``response_format`` stay, so that the written answer keeps the form asked for.
    """
    listed = "\n\n".join(f"Answer {i}:\n{shortened(text, max_chars)}" for i, text in enumerate(texts, 1))
    instruction = "\n\n".join(part for part in (SYNTHESIS, extra, listed) if part)
    return {**_kept(body), "messages": _with_system(body["messages"], instruction)}


def choosing_body(question: str, texts: Sequence[str], max_chars: int) -> dict[str, Any]:
    """Which of ``texts`` is right? The answer is a number from 1."""
    listed = "\n\n".join(f"Answer {i}:\n{shortened(text, max_chars)}" for i, text in enumerate(texts, 1))
    return _greedy(f"{CHOOSING}\n\nQuestion:\n{question}\n\n{listed}\n\nNumber of the right answer:", 4)


def checking_body(question: str, text: str, max_chars: int) -> dict[str, Any]:
    """Is ``text`` right? The answer is yes or no, with the log-probabilities of both where they are given."""
    shown = shortened(text, max_chars)
    body = _greedy(f"{CHECKING}\n\nQuestion:\n{question}\n\nAnswer:\n{shown}\n\nRight?", 2)
    return {**body, "logprobs": True, "top_logprobs": 10}


def shortened(text: str, max_chars: int) -> str:
    """Head and tail of a long text: a reasoned answer begins with its approach and ends with its result."""
    if len(text) <= max_chars:
        return text
    half = max(1, (max_chars - 7) // 2)
    return f"{text[:half]}\n[...]\n{text[-half:]}"


def _greedy(prompt: str, max_tokens: int) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0.0,
        "max_tokens": max_tokens,
    }


def _kept(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in _DROPPED}


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
