"""The learned combiner of answers: features, training, tables, stopping rule."""
