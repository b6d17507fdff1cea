"""What a request has used, from its receipt and the registry's prices."""

from __future__ import annotations

from coe.access.doorman import Used
from coe.registry.models import Registry
from coe.types import Leg, Receipt

CHARS_PER_TOKEN = 4.0
"""Where an expert does not say how long a prompt was (a stream without usage)."""


def used(receipt: Receipt, registry: Registry, prompt_chars: int) -> Used:
    """Summed over all legs, those included that failed or were not needed: their time was used too."""
    total = Used()
    for leg in receipt.legs:
        prompt, completion = _tokens(leg, prompt_chars)
        expert = registry.expert(leg.expert)
        price = expert.price if expert else None
        usd = (prompt * price.input + completion * price.output) / 1e6 if price else 0.0
        total = Used(
            tokens=total.tokens + prompt + completion,
            usd=total.usd + usd,
            gpu_seconds=total.gpu_seconds + (leg.run_ms or 0.0) / 1000,
            swaps=total.swaps + (leg.wake_from != "awake"),
        )
    return total


def _tokens(leg: Leg, prompt_chars: int) -> tuple[float, float]:
    """Prompt and completion. A stream without usage is counted by its events, about one a token."""
    if leg.run_ms is None:
        return 0.0, 0.0
    prompt = float(leg.prompt_tokens) if leg.prompt_tokens is not None else prompt_chars / CHARS_PER_TOKEN
    return prompt, float(leg.tokens if leg.tokens is not None else leg.events)
