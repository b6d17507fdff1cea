"""Classes that experts.yaml names: built-ins by a short name, plug-ins as ``package.module:Class``."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from coe.core.errors import ConfigError
from coe.core.suggest import suggest

Chosen = TypeVar("Chosen", bound=BaseModel)


@dataclass(frozen=True)
class Plugins:
    """The kinds that experts.yaml may name. The registry stands below those who offer them, so whoever
    reads a registry hands them in."""

    routers: PluginKind
    aggregators: PluginKind
    configured: frozenset[str] = frozenset()
    """built-in aggregators that exist only where experts.yaml configures them"""


@dataclass(frozen=True)
class PluginKind:
    """What the classes are for. ``noun`` stands in messages; ``method`` is what such a class must offer
    beside ``options_type``, and ``contract`` is where that is written down."""

    noun: str
    method: str
    contract: str
    built_in: Mapping[str, str]
    """short name -> ``package.module:Class``"""

    def find(self, kind: str) -> Any:
        """The class behind a short name or ``package.module:Class``; imports its module only.

        Raises ConfigError for what does not exist, cannot be imported or is no such class.
        """
        target = self.built_in.get(kind, kind)
        module, colon, name = target.partition(":")
        if not colon:
            raise ConfigError(
                f'unknown {self.noun} kind "{kind}"; {suggest(kind, self.built_in)}',
                hint=f'Name a built-in {self.noun}, or your own as "package.module:Class".',
            )
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f'{self.noun} kind "{kind}" cannot be imported: {error}',
                hint="Install the package that holds it where the service runs, and check the spelling.",
            ) from error
        if not (isinstance(found, type) and isinstance(getattr(found, "options_type", None), type)):
            raise ConfigError(
                f'{self.noun} kind "{kind}" is no {self.noun} class: '
                f"it must be a class with options_type and {self.method}",
                hint=f"See {self.contract} for what such a class must offer.",
            )
        return found

    def options(
        self,
        options_type: type[Chosen],
        options: Mapping[str, Any],
        name: str,
        kind: str,
        strict: bool = False,
    ) -> Chosen:
        """``options`` of experts.yaml, validated. Raises ConfigError naming ``name`` and each fault."""
        try:
            return options_type.model_validate_json(json.dumps(options), strict=strict)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(str(step) for step in detail['loc']) or 'options'}: {detail['msg']}"
                for detail in error.errors(include_url=False)
            )
            raise ConfigError(
                f'{self.noun} "{name}" (kind {kind}) has wrong options: {faults}',
                hint=f"Its options are: {', '.join(options_type.model_fields) or 'none'}.",
            ) from None
