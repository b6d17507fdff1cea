"""Who may use the service, and how much: API keys, rate limits, budgets."""
