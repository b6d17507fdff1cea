"""A wrong field in a request body, in words: its path, what it must be, and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from coe.core.errors import BadRequest
from coe.core.suggest import nearest
from coe.gateway.schemas import CoeOptions

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Body = TypeVar("Body", bound=BaseModel)

_KINDS: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "finite_number": "a finite number",
}
_BOUNDS: Mapping[str, str] = {
    "greater_than": "greater than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}


def validate(model: type[Body], body: Mapping[str, Any]) -> Body:
    """``body`` as ``model``. Raises BadRequest for the first field at fault, named in ``param``."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _fault(error.errors(include_url=False)[0], model) from None


def json_kind(value: Any) -> str:
    """``value`` as a person would name it: short things as they are, others by their kind."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 40 else f'"{value[:37]}..."'
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return str(value) if len(str(value)) <= 40 else "a long number"


def _fault(error: ErrorDetails, model: type[BaseModel]) -> BadRequest:
    kind, given, context = error["type"], json_kind(error["input"]), error.get("ctx", {})
    where = _path(error["loc"])
    if kind == "missing":
        return _refused(f"{where} is missing", where, code="missing_field", hint="It is required.")
    if kind == "extra_forbidden":
        return _unknown_key(where, str(error["loc"][-1]), CoeOptions if error["loc"][0] == "coe" else model)
    if kind in _KINDS:
        return _refused(f"{where} must be {_KINDS[kind]}, not {given}", where)
    if kind in _BOUNDS:
        bound = next(iter(context.values()))
        return _refused(f"{where} must be {_BOUNDS[kind]} {bound}, not {given}", where)
    if kind == "literal_error":
        return _refused(f"{where} must be {context['expected']}, not {given}", where)
    if kind == "too_short":
        return _refused(f"{where} must not be empty", where)
    message = error["msg"].removeprefix("Value error, ")
    return _refused(f"{where} {message}, not {given}", where)


def _path(loc: tuple[str | int, ...]) -> str:
    """``messages[0].role``; without the tags of unions, which start with ``~``."""
    steps = (step for step in loc if not str(step).startswith("~"))
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def _unknown_key(where: str, key: str, model: type[BaseModel]) -> BadRequest:
    names = list(model.model_fields)
    close = nearest(key, names)
    meant = f'; did you mean "{close}"?' if close else ""
    return _refused(
        f"{where} is not a known field{meant}",
        where,
        code="unknown_field",
        hint=f"The fields here are {', '.join(names)}.",
    )


def _refused(message: str, param: str, code: str = "invalid_value", hint: str | None = None) -> BadRequest:
    return BadRequest(message, code=code, param=param, hint=hint or f"Correct {param} and send it again.")
