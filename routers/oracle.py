"""The oracle: knows which experts are right. For evaluation only: an upper bound of every router."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from coe.core.decision import decide, generals
from coe.core.errors import ConfigError
from coe.core.files import path_in, readable
from coe.core.types import Decision, ExpertId, ExpertView, Ranked, Rule
from coe.routers.base import RouterOptions, Setting


class OracleOptions(RouterOptions):
    """``outcomes``: JSONL file of ``{"text": ..., "scores": {expert: 0..1}}``, relative to experts.yaml."""

    outcomes: str

    @property
    def reads_profiles(self) -> bool:
        return False


class OracleRouter:
    """Asks the expert with the highest known score; texts that it does not know go to the first expert."""

    options_type: ClassVar[type[RouterOptions]] = OracleOptions
    blocking = False

    def __init__(self, name: str, options: OracleOptions, setting: Setting) -> None:
        self.name = name
        self._scores = _read(path_in(setting.root, options.outcomes))

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        known = self._scores.get(text)
        scores = known or {}
        order = sorted(experts, key=lambda view: -scores.get(view.id, 0.0))
        ranking = tuple(Ranked(view.id, scores.get(view.id, 0.0)) for view in order)
        reason = "the recorded outcome" if known else "no recorded outcome of this text"
        return decide(self.name, ranking, reason, Rule(general=generals(experts)))


def _read(path: Path) -> Mapping[str, Mapping[ExpertId, float]]:
    with readable(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    found = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            found[str(entry["text"])] = {
                str(expert): min(1.0, max(0.0, float(score))) for expert, score in entry["scores"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f'{path}:{number}: must be {{"text": "...", "scores": {{"expert": 0..1}}}}'
            ) from None
    return found
