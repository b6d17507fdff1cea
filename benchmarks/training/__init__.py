"""Training of the demonstration experts."""
