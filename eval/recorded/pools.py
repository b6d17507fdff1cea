"""The pools of models that the documentation measures, from the recorded MMLU-Pro answers."""

from __future__ import annotations

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
