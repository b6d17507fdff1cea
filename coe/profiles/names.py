"""Which hub ids are the models of public outcome sets: one table, for building profiles and for finding them.

Only where the identity is certain: a name that people gave a fork or a guess is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from coe.registry.schema import Expert

HUB_IDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "DeepSeek-Coder-V2": ("deepseek-ai/DeepSeek-Coder-V2-Instruct",),
        "Llama-2-7b-hf": ("meta-llama/Llama-2-7b-hf",),
        "Llama-2-13b-hf": ("meta-llama/Llama-2-13b-hf",),
        "Llama-2-70b-hf": ("meta-llama/Llama-2-70b-hf",),
        "Meta-Llama-3-8B": ("meta-llama/Meta-Llama-3-8B",),
        "Meta-Llama-3-8B-Instruct": ("meta-llama/Meta-Llama-3-8B-Instruct",),
        "Meta-Llama-3-70B": ("meta-llama/Meta-Llama-3-70B",),
        "Meta-Llama-3.1-8B": ("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B"),
        "Meta-Llama-3.1-8B-Instruct": (
            "meta-llama/Llama-3.1-8B-Instruct",
            "meta-llama/Meta-Llama-3.1-8B-Instruct",
        ),
        "Meta-Llama-3.1-70B": ("meta-llama/Llama-3.1-70B", "meta-llama/Meta-Llama-3.1-70B"),
        "Meta-Llama-3.1-70B-Instruct": (
            "meta-llama/Llama-3.1-70B-Instruct",
            "meta-llama/Meta-Llama-3.1-70B-Instruct",
        ),
        "Mistral-7B-v0.1": ("mistralai/Mistral-7B-v0.1",),
        "Mistral-7B-Instruct-v0.1": ("mistralai/Mistral-7B-Instruct-v0.1",),
        "Mistral-7B-Instruct-v0.2": ("mistralai/Mistral-7B-Instruct-v0.2",),
        "Mixtral-8x7B-v0.1": ("mistralai/Mixtral-8x7B-v0.1",),
        "Mixtral-8x7B-Instruct-v0.1": ("mistralai/Mixtral-8x7B-Instruct-v0.1",),
        "Phi-3-mini-4k-instruct": ("microsoft/Phi-3-mini-4k-instruct",),
        "Qwen1.5-7B-Chat": ("Qwen/Qwen1.5-7B-Chat",),
        "Qwen1.5-110B": ("Qwen/Qwen1.5-110B",),
        "Yi-6B": ("01-ai/Yi-6B",),
        "Yi-6b-Chat": ("01-ai/Yi-6B-Chat",),
        "deepseek-v2-chat": ("deepseek-ai/DeepSeek-V2-Chat",),
        "gemma-7b": ("google/gemma-7b",),
        "mathstral-7B": ("mistralai/Mathstral-7B-v0.1", "mistralai/mathstral-7B-v0.1"),
    }
)
"""Name in the MMLU-Pro authors' result files -> hub ids of the same weights."""


def name_among(expert: Expert, names: Iterable[str]) -> str | None:
    """What an outcome set calls this expert: by its profile's name, its id, its model or an alias."""
    known = {name.casefold(): name for name in names}
    model = expert.model.removeprefix("hf:")
    aliases = [name for name, ids in HUB_IDS.items() if model.casefold() in {i.casefold() for i in ids}]
    wanted = [expert.profile or expert.id, model, *aliases]
    return next((known[name.casefold()] for name in wanted if name.casefold() in known), None)
