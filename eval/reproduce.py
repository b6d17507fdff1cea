"""Which commands make the tables of the documentation, from a folder of recorded data.

One place names the pools and the options, so that a table in the docs and the command beside it agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POOL_A = (
    "Meta-Llama-3.1-8B-Instruct",
    "Phi-3-mini-4k-instruct",
    "mathstral-7B",
    "Meta-Llama-3-8B-Instruct",
    "DeepSeek-R1-Distill-Qwen-7B-nothinking",
    "gemma-7b",
    "Qwen1.5-7B-Chat",
    "Mistral-7B-Instruct-v0.2",
    "Yi-6b-Chat",
)
"""Nine small models."""

POOL_B = (
    "Phi-3-mini-4k-instruct",
    "Mixtral-8x7B-Instruct-v0.1",
    "mathstral-7B",
    "Meta-Llama-3.1-8B-Instruct",
    "Meta-Llama-3-8B-Instruct",
    "DeepSeek-R1-Distill-Qwen-7B-nothinking",
    "Llama-2-70b-hf",
    "Mixtral-8x7B-v0.1",
)
"""Eight of about the same accuracy."""

POOL_C = (
    "gpt-4o-2024-05-13 (early run)",
    "gemini-1.5-pro-002",
    "gemini-1.5-flash-002",
    "Meta-Llama-3.1-70B-Instruct",
    "deepseek-v2-chat",
    "Meta-Llama-3.1-8B-Instruct",
    "mathstral-7B",
    "Phi-3-mini-4k-instruct",
)
"""A ladder of prices."""


@dataclass(frozen=True)
class Table:
    """A table of the documentation: its name, and the arguments of ``coe eval`` that make it."""

    name: str
    arguments: tuple[str, ...]

    def command(self, data: Path, out: Path) -> list[str]:
        """With ``{data}`` and ``{out}`` filled in; figures go to ``out/NAME.json``."""
        filled = [argument.format(data=data, out=out) for argument in self.arguments]
        return [*filled, "--json", str(out / f"{self.name}.json")]


def _recorded(name: str, outcomes: str, pool: Sequence[str] = (), counts: str = "1") -> Table:
    page = f"{{out}}/{name}.html"
    quoted = ",".join(f'"{expert}"' for expert in pool)
    chosen = ("--pool", quoted) if pool else ()
    return Table(
        name,
        ("recorded", "--outcomes", f"{{data}}/outcomes/{outcomes}", *chosen,
         "--experts-per-query", counts, "--report", page),
    )  # fmt: skip


TABLES = (
    Table("extraction", ("extraction", "--outcomes", "{data}/outcomes/mmlu_pro")),
    _recorded("pool-a", "mmlu_pro", POOL_A, "1,3,5"),
    _recorded("pool-b", "mmlu_pro", POOL_B),
    _recorded("pool-c", "mmlu_pro", POOL_C),
    _recorded("routellm-mmlu", "routellm_mmlu"),
    _recorded("routellm-gsm8k", "routellm_gsm8k"),
    _recorded("gpqa", "gpqa"),
    _recorded("ulab", "ulab_llmrouter"),
)
