"""Edits of experts.yaml while no service runs, with the validation that a service would do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coe.files import write_atomically
from coe.registry.check import new_errors
from coe.registry.edit import Edit
from coe.registry.history import History
from coe.registry.load import parse_registry
from coe.registry.models import Registry
from coe.registry.problems import Problem, RegistryError
from coe.registry.source import parse_source, read_text


class FileEditor:
    """Edits the file alone; the service that starts next takes it up."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def check(self, change: Edit) -> Registry:
        return await asyncio.to_thread(self._checked, change(read_text(self.path)))

    async def edit(self, change: Edit) -> None:
        await asyncio.to_thread(self._edit, change)

    def history(self) -> History:
        """Raises RegistryError for a file that is no registry."""
        spec = parse_registry(read_text(self.path), self.path).history
        return History(self.path.resolve().parent / spec.folder, spec.keep)

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
            raise RegistryError(self.path, (Problem(message),)) from None

    def _checked(self, text: str) -> Registry:
        registry = parse_registry(text, self.path)
        try:
            old = parse_registry(read_text(self.path), self.path)
        except RegistryError:
            return registry  # the edit mends the file
        source = parse_source(text, self.path)
        faults = new_errors(old, registry, self.path.resolve().parent)
        problems = [Problem(fault.message, source.position(fault.loc)) for fault in faults]
        if problems:
            raise RegistryError(self.path, problems)
        return registry
