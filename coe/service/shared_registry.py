"""experts.yaml of several `coe serve` that share a state: an edit at one becomes the file of all.

The shared state holds one record: the text, its number, and digests of earlier texts. Whoever changes its own
file puts a new record in the place of the one that it knew; all others get a message and take it over as if
it had been edited there. A service that cannot serve it keeps what it has and says so, as with any edit.

Of two edits at the same moment, or made while the state was down, the first one to arrive there stays; the
other's text is in the history of its own service. A service that starts with a text that the record has seen
before is behind, and takes the newer one; one that starts with an unseen text was edited meanwhile, and the
others follow it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from dataclasses import asdict, dataclass

from coe.core.errors import BadRequest, ConfigError
from coe.pool.registry_pool import HOST_LEAVING
from coe.service.live_registry import LiveRegistry
from coe.state.store import Store, StoreDown

log = logging.getLogger(__name__)

KEY = CHANNEL = "registry"
LOOK_AGAIN_S = 5.0
"""In case that a message was lost."""
RETRY_S = 0.5
SEEN = 200


@dataclass(frozen=True)
class Record:
    """The registry of all. ``seen``: digests of earlier texts, newest last."""

    number: int
    text: str
    seen: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Record:
        """Raises ValueError, KeyError or TypeError for what is none."""
        fields = json.loads(raw)
        return cls(int(fields["number"]), str(fields["text"]), tuple(fields["seen"]))

    def followed_by(self, text: str, number: int) -> Record:
        seen = [one for one in (*self.seen, digest(self.text)) if one != digest(text)]
        return Record(max(number, self.number + 1), text, tuple(seen[-SEEN:]))


class SharedRegistry:
    """Keeps one service's registry and the shared one the same. ``run`` in a task of the service's loop."""

    def __init__(self, live: LiveRegistry, store: Store) -> None:
        self._live, self._store = live, store
        self._agreed: str | None = None
        """the text that this service and the record last had in common"""
        self._refused: str | None = None
        """a text of the record that this service cannot serve"""
        self._wake = asyncio.Event()
        live.on_change(self._wake.set)

    async def run(self) -> None:
        """Until cancelled."""
        listening = asyncio.create_task(self._listen(), name="listen for registries")
        try:
            while True:
                self._wake.clear()
                wait_s = LOOK_AGAIN_S if await self._synced() else RETRY_S
                try:
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            listening.cancel()

    async def sync(self) -> None:
        """Compare, and give or take. Raises StoreDown."""
        raw, own = await self._store.get(KEY), self._live.text
        record = None if raw is None else _record(raw)
        if record is None:
            await self._give(raw, Record(self._live.number, own))
        elif record.text == own:
            self._agreed = own
            if self._refused is not None:
                self._refused = None
                self._live.forget_refusal()
        elif self._is_newer(own, record):
            await self._give(raw, record.followed_by(own, self._live.number))
        elif record.text != self._refused:
            await self._take(record)

    def _is_newer(self, own: str, record: Record) -> bool:
        if self._agreed is None:
            return digest(own) not in record.seen
        return own != self._agreed and record.text in (self._agreed, self._refused)

    async def _give(self, known: bytes | None, record: Record) -> None:
        if not await self._store.replace(KEY, known, record.to_bytes()):
            self._wake.set()  # Somebody else was quicker: look again.
            return
        self._agreed, self._refused = record.text, None
        await self._store.publish(CHANNEL, b"%d" % record.number)

    async def _take(self, record: Record) -> None:
        if self._agreed is not None and self._live.text != self._agreed:
            log.warning("another service changed the registry first; this one's change is in its history")
        try:
            await self._live.take_over(record.text, record.number)
            self._agreed = record.text
        except BadRequest:
            self._wake.set()  # The file was edited in this moment: look again.
        except ConfigError as error:
            if error.code != HOST_LEAVING:
                self._refused = record.text

    async def _synced(self) -> bool:
        try:
            await self.sync()
        except StoreDown as error:
            log.warning("the registry cannot be shared at the moment: %s", error)
            return False
        except Exception:
            log.exception("sharing the registry failed unexpectedly")
            return False
        return True

    async def _listen(self) -> None:
        async for _ in self._store.listen(CHANNEL):
            self._wake.set()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _record(raw: bytes) -> Record | None:
    try:
        return Record.from_bytes(raw)
    except (ValueError, KeyError, TypeError):
        log.warning("the record of the shared registry cannot be read; it is replaced")
        return None
