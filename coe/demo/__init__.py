"""The CPU demonstration pool: skills, their questions, and the specialists fine-tuned on them."""
