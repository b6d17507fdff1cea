"""The answer that stands in a model's text, strictly: what is not clearly an answer is None.

Used to compare answers of several experts and to mark benchmarks. A lenient extractor counts noise as
votes (the pronoun "I" as choice I, a "|" of a table as a choice), so every form here needs either a
declaration ("the answer is", ``\\boxed{}``, ``####``, "Answer:") or a text that is nothing but the answer.
Where several answers are declared the last one counts: models correct themselves. Pure functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Literal

Form = Literal["choice", "number", "json", "text"]

LETTERS = "ABCDEFGHIJ"
MAX_WORDS = 12
"""A text of more words than this is an explanation, not a short answer."""

_QUOTES = "\"'` \u201c\u201d\u2018\u2019"
_DECLARED = re.compile(
    r"\b(?:final\s+)?(?:answer|result|solution|option|choice)\s*(?:(?:is|would\s+be|:|=)\s*)+"
    r"|^\s*####\s*|\b(?:therefore|so|thus)\b,?\s+(?:the\s+)?(?:answer|result)\s*(?:is|:)\s*",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = r"(?=[-+\u2212]?\.?\d)[-+\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?<=\d)(?:[eE][-+]?\d{1,3})?"
_VALUE = re.compile(rf"({_NUMBER})(?:\s*/\s*(\d+(?:\.\d+)?))?")
_BARE_NUMBER = re.compile(rf"^[$€£]?\s*({_NUMBER})(?:\s*/\s*(\d+(?:\.\d+)?))?\s*[%°]?\s*\.?$")
_OPTION_LINE = re.compile(r"^\s*\(?([A-Z])[).:]\s*\S", re.MULTILINE)
_LETTER_THEN = (
    r"(?=$|\s*[.,;:)\]\n]|\s+(?:because|since|as|for|which|is\s+(?:correct|right))\b|\s*[-\u2013\u2014])"
)


@dataclass(frozen=True)
class Extracted:
    """An answer in canonical form: two answers are the same when form and value are equal."""

    form: Form
    value: str


def extract(text: str, form: Form | None = None, letters: str = LETTERS) -> Extracted | None:
    """The answer in ``text``, or None when there is none that is clear.

    Without ``form`` the text itself says what it is: JSON, a declared answer, a number, a short text.
    """
    if form is not None:
        value = _BY_FORM[form](text) if form != "choice" else choice(text, letters)
        return None if value is None else Extracted(form, value)
    structured = json_value(text)
    if structured is not None and not isinstance(json.loads(structured), str | int | float | bool | None):
        return Extracted("json", structured)
    said = declared(text)
    for candidate in (text, said or ""):
        if bare := _bare_number(candidate):
            return Extracted("number", bare)
    short = short_text(said if said is not None else text)
    return None if short is None else Extracted("text", short)


def form_of(question: str, response_format: Mapping[str, Any] | None = None) -> Form | None:
    """The form that an answer to ``question`` must have: JSON where asked for, a choice where options are
    listed (lines "A) ...", "B) ..."); None where the question does not say."""
    if response_format is not None and str(response_format.get("type", "")).startswith("json"):
        return "json"
    return "choice" if options_in(question) else None


def options_in(question: str) -> str:
    """The letters of the options listed in ``question``, from A without gaps; empty for fewer than two."""
    listed = set(_OPTION_LINE.findall(question))
    letters = ""
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        if letter not in listed:
            break
        letters += letter
    return letters if len(letters) > 1 else ""


def choice(text: str, letters: str = LETTERS) -> str | None:
    """The option's letter that is declared, or that the text consists of or begins with as "B) ..."."""
    text = _unadorned(text)
    boxes = [found for box in _boxes(text) if (found := _only_letter(box, letters))]
    if boxes:
        return boxes[-1]
    for place in reversed(list(_DECLARED.finditer(text))):
        if found := _leading_letter(text[place.end() :], letters):
            return found
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    for line in lines[:1] + lines[-1:]:
        if found := _only_letter(line, letters):
            return found
    option = re.match(rf"\(?([{letters}])[).:]\s+\S", lines[0]) if lines else None
    return option.group(1) if option else None


def number(text: str) -> str | None:
    """The number that is declared, that the text consists of, or the right side of its last equation.

    Canonical: an exact fraction, so that 0.5, 1/2 and .50 are the same.
    """
    text = _unadorned(text)
    for said in (*reversed(_boxes(text)), *reversed(_declarations(text))):
        if found := _VALUE.search(said):
            return _canonical(found)
    if bare := _bare_number(text):
        return bare
    equations = list(re.finditer(rf"=\s*[$€£]?\s*{_VALUE.pattern}", text))
    if equations:
        return _canonical(equations[-1])
    values = list(_VALUE.finditer(text))
    return _canonical(values[0]) if len(values) == 1 else None


def json_value(text: str) -> str | None:
    """The text as canonical JSON (keys sorted), also from within one code fence; None if it is none."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, re.DOTALL | re.IGNORECASE)
    try:
        value = json.loads(fenced.group(1) if fenced else text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return json.dumps(_whole_floats(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def short_text(text: str) -> str | None:
    """One short line, blind to letter case, spacing, quotes around it and a final full stop."""
    lines = [line for line in _unadorned(text).strip().splitlines() if line.strip()]
    if len(lines) != 1:
        return None
    line = " ".join(lines[0].split()).strip(_QUOTES)
    line = re.sub(r"(?<=\d)\s+(?=[a-zA-Z°%])", "", line).rstrip(".").strip(_QUOTES).casefold()
    return line if line and len(line.split()) <= MAX_WORDS else None


def declared(text: str) -> str | None:
    """What follows the last declaration, up to the end of its line."""
    text = _unadorned(text)
    boxes = _boxes(text)
    if boxes:
        return boxes[-1]
    said = _declarations(text)
    return said[-1] if said else None


def _declarations(text: str) -> list[str]:
    ends = [place.end() for place in _DECLARED.finditer(text)]
    lines = (text[end:].lstrip().splitlines() for end in ends)
    return [line[0] for line in lines if line]


def _boxes(text: str) -> list[str]:
    r"""Contents of every ``\boxed{...}``, braces balanced; ``\text{...}`` inside is unwrapped."""
    found = []
    for start in re.finditer(r"\\boxed\s*\{", text):
        depth, end = 1, start.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if not depth:
            found.append(re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}", r"\1", text[start.end() : end - 1]))
    return found


def _only_letter(line: str, letters: str) -> str | None:
    found = re.fullmatch(rf"\(?\[?([{letters}])\]?\)?[.:,]?", line.strip())
    return found.group(1) if found else None


def _leading_letter(said: str, letters: str) -> str | None:
    said = re.sub(r"^\s*(?:option|choice|letter)\s+", "", said, flags=re.IGNORECASE).lstrip()
    bracketed = re.match(rf"[\[(]([{letters}])[)\]]", said)
    if bracketed:
        return bracketed.group(1)
    plain = re.match(rf"([{letters}]){_LETTER_THEN}", said)
    return plain.group(1) if plain else None


def _bare_number(text: str) -> str | None:
    found = _BARE_NUMBER.match(_unadorned(text).strip())
    return _canonical(found) if found else None


def _canonical(found: re.Match[str]) -> str | None:
    above, below = found.group(1), found.group(2)
    try:
        value = Fraction(Decimal(above.replace(",", "").replace("\u2212", "-")))
        return str(value / Fraction(Decimal(below)) if below else value)
    except (InvalidOperation, ZeroDivisionError, ValueError):
        return None


def _unadorned(text: str) -> str:
    """Without Markdown's bold marks and the dollars around formulas."""
    text = re.sub(r"\*\*|__|\\\(|\\\)|\\\[|\\\]", "", text)
    return re.sub(r"\$([^$\n]*)\$", r"\1", text)


def _whole_floats(value: Any) -> Any:
    """1.0 and 1 are the same number in JSON."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole_floats(inner) for key, inner in value.items()}
    return [_whole_floats(inner) for inner in value] if isinstance(value, list) else value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_BY_FORM = {"number": number, "json": json_value, "text": short_text}

__all__ = [
    "LETTERS",
    "Extracted",
    "Form",
    "choice",
    "declared",
    "extract",
    "form_of",
    "json_value",
    "number",
    "options_in",
    "short_text",
]
