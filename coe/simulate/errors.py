"""What is wrong with the input of a simulation, with file and line where there is one."""

from __future__ import annotations

from coe.core.errors import ConfigError


class SimulationError(ConfigError):
    """The simulation cannot be run as asked."""


class TraceError(SimulationError):
    """A trace cannot be used; the message starts with ``file:line:`` where a line is at fault."""
