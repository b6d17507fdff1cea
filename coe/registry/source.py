"""The text of experts.yaml: parsed once for its data and once for the place of every entry in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from coe.registry.errors import Issue, Loc, Position, RegistryError
from coe.registry.renamed import RENAMED, rename

_MAX_BYTES = 4_000_000


@dataclass(frozen=True)
class Source:
    """A parsed file: ``data`` is plain JSON-like Python, ``position`` finds an entry in the text.

    ``data`` has the keys' names of today; ``issues`` are about those that the text calls otherwise.
    """

    path: Path
    data: Any
    tree: Node
    issues: tuple[Issue, ...] = ()

    def position(self, loc: Loc) -> Position:
        """Where ``loc`` stands; steps that the text does not have (union tags, missing keys) are skipped."""
        found = self._walk(loc)
        mark = found[-1][1].label.start_mark if found else self.tree.start_mark
        return Position(line=mark.line + 1, column=mark.column + 1)

    def existing(self, loc: Loc) -> Loc:
        """``loc`` as the text has it, without the steps that the text does not have."""
        return tuple(step for step, _ in self._walk(loc))

    def located(self, issues: Iterable[Issue]) -> list[Issue]:
        """``issues``, each with its position. What is about a key that the text does not have has none."""

        def position(loc: Loc) -> Position | None:
            return self.position(loc) if self.existing(loc) or not loc else None

        return [replace(issue, position=position(issue.loc)) for issue in issues]

    def refuse(self, issues: Iterable[Issue]) -> None:
        """Raises :class:`RegistryError` where there are any."""
        if found := self.located(issues):
            raise RegistryError(self.path, found)

    def _walk(self, loc: Loc) -> list[tuple[str | int, _Child]]:
        node, found = self.tree, []
        for step in self._written(loc):
            child = _child(node, step)
            if child is not None:
                node = child.value
                found.append((step, child))
        return found

    def _written(self, loc: Loc) -> Loc:
        """``loc`` with the former name of a key where the text has that."""
        warned = (issue.loc for issue in self.issues if issue.severity == "warning")
        for former in (former for former in warned if former in RENAMED):
            if loc[: len(former)] == (*former[:-1], RENAMED[former]):
                return (*former, *loc[len(former) :])
        return loc


@dataclass(frozen=True)
class _Child:
    label: Node
    value: Node


def _child(node: Node, step: str | int) -> _Child | None:
    if isinstance(node, MappingNode):
        pairs = (_Child(key, value) for key, value in node.value)
        return next((pair for pair in pairs if str(pair.label.value) == str(step)), None)
    if isinstance(node, SequenceNode) and isinstance(step, int) and 0 <= step < len(node.value):
        return _Child(node.value[step], node.value[step])
    return None


MAX_DEPTH = 64
MAX_NODES = 100_000
"""Keys, values and lists, each alias counted as what it stands for."""


class _BoundedComposer(Composer):
    """Refuses what would be too large or too deep before it is made: a few bytes of aliases can stand for
    gigabytes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}
        """of the nodes that are complete, with all that is in them"""

    def compose_node(self, parent: Node | None, index: Any) -> Node:
        event, before = self.parser.peek_event(), self._nodes
        self._depth += 1
        self._require(self._depth <= MAX_DEPTH, f"nested more than {MAX_DEPTH} levels deep", event)
        node: Node = super().compose_node(parent, index)
        self._depth -= 1
        size = self._sizes.get(id(node)) if isinstance(event, AliasEvent) else 1 + self._nodes - before
        self._require(
            size is not None,
            "only plain lists and values are allowed, and this alias stands for what it is in",
            event,
        )
        self._nodes = before + (size or 0)
        self._require(self._nodes <= MAX_NODES, f"more than {MAX_NODES} entries, aliases counted out", event)
        self._sizes[id(node)] = self._nodes - before
        return node

    def _require(self, holds: bool, otherwise: str, event: Any) -> None:
        if not holds:
            raise ComposerError(None, None, otherwise, event.start_mark)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _BoundedComposer
    return yaml


def parse_source(text: str, path: Path, any_shape: bool = False) -> Source:
    """Parse the text of ``path``. Raises :class:`RegistryError` when it is not YAML, or is no mapping
    (``any_shape``: then ``data`` may be anything). Pure."""
    try:
        tree = _yaml().compose(text)
        data = _yaml().load(text)
    except MarkedYAMLError as error:
        raise RegistryError(path, (_syntax_issue(error),)) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise RegistryError(path, (Issue(f"not readable as YAML: {error}"),)) from None
    if tree is None or data is None:
        raise RegistryError(path, (Issue('the file is empty; it needs at least "pool" and "experts"'),))
    if not isinstance(data, dict) and not any_shape:
        message = 'the file must be a mapping with keys such as "pool" and "experts"'
        raise RegistryError(path, (Issue(message, position=Position(1, 1)),))
    plain = _plain(path, data)
    return Source(path, plain, tree, tuple(rename(plain)))


def read_text(path: Path) -> str:
    """The file as text. Raises :class:`RegistryError` when it cannot be read."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        message = "no such file; name one with --registry, or start from docs/experts.example.yaml"
        raise RegistryError(path, (Issue(message),)) from None
    except OSError as error:
        raise RegistryError(path, (Issue(f"cannot be read: {error.strerror or error}"),)) from None
    if len(raw) > _MAX_BYTES:
        raise RegistryError(path, (Issue(f"larger than {_MAX_BYTES} bytes: it is not a registry file"),))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RegistryError(
            path, (Issue("not UTF-8 text; save it as UTF-8", position=Position(line, 1)),)
        ) from None


def _plain(path: Path, data: Any) -> Any:
    """The data as JSON has it (dates become text), so that models and JSON schema judge the same thing."""
    try:
        return json.loads(json.dumps(data, default=str))
    except (TypeError, ValueError, RecursionError) as error:
        message = f"only plain keys, lists and values are allowed here: {error}"
        raise RegistryError(path, (Issue(message),)) from None


def _syntax_issue(error: MarkedYAMLError) -> Issue:
    mark = error.problem_mark or error.context_mark
    place = Position(mark.line + 1, mark.column + 1) if mark is not None else None
    parts: Sequence[str | None] = (error.context, error.problem)
    text = ", ".join(" ".join(part.split()) for part in parts if part) or "unreadable"
    if "\\t" in text or "'\\t'" in text:
        text += " (indent with spaces, not tabs)"
    if "duplicate key" in text:
        text = text.split(" with value")[0].replace("while constructing a mapping, ", "")
        return Issue(f"{text}; keep one of the two", position=place)
    return Issue(f"YAML syntax: {text}", position=place)
