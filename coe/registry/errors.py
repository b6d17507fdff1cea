"""What there is to say about experts.yaml: what is wrong, where it stands, and what to write instead."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from coe.core.errors import ConfigError
from coe.core.suggest import nearest, suggest
from coe.registry.base import UsuallyOf
from coe.registry.hosts import PLUGIN

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Loc = tuple[str | int, ...]
"""A place in the data: keys and list indices from the top."""

Severity = Literal["error", "warning", "note"]
"""error: it will not work; warning: it is probably not meant so; note: it is worth knowing"""


@dataclass(frozen=True, order=True)
class Position:
    """Line and column in the text, both from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Issue:
    """One thing to say about experts.yaml. ``loc``: the entry that it is about; ``position``: where that is
    in the text (see :meth:`coe.registry.source.Source.located`)."""

    message: str
    loc: Loc = ()
    severity: Severity = "error"
    hint: str | None = None
    position: Position | None = None


class RegistryError(ConfigError):
    """All errors of one file; the message lists them as ``file:line:column: error``."""

    def __init__(self, path: Path, issues: Sequence[Issue]) -> None:
        self.path = path
        self.issues = tuple(sorted(issues, key=lambda issue: issue.position or Position(0, 0)))
        lines = [_line(path, issue) for issue in self.issues]
        if len(lines) > 1:
            lines.insert(0, f"{path} has {len(lines)} problems:")
        super().__init__("\n".join(lines), hint="Correct the file and run `coe check` again.")


def _line(path: Path, issue: Issue) -> str:
    at, hint = issue.position, f" ({issue.hint})" if issue.hint else ""
    where = f"{path}:{at.line}:{at.column}" if at else str(path)
    return f"{where}: {issue.message}{hint}"


def dotted(loc: Loc) -> str:
    """``pool.hosts[0].swap``; the top itself is ``the file``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    return text.lstrip(".") or "the file"


_KINDS: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text (put quotes round it)",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "finite_number": "a finite number",
}
_BOUNDS: Mapping[str, str] = {
    "greater_than": "gt",
    "greater_than_equal": "ge",
    "less_than": "lt",
    "less_than_equal": "le",
}
_GONE: Mapping[str, str] = {"oldest_at_low_load": "the policy needs it no more: delete the line"}
"""Keys of earlier versions."""
_BOUND_WORDS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}


def describe(error: ErrorDetails, where: Loc, model: type[BaseModel]) -> str:
    """One pydantic error in our words. ``where`` is its place as the text has it (no union tags)."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    last = str(error["loc"][-1]) if error["loc"] else ""
    if kind == "extra_forbidden":
        return _unknown_key(last, where[:-1], model_at(model, error["loc"][:-1]), model)
    if kind == "missing":
        return f'{dotted(where)}: the key "{last}" is missing'
    if kind in _KINDS:
        return f"{dotted(where)}: must be {_KINDS[kind]}, not {_shown(given)}"
    if kind in _BOUNDS:
        bound = _BOUNDS[kind]
        return f"{dotted(where)}: must be {_BOUND_WORDS[bound]} {context[bound]:g}, not {_shown(given)}"
    if kind in ("literal_error", "union_tag_invalid"):
        return _wrong_choice(where, given, context)
    if kind == "string_pattern_mismatch":
        return (
            f"{dotted(where)}: {_shown(given)} is not a valid name; use letters, digits and . _ / -,"
            " starting with a letter or digit, at most 96 characters"
        )
    if kind == "too_short":
        return f"{dotted(where)}: needs at least {context.get('min_length', 1)} entry"
    message = error["msg"].removeprefix("Value error, ")
    return f"{dotted(where)}: {message}"


def _wrong_choice(where: Loc, given: object, context: Mapping[str, Any]) -> str:
    expected = str(context.get("expected") or context.get("expected_tags") or "")
    choices = [part.strip(" '") for part in expected.replace(" or ", ", ").split(",")]
    wrong = context.get("tag", given)
    numbers = [part for part in re.split(", | or ", expected) if part and part[0] != "'"]
    if isinstance(wrong, str) and wrong in numbers:
        return f"{dotted(where)}: must be the number {wrong}, not text; leave the quotes out"
    return f"{dotted(where)}: {_shown(wrong)} is unknown; {suggest(str(wrong), choices)}"


def _unknown_key(key: str, where: Loc, at: type[BaseModel] | None, top: type[BaseModel]) -> str:
    place = f" in {dotted(where)}" if where else ""
    if key in _GONE:
        return f'unknown key "{key}"{place}; {_GONE[key]}'
    here = list(at.model_fields) if at is not None else []
    close = nearest(key, here)
    if close:
        return f'unknown key "{key}"{place}; did you mean "{close}"?'
    homes = [name for name, model in _sections(top) if key in model.model_fields]
    if homes:
        return f'unknown key "{key}"{place}; it belongs under {" or ".join(homes)}'
    return f'unknown key "{key}"{place}; the keys here are {", ".join(here) or "none"}'


def _sections(top: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    found: list[tuple[str, type[BaseModel]]] = []
    for name, field in top.model_fields.items():
        usual = [mark.model for mark in field.metadata if isinstance(mark, UsuallyOf)]
        for model in (*models_in(field.annotation), *usual):
            found.append((name, model))
            found += [(f"{name}.{inner}", deeper) for inner, deeper in _sections(model)]
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def model_at(top: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """The model that describes the mapping at ``loc`` (pydantic's loc, with union tags)."""
    here: Any = top
    for step in loc:
        here = _step(here, step)
    models = models_in(here)
    return models[0] if len(models) == 1 else None


def _step(annotation: Any, step: str | int) -> Any:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _step(get_args(annotation)[0], step)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(step))
        return field.annotation if field else None
    if origin is tuple and isinstance(step, int):
        return get_args(annotation)[0]
    if origin in (Union, types.UnionType):
        return _arm(annotation, str(step))
    return None


def _arm(union: Any, step: str) -> Any:
    """The arm of a tagged union whose ``kind`` is ``step``; of an optional model, its field ``step``."""
    for model in models_in(union):
        kind = model.model_fields.get("kind")
        if kind is not None and step in (get_args(kind.annotation) or (PLUGIN,)):
            return model
    models = models_in(union)
    return _step(models[0], step) if len(models) == 1 else None


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, (list, tuple)) else str(value)
