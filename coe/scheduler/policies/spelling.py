"""How policies are written: ``coe``, or ``coe[-prefetch,-prewake]`` for one without these mechanisms."""

from __future__ import annotations

import re
from dataclasses import dataclass

from coe.core.errors import ConfigError
from coe.core.suggest import suggest
from coe.registry.scheduling_settings import Mechanisms

_SPELLED = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<changes>[^\[\]]*)\])?")
_COMMA = re.compile(r",(?![^\[]*\])")


@dataclass(frozen=True)
class SpelledPolicy:
    name: str
    without: tuple[str, ...] = ()


def parse_policy(text: str) -> SpelledPolicy:
    """Raises :class:`ConfigError` for what is not written so, and for mechanisms that do not exist."""
    match = _SPELLED.fullmatch(text.strip())
    if not match:
        raise ConfigError(f"policy {text!r}: not understood", hint="write coe or coe[-prefetch,-prewake]")
    changes = [change.strip() for change in (match["changes"] or "").split(",") if change.strip()]
    return SpelledPolicy(match["name"].strip(), tuple(_switched_off(change, text) for change in changes))


def split_policies(text: str) -> tuple[str, ...]:
    """Policies between commas; those in brackets do not separate."""
    return tuple(name.strip() for name in _COMMA.split(text) if name.strip())


def _switched_off(change: str, text: str) -> str:
    name = change.removeprefix("-").replace("-", "_")
    if not change.startswith("-") or name not in Mechanisms.model_fields:
        raise ConfigError(
            f"policy {text!r}: {change!r} is not a mechanism to switch off",
            hint="write a minus and its name; " + suggest(name, Mechanisms.model_fields),
        )
    return name
