"""The pool: which experts are in memory, and who may use them."""
