"""How an expert joins: profile, gate, registry edit."""
