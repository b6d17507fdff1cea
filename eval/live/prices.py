"""Prices of experts, and what an answer cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coe.core.errors import ConfigError
from coe.core.files import readable
from coe.eval.live.service import Reply
from coe.eval.live.tables import csv_rows


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float


Prices = Mapping[str, Price]


def read_prices(path: Path | None) -> Prices:
    """From a CSV (expert, input_usd_per_mtok, output_usd_per_mtok) or an experts.yaml.

    Experts without a price are left out. Raises ConfigError.
    """
    if path is None:
        return {}
    with readable(path):
        text = path.read_text(encoding="utf-8")
    return _from_csv(path, text) if path.suffix == ".csv" else _from_registry(path, text)


def _from_csv(path: Path, text: str) -> Prices:
    rows = csv_rows(text)
    if rows and "expert" not in rows[0]:
        raise ConfigError(f"{path} lacks the column expert")
    known = (
        (str(row["expert"]), _price(row.get("input_usd_per_mtok"), row.get("output_usd_per_mtok")))
        for row in rows
    )
    return {expert: price for expert, price in known if price is not None}


def _from_registry(path: Path, text: str) -> Prices:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        experts = (YAML(typ="safe").load(text) or {}).get("experts") or []
        priced = ((str(expert["id"]), expert.get("price") or {}) for expert in experts)
        known = ((expert, _price(price.get("input"), price.get("output"))) for expert, price in priced)
        return {expert: price for expert, price in known if price is not None}
    except (YAMLError, AttributeError, KeyError, TypeError):
        raise ConfigError(f"{path} is not an experts.yaml", hint="Check it with `coe check`.") from None


def _price(paid_in: Any, paid_out: Any) -> Price | None:
    try:
        price = Price(float(paid_in), float(paid_out))
    except (TypeError, ValueError):
        return None
    return price if math.isfinite(price.input) and math.isfinite(price.output) else None


def cost_of(reply: Reply, prices: Prices) -> float | None:
    """Dollars of one answer; None where tokens or a price are not known.

    With several legs the prompt tokens are taken in equal parts: each leg read the same question.
    """
    legs = (reply.receipt or {}).get("legs") or []
    if reply.prompt_tokens is None:
        return None
    if len(legs) < 2:
        return _leg_cost(prices.get(reply.expert), reply.prompt_tokens, reply.completion_tokens)
    share = reply.prompt_tokens / len(legs)
    costs = [_leg_cost(prices.get(leg["expert"]), share, leg.get("tokens")) for leg in legs]
    return None if any(cost is None for cost in costs) else sum(cost or 0.0 for cost in costs)


def _leg_cost(price: Price | None, read: float, written: int | None) -> float | None:
    if price is None or written is None:
        return None
    return (read * price.input + written * price.output) / 1e6
