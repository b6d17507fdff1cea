"""Which questions are the same but for how they are put.

No measure of likeness is asked: the embeddings of "3 feet to inches" and "3 inches to feet" are equal, and so
are, nearly, those of a question and its negation. What is left out here is a closed list; everything else
counts, character by character.
"""

from __future__ import annotations

import re
import unicodedata

_FIRST = re.compile(
    "[Ww]hat|[Ww]hich|[Ww]ho|[Ww]hose|[Ww]hen|[Ww]here|[Ww]hy|[Hh]ow|[Ii]s|[Aa]re|[Ww]as|[Ww]ere|[Dd]oe?s?|[Dd]id"
    "|[Ss]hould|[Hh]as|[Hh]ave|[Cc]alculate|[Cc]ompute|[Cc]onvert|[Dd]escribe|[Ee]xplain|[Ff]ind|[Gg]ive|[Ll]ist"
    "|[Ss]how|[Ss]olve|[Ss]ort|[Ss]ummari[sz]e|[Tt]ell"
)
_GREETING = r"(?:hi|hello|hey)(?: there)?[,!.] |good (?:morning|afternoon|evening)[,!.] "
_BEFORE = re.compile(rf"(?:{_GREETING})?(?:please,? |(?:can|could|would|will) you please )?", re.IGNORECASE)
_THANKS = r"please|(?:many )?thanks(?: a lot| in advance)?|thank you(?: very much| in advance)?"
_AFTER = re.compile(rf"(?:,|(?<=[.?])) (?:{_THANKS})[.!]?$", re.IGNORECASE)
_END = re.compile(r"(?<=[^\W_])[.?]$")
_VERBATIM = re.compile(
    # Quotations, code, and questions about words or signs: there every sign may be what is asked about.
    r"[^\S ]|[\"\u201c\u201d\u201e\u00ab\u00bb\u2018`\\:{}\[\]<>]|(?<!\w)'|'(?!\w)"
    r"|\b(?:say|spell|pronounce|translat\w*|rhym\w*|mean\w*|words?|phrases?|sentences?|letters?"
    r"|characters?|punctuation|commas?|capitali[sz]\w*|case|politely|polite|rude)\b",
    re.IGNORECASE,
)


def same_question(text: str) -> str:
    """A text that is equal for questions that differ only in greetings, please and thanks at either end, the
    capital of a first word of asking, a final ``.`` or ``?``, spaces in a row and Unicode's ways to compose a
    letter. Pure."""
    words = re.sub(" +", " ", unicodedata.normalize("NFC", text).replace("\u2019", "'").strip(" "))
    if _VERBATIM.search(words):
        return text
    plain = _AFTER.sub("", words[_led(words) :])
    first, _, rest = plain.partition(" ")
    if first in ("What's", "what's"):
        first, rest = "what", f"is {rest}"
    if not rest or not _FIRST.fullmatch(first):
        return text
    return f"{first.lower()} {_END.sub('', rest)}"


def _led(words: str) -> int:
    """Where the question begins, behind its polite beginning."""
    found = _BEFORE.match(words)
    return found.end() if found else 0
