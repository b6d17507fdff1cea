"""Edits of the text of experts.yaml that keep its comments and formatting. Pure: text in, text out.

An edit is made on the lines concerned and checked by parsing the result; where the text is written in a way
that this cannot handle (flow style, anchors), ruamel.yaml writes the file anew, which keeps comments but may
change spacing. Whether the new text is a valid registry is for
:func:`coe.service.registry_file.parse_registry`.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from coe.core.errors import BadRequest, UnknownModel
from coe.core.suggest import suggest
from coe.registry.errors import RegistryError
from coe.registry.source import Source, parse_source

Edit = Callable[[str], str]
"""From the text of experts.yaml to another one. Raises CoeError where it cannot be made. Pure."""
Entry = Mapping[str, Any]
"""An expert's entry as experts.yaml has it, not validated."""

_Surgery = Callable[[list[str], Source], list[str] | None]
_Change = Callable[[Any], None]


def read_entries(text: str, name: str) -> list[Entry]:
    """The experts of a YAML snippet: one entry, a list of them, or a mapping with ``experts``.

    Raises RegistryError for what is no YAML, BadRequest for other shapes. ``name`` is for messages.
    """
    data = parse_source(text, Path(name), any_shape=True).data
    if isinstance(data, dict) and "experts" in data:
        data = data["experts"]
    entries = data if isinstance(data, list) else [data]
    if not entries or not all(isinstance(entry, dict) and entry.get("id") for entry in entries):
        raise BadRequest(
            f"{name} has no experts",
            code="no_experts",
            hint="Write one entry, or a list of them, as under `experts` of experts.yaml, each with an id.",
        )
    return entries


def add_experts(text: str, path: Path, entries: Sequence[Entry]) -> str:
    """``text`` with ``entries`` after its last expert. Raises BadRequest for an id that is there already."""
    known = _ids(parse_source(text, path))
    for entry in entries:
        if entry["id"] in known:
            raise BadRequest(
                f'expert "{entry["id"]}" already exists',
                code="expert_exists",
                hint="Remove it first, or give the new one another id.",
            )

    def surgery(lines: list[str], source: Source) -> list[str] | None:
        place = _last_expert(lines, source)
        if place is None:
            return None
        column = _list(source).start_mark.column
        return [*lines[: place.end], *_block(entries, column), *lines[place.end :]]

    return _edited(text, path, surgery, lambda data: data["experts"].extend(copy.deepcopy(list(entries))))


def remove_expert(text: str, path: Path, expert: str) -> str:
    """``text`` without ``expert`` and the comment right above it. Raises UnknownModel."""
    index = _index(parse_source(text, path), expert)

    def surgery(lines: list[str], source: Source) -> list[str] | None:
        place = _place(lines, source, index)
        if place is None:
            return None
        start = place.start if index == 0 else _with_comment(lines, place.start)
        return [*lines[:start], *lines[place.end :]]

    def change(data: Any) -> None:
        del data["experts"][index]

    return _edited(text, path, surgery, change)


def set_shadow(text: str, path: Path, expert: str, shadow: bool) -> str:
    """``text`` with ``expert`` as a shadow, or no longer one. Raises UnknownModel."""
    index = _index(parse_source(text, path), expert)
    if bool(parse_source(text, path).data["experts"][index].get("shadow", False)) == shadow:
        return text

    def surgery(lines: list[str], source: Source) -> list[str] | None:
        place = _place(lines, source, index)
        if place is None:
            return None
        entry = _list(source).value[index]
        row = next((key.start_mark.line for key, _ in entry.value if key.value == "shadow"), None)
        if row is not None:
            lines = [*lines[:row], *lines[row + 1 :]]
            place = _Place(place.start, place.end - 1)
        added = [" " * entry.start_mark.column + "shadow: true\n"] if shadow else []
        return [*lines[: place.end], *added, *lines[place.end :]]

    def change(data: Any) -> None:
        data["experts"][index].pop("shadow", None)
        if shadow:
            data["experts"][index]["shadow"] = True

    return _edited(text, path, surgery, change)


class _Place:
    """The lines of an entry: ``start`` up to ``end``, without what follows it."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end


def _edited(text: str, path: Path, surgery: _Surgery, change: _Change) -> str:
    source = parse_source(text, path)
    wanted = copy.deepcopy(source.data)
    change(wanted)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    attempt = surgery(lines, source)
    if attempt is not None and _parses_to("".join(attempt), path, wanted):
        return "".join(attempt)
    return _written_anew(text, change)


def _parses_to(text: str, path: Path, wanted: Any) -> bool:
    try:
        return bool(parse_source(text, path).data == wanted)
    except RegistryError:
        return False


def _written_anew(text: str, change: _Change) -> str:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    data = yaml.load(text)
    change(data)
    out = io.StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def _list(source: Source) -> SequenceNode:
    for key, value in source.tree.value if isinstance(source.tree, MappingNode) else ():
        if key.value == "experts" and isinstance(value, SequenceNode):
            return value
    raise BadRequest(f"{source.path} has no list of experts", hint="Run `coe check` on it.")


def _ids(source: Source) -> list[str]:
    entries = source.data.get("experts")
    found = entries if isinstance(entries, list) else []
    return [str(entry.get("id")) if isinstance(entry, dict) else "" for entry in found]


def _index(source: Source, expert: str) -> int:
    ids = _ids(source)
    if expert not in ids:
        raise UnknownModel(f'expert "{expert}" does not exist; {suggest(expert, ids)}')
    return ids.index(expert)


def _last_expert(lines: list[str], source: Source) -> _Place | None:
    return _place(lines, source, len(_list(source).value) - 1)


def _place(lines: list[str], source: Source, index: int) -> _Place | None:
    """Where an entry of a list in block style stands."""
    experts = _list(source)
    if experts.flow_style or not 0 <= index < len(experts.value):
        return None
    nodes: list[Node] = experts.value
    start = nodes[index].start_mark.line
    following = nodes[index + 1].start_mark.line if index + 1 < len(nodes) else experts.end_mark.line
    if index + 1 == len(nodes) and experts.end_mark.column > 0:
        following += 1  # the end of a file whose last line is the list's
    end = min(following, len(lines))
    while end > start + 1 and _says_nothing(lines[end - 1]):
        end -= 1
    return _Place(start, end)


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _with_comment(lines: list[str], start: int) -> int:
    """The first line of the comment right above an entry."""
    while start > 0 and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return start


def _block(entries: Sequence[Entry], column: int) -> list[str]:
    yaml = YAML(typ="rt")
    yaml.width = 100
    out = io.StringIO()
    yaml.dump([_compact(entry) for entry in entries], out)
    return [
        " " * column + line if line.strip() else line for line in out.getvalue().splitlines(keepends=True)
    ]


def _compact(value: Any) -> Any:
    """Lists of plain values in one line, as people write skills and tags."""
    if isinstance(value, Mapping):
        return {str(key): _compact(inner) for key, inner in value.items()}
    if isinstance(value, list):
        items = CommentedSeq([_compact(item) for item in value])
        if not any(isinstance(item, Mapping | list) for item in value):
            items.fa.set_flow_style()
        return items
    return value
