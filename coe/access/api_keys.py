"""API keys: made here, stored as hashes, compared in constant time.

The keys file (YAML) lists holders; it never contains a key:

    keys:
      - id: alice
        sha256: 5e88...
        limits: {requests_per_minute: 60, usd_per_month: 20}
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coe.core.errors import ConfigError
from coe.core.files import alone, off_the_loop, watch, write_atomically

PREFIX = "coe-"
BYTES = 32
HINT = "See docs/howto/access.md for its form."


class KeyLimits(BaseModel):
    """Bounds for one holder; None: no bound. Budgets are reset with each calendar month (UTC)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    requests_per_month: Annotated[float, Field(gt=0)] | None = None
    tokens_per_month: Annotated[float, Field(gt=0)] | None = None
    usd_per_month: Annotated[float, Field(gt=0)] | None = None
    gpu_seconds_per_month: Annotated[float, Field(gt=0)] | None = None
    swaps_per_month: Annotated[float, Field(gt=0)] | None = None


class Holder(BaseModel):
    """One entry of the keys file. ``tenant``: whose cached answers it may see; the id if not given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tenant: str | None = None
    limits: KeyLimits = KeyLimits()


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Holder, ...]


@dataclass(frozen=True)
class NewKey:
    """Shown once: only the hash is stored."""

    key: str
    sha256: str


def make_key() -> NewKey:
    """A key of 256 random bits: too many to guess, so one round of SHA-256 hides it well enough."""
    key = PREFIX + secrets.token_urlsafe(BYTES)
    return NewKey(key, digest(key))


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """The holders, by the hash of their key. Never changes."""

    def __init__(self, holders: Sequence[Holder]) -> None:
        self._by_hash: Mapping[str, Holder] = {holder.sha256: holder for holder in holders}

    def holder(self, key: str) -> Holder | None:
        """Whose ``key`` it is. The hash is looked up, so its duration says nothing about any key; the compare
        afterwards keeps that true if the lookup should ever change."""
        given = digest(key)
        found = self._by_hash.get(given)
        return found if found is not None and hmac.compare_digest(found.sha256, given) else None

    def holders(self) -> tuple[Holder, ...]:
        return tuple(self._by_hash.values())


def read_keys(path: Path) -> KeyRing:
    """Raises ConfigError naming the entry at fault. Blocking."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        listed = _File.model_validate(data).keys
    except OSError as error:
        raise ConfigError(
            f"the keys file {path} cannot be read: {error.strerror}",
            hint="Make one with `coe keys create NAME --file FILE`, or correct access.keys_file.",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {_place(error)}", hint=HINT) from None
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False)
        )
        raise ConfigError(f"{path}: {faults}", hint=HINT) from None
    ids = [holder.id for holder in listed]
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        raise ConfigError(f"{path}: two keys are called {', '.join(twice)}", hint="Rename one.")
    return KeyRing(listed)


def _place(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """What is wrong and where, without a quotation: the file may hold a key by mistake."""
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or "it cannot be read as text")
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def add_key(path: Path, holder: Holder) -> None:
    """Append a holder, made readable for the owner only; several at once lose none. Blocking.

    Raises ConfigError if the id is taken, or if the file cannot be read or written.
    """
    try:
        with alone(path):
            listed = list(read_keys(path).holders()) if path.exists() and path.stat().st_size else []
            if any(known.id == holder.id for known in listed):
                raise ConfigError(
                    f'the key "{holder.id}" already exists in {path}', hint="Choose another name."
                )
            entries = [
                each.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
                for each in (*listed, holder)
            ]
            path.touch(mode=0o600)
            write_atomically(path, yaml.safe_dump({"keys": entries}, sort_keys=False))
    except OSError as error:
        raise ConfigError(
            f"the keys file {path} cannot be written: {error.strerror}",
            hint="Create its folder, or name another file.",
        ) from error


log = logging.getLogger(__name__)


class KeysFile:
    """The keys of the file at ``path`` as it was last good. Made blocking, raising ConfigError; from then on
    use it from one event loop: ``start``, and ``close`` at the end."""

    def __init__(self, path: Path) -> None:
        self.ring = read_keys(path)
        self._path = path
        self._watching: asyncio.Task[None] | None = None
        self.edits = {"accepted": 0, "refused": 0}
        """so far, by result"""
        self.stale = False
        """whether the file was refused as it is now, so that earlier keys count"""

    def start(self, use: Callable[[KeyRing], None]) -> None:
        """From now on ``use`` gets the keys of each good edit. Idempotent."""
        if self._watching is None:
            watching = watch(self._path, partial(self._take_up, use))
            self._watching = asyncio.create_task(watching, name="watch keys file")

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _take_up(self, use: Callable[[KeyRing], None]) -> None:
        try:
            ring = await off_the_loop(read_keys, self._path)
        except ConfigError as error:
            self._refuse(f"{error.message} ({error.hint})" if error.hint else error.message)
        except Exception as error:
            log.exception("taking up %s failed unexpectedly", self._path)
            self._refuse(type(error).__name__)
        else:
            self.stale = False
            if ring.holders() != self.ring.holders():
                use(ring)
                log.info("%s: %s", self._path, _difference(self.ring, ring))
                self.ring = ring
                self.edits["accepted"] += 1

    def _refuse(self, why: str) -> None:
        self.stale = True
        self.edits["refused"] += 1
        log.error("an edit of the keys file was refused; the earlier keys stay valid: %s", why)


def _difference(old: KeyRing, new: KeyRing) -> str:
    """One line for people."""
    before, now = ({holder.id: holder for holder in ring.holders()} for ring in (old, new))
    parts = {
        "added": now.keys() - before.keys(),
        "removed": before.keys() - now.keys(),
        "changed": {name for name in now.keys() & before.keys() if now[name] != before[name]},
    }
    words = [f"{word} {', '.join(sorted(names))}" for word, names in parts.items() if names]
    return f"{len(now)} keys; {'; '.join(words) or 'in another order'}"
