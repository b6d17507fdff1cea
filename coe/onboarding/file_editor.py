"""Edits of experts.yaml while no service runs, with the validation that a service would do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from coe.core.files import folder_of, write_atomically
from coe.registry.edit import Edit
from coe.registry.errors import Issue, RegistryError
from coe.registry.history import History
from coe.registry.schema import Registry
from coe.registry.source import parse_source, read_text

Parse = Callable[[str, Path], Registry]
"""text and path of a registry file -> the registry; raises RegistryError"""
NewErrors = Callable[[Registry, Registry, Path], Iterable[Issue]]
"""old and new registry and the folder of the file -> what the new one has wrong that the old had not"""


class FileEditor:
    """Edits the file alone; the service that starts next takes it up. ``parse`` and ``new_errors`` are the
    checks that a service would make."""

    def __init__(self, path: Path, parse: Parse, new_errors: NewErrors) -> None:
        self.path = path
        self._parse = parse
        self._new_errors = new_errors

    async def check(self, change: Edit) -> Registry:
        return await asyncio.to_thread(self._checked, change(read_text(self.path)))

    async def edit(self, change: Edit) -> None:
        await asyncio.to_thread(self._edit, change)

    def history(self) -> History:
        """Raises RegistryError for a file that is no registry."""
        spec = self._parse(read_text(self.path), self.path).history
        return History(folder_of(self.path) / spec.folder, spec.keep)

    def _edit(self, change: Edit) -> None:
        old = read_text(self.path)
        new = change(old)
        self._checked(new)
        if new == old:
            return
        history = self.history()
        try:
            history.add(history.number_of(old), old)
            write_atomically(self.path, new)
            history.add(history.number_of(new), new)
        except OSError as error:
            message = f"cannot be written: {error.strerror or error}"
            raise RegistryError(self.path, (Issue(message),)) from None

    def _checked(self, text: str) -> Registry:
        registry = self._parse(text, self.path)
        try:
            old = self._parse(read_text(self.path), self.path)
        except RegistryError:
            return registry  # the edit mends the file
        errors = self._new_errors(old, registry, folder_of(self.path))
        parse_source(text, self.path).refuse(errors)
        return registry
