"""What outcomes taught about combining, in one file: which answer to take, and when to stop asking."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from coe.aggregators.combiner.agreement import AgreementLogit
from coe.aggregators.combiner.stopping import Stopping
from coe.core.errors import ConfigError

FORMAT = "coe combiner 1"


@dataclass(frozen=True)
class FittedCombiner:
    """``stopping`` is None where nothing was learned about asking one after the other."""

    combiner: AgreementLogit
    stopping: Stopping | None = None

    def save(self, path: Path) -> None:
        """JSON, replaced as a whole."""
        stopping = self.stopping and self.stopping.state()
        state = {"format": FORMAT, "combiner": self.combiner.state(), "stopping": stopping}
        whole = path.with_name(path.name + ".part")
        whole.write_text(json.dumps(state), encoding="utf-8")
        whole.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ConfigError for a file that is not there or that :meth:`save` did not write."""
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["format"] != FORMAT:
                raise ValueError(f'its format is "{state["format"]}"')
            stopping = state["stopping"]
            return cls(
                AgreementLogit.of(state["combiner"]), None if stopping is None else Stopping.of(stopping)
            )
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ConfigError(
                f"{path} holds no fitted combiner: {error}",
                hint="Make one with coe experts profile --combiner --from FOLDER "
                "(docs/explanation/aggregation.md).",
            ) from error
