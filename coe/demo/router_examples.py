"""Labelled texts from which the demonstration's category router learns what each skill looks like.

They come from the train phrasings only, so they share none with the test questions. General questions,
which belong to the base model, are written out here.
"""

from __future__ import annotations

from coe.demo.questions import distinct_questions
from coe.demo.skills import all_skills

EXAMPLES_SEED = 7

GENERAL = (
    "What is the capital of France?",
    "Who wrote Romeo and Juliet?",
    "Tell me a short joke.",
    "How are you today?",
    "Write a poem about the sea.",
    "Explain photosynthesis in simple words.",
    "What should I cook for dinner tonight?",
    "Give me three tips for better sleep.",
    "Why is the sky blue?",
    "Who was the first person on the moon?",
    "Recommend a good book for a long train ride.",
    "Summarise the plot of Cinderella.",
    "What is the largest ocean on Earth?",
    "How do vaccines work?",
    "Write a polite email to my landlord about the broken heating.",
    "What is the difference between a virus and a bacterium?",
    "Describe the city of Rome to a tourist.",
    "What does the word serendipity mean?",
    "Translate good morning into Spanish.",
    "Who painted the Mona Lisa?",
    "What causes earthquakes?",
    "Give me advice for a job interview.",
    "How does a refrigerator keep food cold?",
    "Tell me about the history of chess.",
    "What are the ingredients of a pizza dough?",
    "Write a story about a dragon and a knight.",
    "Is it healthy to drink coffee every morning?",
    "What is the meaning of life?",
    "How do I learn to play the guitar?",
    "Name a few famous composers.",
    "What is climate change?",
    "Say hello to my friend Maria.",
    "What can you do?",
    "Hello!",
    "Thank you, that was helpful.",
    "Give me ideas for a birthday present.",
    "How do planes fly?",
    "What is democracy?",
    "Which animals live in the desert?",
    "Write a slogan for a bakery.",
)


def router_examples(per_skill: int = 120) -> list[tuple[str, str]]:
    """``(text, category)`` pairs; the category is the skill's name, or ``general``."""
    pairs = [
        (question.text, skill.name)
        for skill in all_skills()
        for question in distinct_questions(skill, "train", per_skill, EXAMPLES_SEED)
    ]
    return pairs + [(text, "general") for text in GENERAL]
