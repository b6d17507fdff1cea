"""Keys of experts.yaml that the version before called otherwise. They are read for one more version."""

from __future__ import annotations

from collections.abc import Mapping
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


def rename(data: Any) -> list[Issue]:
    """Give former keys in ``data`` (as parsed, perhaps invalid) their names of today, in place.

    Returns a warning for each, or an error where both names are given. Each stands at the former key.
    """
    return [issue for former, name in RENAMED.items() if (issue := _renamed(data, former, name)) is not None]


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
