"""Checks that decide without a model whether an answer can be right. Each says True (it is), False (it
cannot be) or None (nothing here can be checked)."""

from __future__ import annotations

import ast
import contextlib
import json
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from coe.aggregators.sandbox import Sandbox
from coe.core.extraction import json_value, number

_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_TERM = r"\(*\s*-?\d+(?:\.\d+)?\s*\)*"
_SIGN = r"\s*(?:\*\*|[-+*/^\u00d7\u00f7]|(?<![a-z])x(?![a-z]))\s*"
_ENDS = r"(?<![\w.,^*/%)\u00d7\u00f7-])", r"(?![\w%\u00d7\u00f7(]|[.,]\d|\s*[-+*/^\u00d7\u00f7]|\s+x\b)"
_EXPRESSION = re.compile(rf"{_ENDS[0]}{_TERM}(?:{_SIGN}{_TERM})+{_ENDS[1]}")
_EQUATION = re.compile(rf"{_ENDS[0]}({_TERM}(?:{_SIGN}{_TERM})+)\s*=\s*(-?\d+(?:\.\d+)?){_ENDS[1]}")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_RANGE = re.compile(r"\d+(?:-\d+)+")
_MAX_CHARS = 200
_ROUNDED_TO = 2
_MAX_POWER, _MAX_BASE = 64, 10**6

_CODE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_ASSERT = re.compile(r"^\s*(?:>>>\s*)?assert\b\s*")
_ASSERT_LINES = 20


def arithmetic(question: str, text: str) -> bool | None:
    """Recomputes: the equations in the answer must hold, and where the question is one expression of numbers,
    the answer must be its value. A rounded value is right; what may be a range, a date or more than one
    question is not judged."""
    question, text = (_THOUSANDS.sub(lambda n: n[0].replace(",", ""), each) for each in (question, text))
    for expression, said in _EQUATION.findall(text):
        value = None if _RANGE.fullmatch(expression.strip()) else evaluate(expression)
        if value is not None and _equals(value, said) is False:
            return False
    asked = list(_EXPRESSION.finditer(question))
    answer = number(text)
    if len(asked) != 1 or answer is None or _RANGE.fullmatch(asked[0][0].strip()):
        return None
    rest = question[: asked[0].start()] + question[asked[0].end() :]
    value = evaluate(asked[0][0])
    if value is None or any(sign.isdigit() for sign in rest):
        return None
    return _equals(value, answer)


def _equals(value: Fraction, said: str) -> bool | None:
    """Whether ``said`` is the value, or the value rounded or cut to two decimals or more. None: to fewer."""
    given = Fraction(said)
    decimals = next((d for d in range(16) if (given * 10**d).denominator == 1), 16)
    if given == value:
        return True
    if value.denominator == 1 or abs(given - value) > Fraction(1, 10**decimals):
        return False
    return True if decimals >= _ROUNDED_TO else None


def evaluate(expression: str) -> Fraction | None:
    """The exact value of an expression of numbers, ``+ - * /`` and brackets; None for anything else."""
    if len(expression) > _MAX_CHARS:
        return None
    try:
        plain = re.sub(r"[x\u00d7]", "*", expression.strip()).replace("\u00f7", "/").replace("^", "**")
        return _value(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return Fraction(str(value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, power = _value(left), _value(right)
            if power.denominator == 1 and abs(power) <= _MAX_POWER and abs(base) <= _MAX_BASE:
                return Fraction(base ** int(power))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
    raise ValueError("not arithmetic")


def json_form(response_format: Any, text: str) -> bool | None:
    """Whether the answer is JSON, and of the schema where ``response_format`` gives one."""
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind not in ("json_object", "json_schema"):
        return None
    canonical = json_value(text)
    if canonical is None:
        return False
    if kind == "json_object":
        return isinstance(json.loads(canonical), dict)
    return _fits(response_format, json.loads(canonical))


def _fits(response_format: Mapping[str, Any], value: Any) -> bool | None:
    from jsonschema import SchemaError, ValidationError, validate

    given = response_format.get("json_schema")
    try:
        validate(value, given.get("schema", {}) if isinstance(given, Mapping) else {})
    except ValidationError:
        return False
    except SchemaError:
        return None
    return True


def python_tests(question: str, text: str, sandbox: Sandbox) -> bool | None:
    """Runs the ``assert`` statements of the question on the code of the answer, in the sandbox. True only if
    they all ran."""
    tests = asserts(question)
    blocks = _CODE.findall(text)
    code = "\n\n".join(blocks) if blocks else text
    return sandbox.run(code, "\n".join(tests)).ok if tests else None


def asserts(question: str) -> list[str]:
    """The assert statements in a text, over several lines too; none where one of them is no Python."""
    found, lines = [], question.splitlines()
    for start, line in enumerate(lines):
        if not _ASSERT.match(line):
            continue
        first = _ASSERT.sub("assert ", line)
        for end in range(start + 1, min(start + _ASSERT_LINES, len(lines)) + 1):
            statement = "\n".join([first, *(each.removeprefix("... ") for each in lines[start + 1 : end])])
            with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
                ast.parse(statement)
                found.append(statement)
                break
        else:
            return []
    return found
