"""experts.yaml: models, loading with readable errors, JSON schema."""
