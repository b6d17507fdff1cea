"""Names that the parts of a deployment share, and what is deployed."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from coe.registry.renamed import rename
from coe.registry.schema import Registry

APP_NAME = "coe"
NAMESPACE = "coe"
DIRECTORY = "coe-directory"

LOCAL_ENV: Mapping[str, str] = MappingProxyType(
    {
        # Ray makes its workers as nice as can be: on a busy machine they starve.
        "RAY_worker_niceness": "0",
        # Proxies are given 30 s by default, too little where many processes start on few cores.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Which would turn this on: a port at each gateway for load balancers that ask Serve's controller for
        # it, proxies on the head alone, and 30 s for every gateway that stops. HAProxy needs it and has it.
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
        # Without it, who asks a gateway that dies gets Serve's plain text, or a stream that is cut.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "coe.cluster.serve_middleware:middlewares",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)
"""What `coe deploy --local` sets before it starts Ray, unless it is set already. docs/measurements/cluster.md
tells what the settings cost and bring; on a cluster they belong into the environment of `ray start`."""


def set_local_env(environment: MutableMapping[str, str] = os.environ) -> None:
    """To be called before ray is imported: it reads its settings then."""
    for name, value in LOCAL_ENV.items():
        environment.setdefault(name, value)


@dataclass(frozen=True)
class Deployed:
    """A version of the registry for a cluster: Serve's ``user_config`` of the gateways.

    ``root``: the folder that its paths start from, the same on every machine; ``registry``: as JSON has it.
    """

    root: str
    generation: int
    registry: Mapping[str, Any]

    @classmethod
    def of(cls, registry: Registry, root: str, generation: int) -> Deployed:
        return cls(root, generation, registry.model_dump(mode="json", exclude_defaults=True))

    def listening_on(self, host: str) -> Deployed:
        """The same where Serve's proxies listen on ``host``, whatever the file says."""
        service = {**self.registry.get("service", {}), "host": host}
        return replace(self, registry={**self.registry, "service": service})

    def as_config(self) -> dict[str, Any]:
        return asdict(self)

    def parsed(self) -> Registry:
        """Also of what the version before has deployed, or has printed as a manifest."""
        data = copy.deepcopy(dict(self.registry))
        rename(data)
        return Registry.model_validate(data)
