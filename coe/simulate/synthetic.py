"""Made-up traces: Poisson, bursty and diurnal arrivals, and Zipf popularity of experts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from coe.core.suggest import suggest
from coe.core.types import ExpertId
from coe.simulate.errors import SimulationError, TraceError
from coe.simulate.trace import Trace, TraceRow, from_zero

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

PREFIX = "synthetic:"


@dataclass(frozen=True)
class SyntheticSpec:
    """``synthetic:KIND:n=10000,rate=2,...``. Rates in requests a second, times in seconds.

    ``cv`` (bursty): coefficient of variation of the gaps, which are gamma distributed; 1 is Poisson.
    ``period``, ``depth`` (diurnal): the rate swings as a sine between rate x (1 - depth) and (1 + depth).
    Token counts are log-normal around the means ``input`` and ``output`` with the spread ``sigma`` (the
    defaults are near the Azure conversation trace); ``service``, when given, replaces them by run times
    that are exponential with that mean.
    """

    n: int = 10_000
    rate: float = 1.0
    cv: float = 4.0
    period: float = 3_600.0
    depth: float = 0.8
    input: float = 1_150.0
    output: float = 210.0
    sigma: float = 0.8
    service: float = 0.0


def parse_synthetic(text: str) -> tuple[str, SyntheticSpec]:
    """Kind and parameters of ``synthetic:KIND[:name=value,...]``. Raises :class:`TraceError`."""
    kind, _, settings = text.removeprefix(PREFIX).partition(":")
    if kind not in ARRIVALS:
        raise TraceError(f"no synthetic trace {kind!r}", hint=suggest(kind, ARRIVALS))
    known = {field.name for field in fields(SyntheticSpec)}
    values: dict[str, float] = {}
    for setting in filter(None, settings.split(",")):
        name, _, value = (part.strip() for part in setting.partition("="))
        if name not in known:
            raise TraceError(f"--trace {text}: no setting {name!r}", hint=suggest(name, sorted(known)))
        values[name] = _positive(value, name, text)
    count = int(values.pop("n", SyntheticSpec.n))
    spec = SyntheticSpec(n=count, **values)
    if spec.n < 1 or spec.rate <= 0 or spec.cv <= 0 or spec.period <= 0 or spec.depth > 1:
        raise TraceError(
            f"--trace {text}: out of range", hint="n, rate, cv and period must be above 0, depth at most 1"
        )
    return kind, spec


def synthetic_trace(text: str, seed: int) -> Trace:
    """The same text and seed give the same trace."""
    import numpy as np

    kind, spec = parse_synthetic(text)
    random = np.random.default_rng([seed, 1])
    times = ARRIVALS[kind](spec, random)
    if spec.service:
        service = random.exponential(spec.service, spec.n)
        rows = [TraceRow(float(t), i + 1, service_s=float(service[i])) for i, t in enumerate(times)]
    else:
        tokens_in, tokens_out = (_tokens(mean, spec, random) for mean in (spec.input, spec.output))
        rows = [
            TraceRow(float(t), i + 1, float(tokens_in[i]), float(tokens_out[i])) for i, t in enumerate(times)
        ]
    return Trace(text, "synthetic", from_zero(rows))


def zipf_labels(experts: Sequence[ExpertId], count: int, exponent: float, seed: int) -> list[ExpertId]:
    """``count`` independent draws; the i-th expert (from 1) has weight ``i ** -exponent``."""
    import numpy as np

    weights = np.arange(1, len(experts) + 1, dtype=float) ** -exponent
    drawn = np.random.default_rng([seed, 2]).choice(len(experts), size=count, p=weights / weights.sum())
    return [experts[i] for i in drawn]


def parse_zipf(text: str) -> float:
    """The exponent of ``zipf:S`` (1 when left out; 0 is uniform)."""
    exponent = text.partition(":")[2] or "1.0"
    try:
        value = float(exponent)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise SimulationError(f"--assign {text}: the exponent is {exponent!r}", hint="write zipf:1.0")
    return value


def _poisson(spec: SyntheticSpec, random: np.random.Generator) -> NDArray[np.float64]:
    return random.exponential(1.0 / spec.rate, spec.n).cumsum()


def _bursty(spec: SyntheticSpec, random: np.random.Generator) -> NDArray[np.float64]:
    shape = 1.0 / spec.cv**2
    return random.gamma(shape, 1.0 / (shape * spec.rate), spec.n).cumsum()


def _diurnal(spec: SyntheticSpec, random: np.random.Generator) -> NDArray[np.float64]:
    """Poisson arrivals on a clock that runs with the rate: invert the integral of the sine on a grid."""
    import numpy as np

    events = random.exponential(1.0, spec.n).cumsum()
    pulse = 2.0 * math.pi / spec.period
    horizon = events[-1] / spec.rate + spec.period
    grid = np.linspace(0.0, horizon, max(10_000, int(200 * horizon / spec.period)))
    mass = spec.rate * (grid + spec.depth / pulse * (1.0 - np.cos(pulse * grid)))
    times: NDArray[np.float64] = np.interp(events, mass, grid)
    return times


ARRIVALS: Mapping[str, Callable[[SyntheticSpec, np.random.Generator], NDArray[np.float64]]] = {
    "poisson": _poisson,
    "bursty": _bursty,
    "diurnal": _diurnal,
}


def _tokens(mean: float, spec: SyntheticSpec, random: np.random.Generator) -> NDArray[np.float64]:
    import numpy as np

    median = math.log(max(mean, 1.0)) - spec.sigma**2 / 2.0
    return np.ceil(random.lognormal(median, spec.sigma, spec.n))


def _positive(value: str, name: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise TraceError(f"--trace {text}: {name} is {value!r}", hint="it must be a number, 0 or more")
    return number
