"""Keys of experts.yaml that the version before had, or called otherwise. They are read once more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from coe.registry.errors import Issue, Loc, dotted

RENAMED: Mapping[Loc, str] = MappingProxyType(
    {
        ("answers",): "cache",
        ("pool", "replan_s"): "rebalance_s",
    }
)
"""The former place of a key -> its name there now."""
REMOVED: Mapping[str, str] = MappingProxyType({"belady": "it made no difference in any measured run"})
"""Former options of the policy coe -> why they are gone."""


def rename(data: Any) -> list[Issue]:
    """Give former keys in ``data`` (as parsed, perhaps invalid) their names of today, in place.

    Former options of the policy coe are left out. Returns a warning for each, or an error where both names
    are given. Each stands at the former key.
    """
    renamed = (_renamed(data, former, name) for former, name in RENAMED.items())
    return [*(issue for issue in renamed if issue is not None), *_without_removed(data)]


def _without_removed(data: Any) -> Iterator[Issue]:
    pool = data.get("pool") if isinstance(data, dict) else None
    if not isinstance(pool, dict) or not isinstance(options := pool.get("options"), dict):
        return
    if not re.match(r"\s*coe\s*(\[|$)", str(pool.get("policy", "coe"))):
        return
    for key in REMOVED.keys() & options.keys():
        del options[key]
        message = f'"pool.options.{key}" is not read any more: {REMOVED[key]}'
        yield Issue(message, ("pool", "options", key), "warning", "Delete the line.")


def _renamed(data: Any, former: Loc, name: str) -> Issue | None:
    section, key = data, former[-1]
    for step in former[:-1]:
        section = section.get(step) if isinstance(section, dict) else None
    if not isinstance(section, dict) or key not in section:
        return None
    today = dotted((*former[:-1], name))
    if name in section:
        del section[key]
        message = f'"{dotted(former)}" is the former name of "{today}", and both are given; keep "{today}"'
        return Issue(message, former)
    section[name] = section.pop(key)
    message = f'"{dotted(former)}" is called "{today}" now; the former name is read for one more version'
    return Issue(message, former, "warning", f"Write `{name}:` instead of `{key}:`.")
