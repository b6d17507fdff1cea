"""The accepted generations of experts.yaml: their texts in a folder, one file ``NNNN.yaml`` each.

The time of acceptance is the file's time of change. Beside it ``NNNN.json`` says why there is this generation
and where its experts were, which a text that names no hosts does not. Blocking (file I/O).
"""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from coe.core.errors import BadRequest
from coe.core.files import write_atomically
from coe.core.types import ExpertId

log = logging.getLogger(__name__)

_NAME = re.compile(r"^(\d{4,9})\.yaml$")


@dataclass(frozen=True)
class Circumstances:
    """What a text does not say of its generation. ``hosts``: where experts were, {}: not known."""

    reason: str = ""
    hosts: Mapping[ExpertId, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Accepted:
    """A generation in the history. ``at``: Unix time in seconds."""

    number: int
    at: float
    path: Path

    @property
    def text(self) -> str:
        """For reading: what is no UTF-8 is shown escaped. Empty where the file cannot be read."""
        return self._read()[0].decode(errors="backslashreplace")

    @property
    def damage(self) -> str | None:
        """Why this is not the text that was accepted; None for one that is."""
        raw, fault = self._read()
        try:
            raw.decode()
        except UnicodeDecodeError:
            fault = "not UTF-8 text"
        return f"{self.path} is damaged: {fault}" if fault else None

    def _read(self) -> tuple[bytes, str | None]:
        try:
            return self.path.read_bytes(), None
        except OSError as error:
            return b"", error.strerror

    @property
    def circumstances(self) -> Circumstances:
        """Those that are not known, or were written by something else, are empty."""
        try:
            found = json.loads(_beside(self.path).read_text(encoding="utf-8"))
            hosts = {str(expert): str(host) for expert, host in found["hosts"].items()}
            return Circumstances(str(found["reason"]), hosts)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return Circumstances()


class History:
    """The last ``keep`` accepted texts. The service writes, anybody may read."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def entries(self) -> tuple[Accepted, ...]:
        """Oldest first; none where the folder does not exist yet."""
        found = [(_NAME.match(path.name), path) for path in self._folder.glob("*.yaml")]
        accepted = [Accepted(int(m[1]), path.lstat().st_mtime, path) for m, path in found if m]
        return tuple(sorted(accepted, key=lambda entry: entry.number))

    def entry(self, number: int) -> Accepted:
        """Raises BadRequest where the history does not have it, or not as text."""
        entries = self.entries()
        for entry in entries:
            if entry.number == number:
                if entry.damage:
                    hint = "Take another one, or remove that file."
                    raise BadRequest(entry.damage, code="damaged_generation", hint=hint)
                return entry
        known = f"It has {entries[0].number} to {entries[-1].number}." if entries else "It is empty."
        raise BadRequest(f"generation {number} is not in the history", code="unknown_generation", hint=known)

    def number_of(self, text: str, hosts: Mapping[ExpertId, str] | None = None) -> int:
        """The number that ``text``, with its experts on ``hosts``, has if it is the newest entry, else the
        one it would get."""
        entries = self.entries()
        if not entries:
            return 1
        newest = entries[-1]
        if newest.damage:
            log.warning("%s; it counts as another generation than the present one", newest.damage)
        known = newest.circumstances.hosts
        same = newest.text == text and not newest.damage and (not hosts or not known or known == hosts)
        return newest.number if same else newest.number + 1

    def add(self, number: int, text: str, circumstances: Circumstances | None = None) -> None:
        """Keep ``text`` as generation ``number`` and forget the oldest beyond the bound. Idempotent."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{number:04d}.yaml"
        known = path.is_file() and path.read_bytes() == text.encode()
        if circumstances is not None and not (known and _beside(path).exists()):
            write_atomically(_beside(path), json.dumps(asdict(circumstances), indent=1))
        if not known:
            write_atomically(path, text)
        for entry in [entry for entry in self.entries() if entry.path.is_file()][: -self._keep]:
            entry.path.unlink(missing_ok=True)
            _beside(entry.path).unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def difference(old: str, new: str, old_name: str, new_name: str) -> str:
    """A unified diff; empty where nothing differs. Pure."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), old_name, new_name, lineterm="", n=2)
    return "\n".join(lines)
