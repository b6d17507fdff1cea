"""Names that the parts of a deployment share, and what is deployed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

APP_NAME = "coe"
NAMESPACE = "coe"
DIRECTORY = "coe-directory"


@dataclass(frozen=True)
class Deployed:
    """A version of the registry for a cluster. ``root``: the folder that its paths start from, the same
    on every machine; ``registry``: JSON."""

    root: str
    generation: int
    registry: str

    def as_config(self) -> dict[str, Any]:
        return asdict(self)
