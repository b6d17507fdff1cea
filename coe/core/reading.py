"""What a router reads of a request: who asks for what, apart from what stands around it.

A pure object made of the whole request. It *is* the text to route by (the last user message without what an
agent put around it), so a router that knows nothing of conversations reads it as any other text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coe.core.json_codec import printable

TASK_CHARS = 2000
"""Read of a system prompt: its task is said at its start or at its end."""
_TASK_ROLES, _RESULT_ROLES = ("system", "developer"), ("tool", "function")
_TEXT_PARTS = ("text", "input_text", "output_text")
_RESULT_PARTS = ("tool_result", "function_call_output")


@dataclass(frozen=True)
class LeftOut:
    """A part that does not say what is asked; ``what`` names its kind, as ``<system-reminder>``."""

    what: str
    chars: int


class Reading(str):
    """The last user message, and what else a router may take into account. Never changed once made.

    task: what the system and developer messages say is to be done
    earlier: the user's messages before, the oldest first
    left_out: wrappers of agents, results of tools, media
    """

    task: str
    earlier: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    def __new__(
        cls, text: str, task: str = "", earlier: Sequence[str] = (), left_out: Sequence[LeftOut] = ()
    ) -> Reading:
        made = super().__new__(cls, text)
        made.task, made.earlier, made.left_out = task, tuple(earlier), tuple(left_out)
        return made

    @property
    def follow_up(self) -> bool:
        """Whether it leans on the message before it."""
        return bool(self.earlier) and leaning(self) > 0

    def as_json(self) -> dict[str, Any]:
        """As POST /v1/route shows it."""
        return {
            "task": self.task,
            "turns": list(self.earlier),
            "last": str(self),
            "follow_up": self.follow_up,
            "left_out": [vars(part) for part in self.left_out],
        }


def read_chat(messages: Sequence[Mapping[str, Any]]) -> Reading:
    """What is read of chat messages. What is asked is the last user message that has text; where there is
    none, the last message of anybody that has."""
    left_out: list[LeftOut] = []
    task: list[str] = []
    asked: list[str] = []
    others: list[str] = []
    for message in messages:
        role, text = message.get("role"), _said(message.get("content"), left_out)
        if not text:
            continue
        if role in _RESULT_ROLES:
            left_out.append(LeftOut("tool result", len(text)))
        kept = asked if role == "user" else task if role in _TASK_ROLES else others
        kept.append(text)
    if not asked:
        last = others or task or [""]
        asked = [last.pop()]
    said = [unwrapped(text, left_out) for text in asked]
    return Reading(said[-1], _task(unwrapped("\n".join(task), left_out)), said[:-1], left_out)


_DATES = re.compile(
    r"\b(today('s date)?|(the )?current (date|time|day|year))( and time)?( is|:)[^.\n]*\.?", re.I
)


def _task(said: str) -> str:
    """What a system prompt says is to be done. Many tell the date, which is nobody's task."""
    return ends(_DATES.sub("", ends(said, 4 * TASK_CHARS)).strip(), TASK_CHARS)


def read_text(text: str) -> Reading:
    """What is read of a text alone; a reading stays as it is."""
    return text if isinstance(text, Reading) else Reading(unwrapped(printable(text)))


def _said(content: Any, left_out: list[LeftOut]) -> str:
    if isinstance(content, str):
        return printable(content.strip())
    texts = []
    for part in content if isinstance(content, Sequence) else ():
        kind, text = part.get("type"), part.get("text")
        if kind in _TEXT_PARTS and isinstance(text, str):
            texts.append(text)
        else:
            what = "tool result" if kind in _RESULT_PARTS else str(kind)
            left_out.append(LeftOut(what, len(str(part.get("content") or ""))))
    return printable("\n".join(texts).strip())


def ends(text: str, most: int) -> str:
    """The head and the tail of what is longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most // 2]}\n{text[-most // 2 :]}"


# Agents put blocks in tags around what their user says: reminders, the environment, files.

_ASKED = re.compile(r"ask|feedback|prompt|question|task|(user_)?(message|query|request)", re.IGNORECASE)
"""Tags around what the user says."""
_HTML = re.compile(
    r"a|abbr|b|blockquote|body|br|button|code|div|em|font|form|h\d|head|header|html|i|img|input|kbd|li|nav|ol"
    r"|option|p|pre|s|script|section|select|small|span|strong|style|sub|sup|table|tbody|td|th|thead|title|tr|u"
    r"|ul|video",
    re.IGNORECASE,
)
"""Tags that people write and ask about."""
_OPENING = re.compile(r"<([A-Za-z][\w:.-]{0,60})(?:\s[^<>]{0,300})?>")
_CLOSING = re.compile(r"</([A-Za-z][\w:.-]{0,60})\s*>")


@dataclass(frozen=True)
class _Block:
    """A tagged block: where it starts and ends, and what is inside."""

    tag: str
    start: int
    end: int
    inside: str


def unwrapped(text: str, left_out: list[LeftOut] | None = None) -> str:
    """``text`` without the blocks that agents add, which are told of in ``left_out``. Where only blocks are
    left, what the last one holds is what is said."""
    if "</" not in text:
        return text
    said, at, blocks = [], 0, []
    for block in _blocks(text):
        said.append(text[at : block.start])
        if _ASKED.fullmatch(block.tag):
            said.append(f"\n{block.inside}\n")
        else:
            blocks.append(block)
        at = block.end
    whole = "".join([*said, text[at:]]).strip()
    if not whole:
        return unwrapped(blocks.pop().inside.strip(), left_out) or text if blocks else text
    if left_out is not None:
        left_out.extend(LeftOut(f"<{block.tag}>", block.end - block.start) for block in blocks)
    return whole


def _blocks(text: str) -> Iterator[_Block]:
    """The outermost blocks, in order. One pass: nobody can write a text that takes long."""
    closings: dict[str, list[re.Match[str]]] = {}
    for closing in _CLOSING.finditer(text):
        closings.setdefault(closing[1], []).append(closing)
    for ends in closings.values():
        ends.reverse()
    at = 0
    for opening in _OPENING.finditer(text):
        ends = closings.get(opening[1], [])
        while ends and ends[-1].start() < opening.end():
            ends.pop()
        if opening.start() < at or not ends:
            continue
        block = _Block(opening[1], opening.start(), ends[-1].end(), text[opening.end() : ends[-1].start()])
        if _is_agents(text, block):
            at = block.end
            yield block


def _is_agents(text: str, block: _Block) -> bool:
    """Whether a block is an agent's rather than markup that the user speaks of: it is on lines of its own,
    or its name is of several words."""
    if _HTML.fullmatch(block.tag):
        return False
    before = text[max(0, block.start - 9) : block.start].rstrip(" \t")[-1:]
    return before in ("", "\n", ">") or any(mark in block.tag for mark in "-_:") or "\n" in block.inside


# A message may lean on the one before it: "and 15?", "now in SQL", "that is wrong".

_OPENERS = (
    r"(and|but|or|also|plus|then|now|again|same|instead|ok(ay)?|no|nope|yes|wait|sorry|actually|oops|hm+"
    r"|what about|how about|what if|elaborate|continue|go on|more|another|one more|next|try|redo|only|just"
    r"|are you sure|thanks?|thank you|thx|great|good|perfect|cool|nice|i meant|i mean|make (it|that|them)"
    r"|you (are|were)|(why|explain|erkl(ä|ae)r\w*|warum|pourquoi|explique\w*|por qu(é|e))"
    r"(?=\W*(\w+\W*){0,2}$)"
    r"|und|aber|oder|auch|jetzt|nochmal|noch|nein|doch|danke|was ist mit|wie w(ä|ae)re"
    r"|et|mais|aussi|maintenant|encore|non|merci|pero|tambi(é|e)n|ahora|otra vez|gracias|[ey](?= \w)"
    r"|anche|adesso|ancora|grazie|mas|tamb(é|e)m|agora|obrigad[oa])\b"
)
_REFERENCES = (
    r"\b(its?(?! (like to|true))"
    r"|th(at|is|ose|ese)(?=\W*$|\W*[.,?!]| (is|was|with|as|in|to|by|from|for|be|then)\b)"
    r"|them|same|instead|previous|again|as well|otherwise|rather|your (answer|result)|the (answer|result)"
    r"|(the|that|this|last|first|second|third|next|other) ones?"
    r"|davon|stattdessen|dasselbe|(ç|c)a|cela|ceci|celui|eso|esto|ello|quello|isso)\b"
)
_OPENS = re.compile(_OPENERS, re.IGNORECASE)
_REFERS = re.compile(_REFERENCES, re.IGNORECASE)
_IMPERSONAL = re.compile(r"it('s| is| was)\b|(is|was) it\b", re.IGNORECASE)
_QUESTIONS = re.compile(
    r"(who|what|where|when|which|how|why|is|are|was|do|does|did|can|could|should|write|tell|give|translate|wer|wo"
    r"|wann|wie|qui|que|quel(le)?|o(ù|u)|comment|qui(é|e)n|qu(é|e)|cu(á|a)l|c(ó|o)mo|d(ó|o)nde)\b",
    re.IGNORECASE,
)
_WORDS = re.compile(r"\w+")
_SHORT, _LONG = 5, 14
"""Words. Up to so few a message may lean on another without saying so; with more than so many it does not."""
_WORDS_BEFORE = 5
"""What a pronoun means stands before the message unless more words stand before it."""


def leaning(text: str) -> float:
    """How much of a message's sense is in the one before it: 0 stands alone, 1 means nothing by itself."""
    words = len(_WORDS.findall(text[:400]))
    if words > _LONG:
        return 0.0
    opens, refers = _OPENS.match(text) is not None, _refers(text)
    if opens or refers:
        return 1.0 if (opens and refers) or words <= _SHORT else 0.9
    if words > _SHORT:
        return 0.0
    return 0.15 if _QUESTIONS.match(text) else 0.5 if words <= _SHORT - 2 else 0.25


def _refers(text: str) -> bool:
    """Whether something is named that nothing in the message itself can be."""
    found = _REFERS.search(text)
    if found is None or _IMPERSONAL.match(text):
        return False
    before = text[: found.start()]
    return len(_WORDS.findall(before)) <= _WORDS_BEFORE and not re.search(r"[.:;?!]\s", before)


def says_something(text: str) -> bool:
    """Whether a message that leans on another has words of its own: "and 15?" has not, "sort them" has."""
    rest = _REFERS.sub(" ", _OPENS.sub(" ", text[:400], count=1))
    return any(not _EMPTY.fullmatch(word) for word in _WORD.findall(rest))


_WORD = re.compile(r"[^\W\d_]{2,}")
_EMPTY = re.compile(
    r"an|and|another|answer|are|at|be|by|can|could|did|do|does|else|for|from|get|go|how|if|in|is|may|me|mean|meant"
    r"|more|my|no|not|of|on|or|other|out|please|right|should|so|the|then|thing|think|to|true|try|was|way|were|what"
    r"|when|which|who|why|will|with|would|wrong|you|your",
    re.IGNORECASE,
)
"""Words that any follow-up may have."""


# A long text says what is asked at its head or its tail, seldom between; the rest is material.

LONG_CHARS = 400
_SPAN_CHARS = 240
"""About fifty tokens: a task, and little of what stands beside it."""
_END_CHARS = 1200
"""Of either end, in which sentences are looked for."""
_MOST_SENTENCES, _MOST_QUESTIONS = 3, 3
_STOPS = re.compile(r"(?<=[.!?])\s+|\n+")


def spans(text: str) -> tuple[str, ...]:
    """The parts of a long text that may say what is asked: its last and its first sentences, and questions
    in between. None of a text that is not long."""
    if len(text) <= LONG_CHARS:
        return ()
    head = [part for part in _STOPS.split(text[:_END_CHARS].strip()) if part]
    tail = [part for part in _STOPS.split(text[-_END_CHARS:].strip()) if part]
    found = []
    for count in range(1, _MOST_SENTENCES + 1):
        found += [" ".join(tail[-count:])[-_SPAN_CHARS:], " ".join(head[:count])[:_SPAN_CHARS]]
    return tuple(dict.fromkeys([*found, *_questions(text[_END_CHARS:-_END_CHARS])]))


def _questions(text: str) -> Iterator[str]:
    """The first sentences with a question mark."""
    at = -1
    for _ in range(_MOST_QUESTIONS):
        at = text.find("?", at + 1)
        if at < 0:
            return
        yield _STOPS.split(text[max(0, at - _SPAN_CHARS) : at + 1])[-1]
