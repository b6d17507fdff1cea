"""The composition root: everything that may know everybody."""
