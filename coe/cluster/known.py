"""Which Ray cluster a folder's service runs on: written down by `coe deploy`, read by the other commands.

Several clusters may run on one machine, of several people. Which of them Ray finds first is nobody's wish, so
a command takes the one that it is told, or the one that was deployed to from its folder, or none.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from coe.core.errors import ConfigError
from coe.core.files import write_atomically

RECORD = Path("var", "cluster.json")
LOCK = Path("var", "deploy.lock")
AUTH_MODE = "RAY_AUTH_MODE"
FINDS_ANY = frozenset({"auto", "local"})


@dataclass(frozen=True)
class KnownCluster:
    """``session``: Ray's name for one run of a cluster, which tells it from another one that has come to its
    address since. ``token``: whether it asks for a token."""

    address: str
    session: str | None = None
    token: bool = False


def find_cluster(
    address: str | None, folder: Path, environment: MutableMapping[str, str] = os.environ
) -> KnownCluster:
    """The cluster at ``address`` (or RAY_ADDRESS), or else the one that was deployed to from ``folder``.

    To be called before ray is imported: has it look for a token if the cluster asks for one. Raises
    ConfigError where no cluster is known.
    """
    wanted = address or environment.get("RAY_ADDRESS")
    if wanted in FINDS_ANY:
        raise ConfigError(
            f'"{wanted}" is whichever cluster Ray finds, which may be another one', hint="Name its address."
        )
    if wanted:
        return KnownCluster(wanted)
    known = _recorded(folder)
    if known.token:
        environment.setdefault(AUTH_MODE, "token")
    return known


def _recorded(folder: Path) -> KnownCluster:
    try:
        return KnownCluster(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(
            f"nothing runs on Ray that was deployed from {folder}",
            hint="Give --address of a cluster (by default port 6379 of its head), --registry of the service, "
            "or use `coe deploy --local`.",
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{folder / RECORD} cannot be read: {error}", hint="Delete it, and give --address of the cluster."
        ) from None


def record(folder: Path, cluster: KnownCluster, local: bool = False) -> None:
    """Note that ``folder`` deploys to this cluster. ``local``: it is that of its :func:`local_claim`.

    Raises ConfigError when it cannot be written, or when the folder has a local cluster and this is not it.
    """
    try:
        with _open_lock(folder) as lock:
            taken = not local and not _lock(lock)
            if taken and cluster.session != _recorded(folder).session:
                raise _claimed(folder, lock)
        write_atomically(folder / RECORD, json.dumps(asdict(cluster)) + "\n")
    except OSError as error:
        raise _unwritable(folder, error) from None


@contextlib.contextmanager
def local_claim(folder: Path) -> Iterator[int]:
    """Make ``folder`` that of one local cluster, until this process and all that inherit the yielded file
    have ended. Raises ConfigError when it is that of another one."""
    try:
        opened = _open_lock(folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    with opened as lock:
        if not _lock(lock):
            raise _claimed(folder, lock)
        os.truncate(lock.fileno(), 0)
        os.pwrite(lock.fileno(), f"{os.getpid()}\n".encode(), 0)
        try:
            yield lock.fileno()
        finally:
            (folder / RECORD).unlink(missing_ok=True)


def _open_lock(folder: Path) -> IO[str]:
    (folder / LOCK).parent.mkdir(parents=True, exist_ok=True)
    return (folder / LOCK).open("a+")


def _lock(file: IO[str]) -> bool:
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _claimed(folder: Path, lock: IO[str]) -> ConfigError:
    lock.seek(0)
    return ConfigError(
        f"a `coe deploy --local` runs in {folder} already (process {lock.read().strip()})",
        hint="`coe deploy` without --local hands it an edited experts.yaml; Ctrl-C there or `coe undeploy` "
        "ends it. A second service needs a folder and a port of its own.",
    )


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{folder / RECORD} cannot be written: {error.strerror}",
        hint="Later commands look there for the cluster, and experts write their logs beside it.",
    )
