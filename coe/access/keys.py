"""API keys: made here, kept as hashes, compared in constant time.

The keys file (YAML) lists holders; it never contains a key:

    keys:
      - id: alice
        sha256: 5e88...
        limits: {requests_per_minute: 60, usd_per_month: 20}
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coe.errors import ConfigError

PREFIX = "coe-"
BYTES = 32
HINT = "See docs/access.md for its form."


class KeyLimits(BaseModel):
    """Bounds for one holder; None: no bound. Budgets start anew with each calendar month (UTC)."""

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
    """Shown once: only the hash is kept."""

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
        """Whose ``key`` it is. The hash is looked up, so time tells nothing about any key; the compare
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
        raise ConfigError(f"{path} is no YAML: {_place(error)}", hint=HINT) from None
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
    """Append a holder, made readable for the owner only. Raises ConfigError if the id is taken."""
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))["keys"] if path.exists() else []
    if any(entry.get("id") == holder.id for entry in listed):
        raise ConfigError(
            f'there is a key called "{holder.id}" in {path} already', hint="Choose another name."
        )
    listed.append(holder.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
    draft = path.with_name(path.name + ".new")
    draft.touch(mode=0o600)
    draft.write_text(yaml.safe_dump({"keys": listed}, sort_keys=False), encoding="utf-8")
    draft.replace(path)
