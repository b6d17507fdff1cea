"""JSON by msgspec, several times faster than the standard library, which still has the last word.

What msgspec refuses (lone surrogates, NaN, broken text) goes through :mod:`json`, whose behaviour and
error messages therefore hold for everything unusual.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

LEAST_LOGPROB = -9_999.0
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def encode(value: Any) -> bytes:
    """Compact UTF-8. Raises TypeError for what is not JSON."""
    try:
        return msgspec.json.encode(value)
    except (ValueError, msgspec.MsgspecError):  # a lone surrogate
        return json.dumps(value, separators=(",", ":")).encode()


def fields(raw: bytes) -> Mapping[str, Any] | None:
    """The fields of the JSON object ``raw``, each still as its own JSON; None if it is not one."""
    try:
        return _OBJECT.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = _parsed(raw)
        return {k: msgspec.Raw(encode(v)) for k, v in found.items()} if isinstance(found, dict) else None


def with_fields(raw: bytes, **new: Any) -> bytes | None:
    """The JSON object ``raw`` with fields set, the others untouched byte by byte; None if it is not one."""
    found = fields(raw)
    return None if found is None else encode({**found, **new})


def decode(raw: bytes) -> Any:
    """Raises ``json.JSONDecodeError`` or UnicodeDecodeError, with the place of the fault."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return json.loads(raw, parse_constant=_no_constant)


def plain(raw: bytes) -> bytes:
    """``raw``, JSON or nearly so, without the numbers that JSON does not have, which servers write as
    log-probabilities: minus infinity as vLLM and OpenAI write it, others as null."""
    if b"Infinity" not in raw and b"NaN" not in raw:
        return raw
    try:
        decode(raw)
    except ValueError:
        try:
            return encode(json.loads(raw, parse_constant={"-Infinity": LEAST_LOGPROB}.get))
        except (ValueError, RecursionError):
            pass
    return raw


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def printable(text: str) -> str:
    """Lone surrogates, which JSON can write and UTF-8 cannot, would break tokenizers."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
