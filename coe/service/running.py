"""Services that run now, each in a file of its own beside experts.yaml, for commands on the same machine.

A file counts while its service holds the lock on it, so none outlives its service, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from coe.core.files import folder_of

log = logging.getLogger(__name__)

FOLDER = Path("var") / "run"
PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Running:
    """One service. ``registry``: the name of its file; ``admin``: URL of its admin API, if it has one;
    ``certificate``: what it shows to clients (PEM), where it speaks HTTPS."""

    registry: str
    url: str
    admin: str | None = None
    certificate: str | None = None


def certificate_of(chain: Path | None) -> str | None:
    """The certificate of the service itself, of a PEM file with its chain. Blocking."""
    found = PEM.search(chain.read_text(encoding="ascii", errors="replace")) if chain else None
    return found[0] if found else None


@contextlib.contextmanager
def written_down(root: Path, service: Running) -> Iterator[None]:
    """Inside, commands find ``service``. Where nothing can be written it runs all the same."""
    file: Path | None = None
    held = -1
    try:
        folder = root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        # Locked before it has its name: nobody takes it for one of the dead.
        new = folder / f".{os.getpid()}-{secrets.token_hex(4)}.json"
        held = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        fcntl.flock(held, fcntl.LOCK_EX)
        os.write(held, json.dumps(asdict(service)).encode())
        file = new.rename(folder / new.name[1:])
    except OSError as error:
        log.info("commands need --url to find this service: %s: %s", root / FOLDER, error.strerror)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if file is not None:
                file.unlink()
        if held >= 0:
            os.close(held)


def services_of(registry: Path) -> Sequence[Running]:
    """Those that run with ``registry`` now. Blocking; never raises."""
    root, found = folder_of(registry), []
    for file in sorted((root / FOLDER).glob("[!.]*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError), file.open("rb") as stream:
            if _is_ours(stream.fileno(), root) and not _is_free(stream.fileno()):
                found.append(Running(**json.loads(stream.read())))
    return [service for service in found if service.registry == registry.name]


def _sweep(folder: Path) -> None:
    for file in [*folder.glob("*.json"), *folder.glob(".*.json")]:
        with contextlib.suppress(OSError), file.open("rb") as stream:
            if _is_free(stream.fileno()):
                file.unlink()


def _is_free(descriptor: int) -> bool:
    """Whether no service holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_ours(descriptor: int, root: Path) -> bool:
    """Whoever writes here says where tokens are sent: ourselves, root, or the owner of the folder."""
    return os.fstat(descriptor).st_uid in (0, os.getuid(), root.stat().st_uid)
