"""Classes that experts.yaml names: built-ins by a short name, others as ``module:Class``.

The module of a plug-in is looked for in the folder of experts.yaml, then among what is installed. One that
stands in the folder is imported under a name of its own: it hides no installed package from anybody, and
two folders in one process do not see each other's modules.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from coe.core.errors import CoeError, ConfigError
from coe.core.former_names import current_name, new_name
from coe.core.suggest import suggest

log = logging.getLogger(__name__)

Chosen = TypeVar("Chosen", bound=BaseModel)


class PluginOptions(BaseModel):
    """Base of the ``options`` of every plug-in in experts.yaml: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def faults(self, experts: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002
        """Faults that only show beside the experts (none: not known): option name -> what is wrong. Pure."""
        return {}


def unknown_expert(option: str, expert: str | None, experts: Sequence[str]) -> dict[str, str]:
    """The fault, for :meth:`PluginOptions.faults`, of an option that names an expert which is not there."""
    if expert is None or not experts or expert in experts:
        return {}
    return {option: f'there is no expert "{expert}"; {suggest(expert, experts)}'}


@dataclass(frozen=True)
class Plugins:
    """The kinds that experts.yaml may name. The registry stands below those who offer them, so whoever
    reads a registry hands them in."""

    routers: PluginKind
    aggregators: PluginKind
    policies: PluginKind
    engines: PluginKind
    configured: frozenset[str] = frozenset()
    """built-in aggregators that exist only where experts.yaml configures them"""

    def beside(self, folder: Path) -> Plugins:
        """As an experts.yaml in ``folder`` finds them."""
        return Plugins(
            self.routers.beside(folder),
            self.aggregators.beside(folder),
            self.policies.beside(folder),
            self.engines.beside(folder),
            self.configured,
        )


@dataclass(frozen=True)
class PluginKind:
    """What the classes are for. ``noun`` stands in messages; ``method`` is what such a class must offer
    beside ``options_type``, and ``contract`` is where that is written down."""

    noun: str
    method: str
    contract: str
    built_in: Mapping[str, str]
    """short name -> ``package.module:Class``"""
    folder: Path | None = None
    """that of experts.yaml; None: plug-ins are looked for among what is installed"""
    former: Mapping[str, str] = field(default_factory=dict)
    """short names that were built in before, as ``built_in``; they are read for one more version"""

    def beside(self, folder: Path | None) -> PluginKind:
        """As an experts.yaml in ``folder`` finds it."""
        return replace(self, folder=folder)

    def find(self, kind: str) -> Any:
        """The class behind a short name or ``module:Class``; imports its module only.

        Raises ConfigError for what does not exist, cannot be imported or is no such class.
        """
        target = self.built_in.get(kind) or self.former.get(kind, kind)
        module, colon, name = target.partition(":")
        if not colon:
            raise ConfigError(
                f'unknown {self.noun} kind "{kind}"; {suggest(kind, self.built_in)}, or write "module:Class"'
            )
        now = current_name(module, self.folder)
        try:
            found = _attribute(_import(now, self.folder), name)
        except Exception as error:
            message = f'{self.noun} kind "{kind}" cannot be imported: {_told(error)}'
            raise ConfigError(message, hint=_remedy(error, self.folder)) from error
        if kind in self.former and kind not in self.built_in:
            _warn(f'{self.noun} "{kind}" is no built-in any more, write "{target}" in experts.yaml')
        if now != module:
            _warn(f'{self.noun} kind "{kind}": its module moved, write "{now}:{name}" in experts.yaml')
        if not self._fits(found):
            raise ConfigError(
                f'{self.noun} kind "{kind}" is no {self.noun} class: '
                f"it must be a class with options_type and {self.method}",
                hint=f"See {self.contract} for what such a class must offer.",
            )
        return found

    def _fits(self, found: object) -> bool:
        options_type = getattr(found, "options_type", None)
        has_options = isinstance(options_type, type) and issubclass(options_type, BaseModel)
        return isinstance(found, type) and has_options and hasattr(found, self.method)

    def build(
        self,
        kind: str,
        name: str,
        options: Mapping[str, Any],
        setting: Any,
        experts: Sequence[str] = (),
    ) -> Any:
        """An object of the class behind ``kind``: ``Class(name, options, setting)``, or its class method
        ``build`` of the same parameters where it has one. ``experts`` are those that options may name.

        Raises ConfigError as :meth:`find` and :meth:`checked` do, and where a plug-in cannot be built.
        """
        cls = self.find(kind)
        checked = self.checked(cls.options_type, options, name, kind, experts)
        try:
            return getattr(cls, "build", cls)(name, checked, setting)
        except CoeError:
            raise
        except Exception as error:
            raise ConfigError(
                f'{self.noun} "{name}" (kind {kind}) cannot be built: {_told(error)}',
                hint=f"See {self.contract} for how it is built.",
            ) from error

    def checked(
        self,
        options_type: type[Chosen],
        options: Mapping[str, Any],
        name: str,
        kind: str,
        experts: Sequence[str] = (),
    ) -> Chosen:
        """``options`` of experts.yaml, validated. Raises ConfigError naming ``name`` and each fault."""
        try:
            found = options_type.model_validate_json(json.dumps(options), strict=True)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(str(step) for step in detail['loc']) or 'options'}: {detail['msg']}"
                for detail in error.errors(include_url=False)
            )
            raise ConfigError(
                f'{self.noun} "{name}" (kind {kind}) has wrong options: {faults}',
                hint=f"Its options are: {', '.join(options_type.model_fields) or 'none'}.",
            ) from None
        if isinstance(found, PluginOptions) and (wrong := found.faults(experts)):
            raise ConfigError(f'{self.noun} "{name}": ' + "; ".join(wrong.values()))
        return found


def _import(module: str, folder: Path | None) -> ModuleType:
    if folder is not None and _stands_in(folder, module):
        module = _name_in(folder, module)
        if module not in sys.modules:
            importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    return importlib.import_module(module)


def _attribute(module: ModuleType, name: str) -> Any:
    if not hasattr(module, name):
        raise ImportError(f"{module.__file__ or module.__name__} has no {name}")
    return getattr(module, name)


def _stands_in(folder: Path, module: str) -> bool:
    """Whether ``folder`` has a module of this name. Our own package is never looked for there."""
    steps = module.split(".")
    if steps[0] == "coe" or not all(step.isidentifier() for step in steps):
        return False
    return _file_of(folder, module).is_file()


def _file_of(folder: Path, module: str) -> Path:
    at = folder.joinpath(*module.split("."))
    package = at / "__init__.py"
    return package if package.is_file() else at.with_suffix(".py")


def _name_in(folder: Path, module: str) -> str:
    """What ``module`` of ``folder`` is called here: a module of a package that stands for the folder alone,
    so that relative imports work. One that is imported already, from this very file, keeps its name."""
    known = getattr(sys.modules.get(module), "__file__", None)
    if known is not None and Path(known).resolve() == _file_of(folder, module).resolve():
        return module
    home = str(folder.resolve())
    package = f"coe_folder_{hashlib.sha256(home.encode()).hexdigest()[:16]}"
    if package not in sys.modules:
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [home]
        sys.modules[package] = module_from_spec(spec)
    return f"{package}.{module}"


def _told(error: Exception) -> str:
    """What went wrong in a plug-in, and where."""
    told = isinstance(error, ImportError | SyntaxError)
    own = str(error) if told else f"{type(error).__name__}: {error}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    return f"{own} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else own


def _remedy(error: Exception, folder: Path | None) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and (now := new_name(missing)) is not None:
        return f"Change the code that imports it: {missing} is called {now} now."
    if folder is not None and missing and _stands_in(folder, missing):
        return (
            'Modules in the folder of experts.yaml import each other relatively: write "from . import'
            f' {missing.rpartition(".")[2]}".'
        )
    return (
        "Put its module into the folder of experts.yaml, or install the package that holds it where the"
        " service runs, and check the spelling."
    )


@cache
def _warn(message: str) -> None:
    """Once each, however often experts.yaml is read."""
    log.warning("%s (the former name is read for one more version)", message)
