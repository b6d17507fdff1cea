"""The HTTP side: OpenAI's API, errors, SSE, receipts and metrics. Knows nothing of routing."""
