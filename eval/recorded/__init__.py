"""Routers and aggregators measured on recorded outcomes of real models: no model runs."""
