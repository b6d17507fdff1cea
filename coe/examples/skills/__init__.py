"""One module a skill; each exports ``SKILL``."""
