"""Folders of profiles: question tables in ``tables/NAME/``, experts in ``experts/NAME.json``.

experts.yaml lists folders; a later one goes before an earlier one where both have a profile of an expert on
the same table. A profile may speak of a table that stands in another of the folders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationError

from coe.core.errors import ConfigError
from coe.core.files import path_in
from coe.profiles.profile import ExpertProfile
from coe.profiles.table import QuestionTable, read_table, write_table
from coe.profiles.weights import are_of, weights_of
from coe.registry.schema import Expert, Registry

SHIPPED = "package:open-models"
"""The profiles of well-known open models that come with CoE."""


SHIPPED_FOLDER = Path(__file__).parent / "shipped"


class ProfileFolder:
    """One folder. It need not exist: then it is empty, and is made by the first write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def tables(self) -> Iterator[QuestionTable]:
        for facts in sorted(self.path.glob("tables/*/table.json")):
            yield read_table(facts.parent)

    def profiles(self) -> Iterator[ExpertProfile]:
        for path in sorted(self.path.glob("experts/*.json")):
            yield _read(path)

    def stamp(self) -> object:
        """Differs after each change of a table or a profile."""
        files = (*self.path.glob("tables/*/table.json"), *self.path.glob("experts/*.json"))
        try:
            return sorted((str(path), (stat := path.stat()).st_mtime_ns, stat.st_size) for path in files)
        except OSError:  # one is just being replaced
            return None

    def write_table(self, table: QuestionTable) -> None:
        write_table(table, self.path / "tables" / quote(table.name, safe=""))

    def write(self, profile: ExpertProfile) -> Path:
        """Write or replace the profile of its expert; returns the file."""
        path = self._file(profile.expert)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(profile.model_dump(mode="json", exclude_defaults=True)) + "\n")
        partial.replace(path)
        return path

    def remove(self, expert: str) -> None:
        self._file(expert).unlink(missing_ok=True)

    def _file(self, expert: str) -> Path:
        return self.path / "experts" / f"{quote(expert, safe='')}.json"


class ProfileStore:
    """All folders of a registry, read once, at construction. Raises ConfigError for a file it cannot use.
    ``root``: where relative names of models start."""

    def __init__(self, folders: Sequence[ProfileFolder], root: Path = Path()) -> None:
        self.folders = tuple(folders)
        self._root = root
        self.tables = {table.fingerprint: table for folder in folders for table in folder.tables()}
        self._found: dict[tuple[str, str], ExpertProfile] = {}
        for folder in folders:
            for profile in folder.profiles():
                self._found[profile.expert.casefold(), profile.outcomes.table] = profile

    @property
    def profiles(self) -> tuple[ExpertProfile, ...]:
        return tuple(self._found.values())

    def of(self, expert: Expert) -> tuple[ExpertProfile, ...]:
        """Its profiles, one for each table at most: one made under its own id of the weights that it has now,
        else that of its model."""
        chosen: dict[str, ExpertProfile] = {}
        stale = self.stale(expert)
        for matches in (_is_its_model, _is_its_own):
            found = (p for p in self._found.values() if matches(p, expert) and p not in stale)
            chosen |= {profile.outcomes.table: profile for profile in found}
        return tuple(chosen.values())

    def stale(self, expert: Expert) -> tuple[ExpertProfile, ...]:
        """Those under its name that other weights answered for."""
        own = [p for p in self._found.values() if p.weights and _is_its_own(p, expert)]
        if not own:
            return ()
        now = weights_of(expert, self._root)
        return tuple(profile for profile in own if not are_of(profile.weights, now))


def digest(profiles: Sequence[ExpertProfile]) -> str:
    """Equal for equal profiles only."""
    return hashlib.sha256("\n".join(each.model_dump_json() for each in profiles).encode()).hexdigest()


def open_store(registry: Registry, root: Path) -> ProfileStore:
    """The store of the registry whose file stands in folder ``root``."""
    return ProfileStore([ProfileFolder(place) for place in folders(registry, root)], root)


def folders(registry: Registry, root: Path) -> tuple[Path, ...]:
    return tuple(SHIPPED_FOLDER if name == SHIPPED else path_in(root, name) for name in registry.profiles)


def own_folders(registry: Registry, root: Path) -> tuple[ProfileFolder, ...]:
    """Those that may change, unlike CoE's own."""
    return tuple(ProfileFolder(place) for place in folders(registry, root) if place != SHIPPED_FOLDER)


def own_folder(registry: Registry, root: Path) -> ProfileFolder:
    """Where new profiles are written: the last of the registry's folders that is not CoE's own."""
    own = [name for name in registry.profiles if name != SHIPPED]
    return ProfileFolder(path_in(root, own[-1] if own else "profiles"))


def combiner_file(registry: Registry, root: Path) -> Path:
    """Where the fitted combiner of the aggregator ``learned`` is written."""
    return own_folder(registry, root).path / "combiner.json"


def fitted_combiner(registry: Registry, root: Path) -> Path | None:
    """:func:`combiner_file` where there is one."""
    path = combiner_file(registry, root)
    return path if path.is_file() else None


def _is_its_own(profile: ExpertProfile, expert: Expert) -> bool:
    return profile.expert.casefold() == (expert.profile or expert.id).casefold()


def _is_its_model(profile: ExpertProfile, expert: Expert) -> bool:
    if expert.adapter is not None:
        return False  # what the base alone can do says little of it
    names = {name.casefold() for name in (profile.expert, *profile.models)}
    return expert.model.removeprefix("hf:").casefold() in names


def _read(path: Path) -> ExpertProfile:
    try:
        return ExpertProfile.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        detail = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" if detail else str(error)
        raise ConfigError(
            f"the profile {path} cannot be used: {what}",
            hint="Make it again with `coe experts profile`, or delete it.",
        ) from None
