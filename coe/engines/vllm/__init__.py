"""Experts in vLLM processes that we start, swap and watch."""
