"""What keys have used this month, in a file, so that budgets survive a restart where there is no Redis."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from coe.core.files import alone, off_the_loop, write_atomically
from coe.state.store import Bill

log = logging.getLogger(__name__)

Totals = dict[tuple[str, str], dict[str, float]]
"""by holder and period"""


class UsageFile:
    """The totals of the newest period. Each process adds what it has charged to what the file has by then, so
    that several in one folder, or one that starts while the last one ends, lose nothing of each other's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unsaved: Totals = {}
        self._failed = False

    def read(self) -> Totals:
        """Empty where there is no file, or none that can be read. Blocking."""
        try:
            return _parsed(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("%s cannot be read, so this month's usage counts from 0: %s", self._path, error)
            return {}

    def note(self, bill: Bill) -> None:
        """Charged here, and not saved yet."""
        _add(self._unsaved, [((bill.key, bill.period), bill.used)])

    async def save(self) -> Totals | None:
        """The totals of all processes by now; None where nothing is new. A disk that refuses costs nothing
        but what a restart then loses."""
        unsaved, self._unsaved = self._unsaved, {}
        if not unsaved:
            return None
        try:
            totals = await off_the_loop(partial(self._merge, unsaved))
        except OSError as error:
            _add(self._unsaved, unsaved.items())
            if not self._failed:
                log.warning("this month's usage cannot be saved in %s: %s", self._path, error)
            self._failed = True
            return None
        self._failed = False
        _add(totals, self._unsaved.items())  # what was charged meanwhile
        return totals

    def _merge(self, unsaved: Totals) -> Totals:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with alone(self._path):
            totals = self.read()
            _add(totals, unsaved.items())
            newest = max(period for _, period in totals)
            totals = {place: used for place, used in totals.items() if place[1] == newest}
            listed = {key: used for (key, _), used in sorted(totals.items())}
            write_atomically(self._path, json.dumps({"period": newest, "used": listed}, indent=1) + "\n")
        return totals


def _parsed(text: str) -> Totals:
    file = json.loads(text)
    period = str(file["period"])
    return {
        (key, period): {name: float(amount) for name, amount in used.items()}
        for key, used in file["used"].items()
    }


def _add(totals: Totals, more: Iterable[tuple[tuple[str, str], Mapping[str, float]]]) -> None:
    for place, used in more:
        mine = totals.setdefault(place, {})
        for name, amount in used.items():
            mine[name] = mine.get(name, 0.0) + amount
