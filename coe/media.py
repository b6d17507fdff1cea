"""URLs in the content of messages: who reads the message would fetch them, from inside its own network."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit


def named_elsewhere(part: Mapping[str, Any], hosts: Collection[str] = ()) -> bool:
    """Whether a content part, but for its text, has something to be fetched elsewhere than from ``hosts``."""
    return any(not _may_be_fetched(url, hosts) for url in _urls(part))


def _urls(value: Any, named: str = "") -> Iterator[str]:
    """What is, or may be taken for, a URL or a file, at any depth."""
    if isinstance(value, str):
        start = value[:2_000].strip().lower()
        if named.endswith(("url", "uri")) or "://" in start[:64] or start.startswith("file:"):
            yield value.strip()
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _urls(inner, str(name).lower())
    elif isinstance(value, list):
        for inner in value:
            yield from _urls(inner, named)


def _may_be_fetched(url: str, hosts: Collection[str]) -> bool:
    if url[:5].lower() == "data:":
        return True
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    # Where http://one.example\@another.example/ leads depends on who reads it: urllib3 goes to the first.
    if "\\" in url or "@" in parts.netloc or any(sign <= " " for sign in url):
        return False
    return (
        parts.scheme in ("http", "https")
        and host is not None
        and not {"*", host}.isdisjoint(map(str.lower, hosts))
    )
