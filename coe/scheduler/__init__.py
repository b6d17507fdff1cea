"""The pure scheduler: events in, actions out."""
