"""Composition of Experts: one OpenAI-compatible endpoint in front of many expert LLMs on few GPUs."""

__version__ = "0.1.0"
