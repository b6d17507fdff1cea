"""Questions that no specialist of the demonstration covers, made by rule: greetings, next to nothing, and
other matters. None of them stands in routers/data/everyday.txt."""

from __future__ import annotations

from itertools import product

_GREETED = ("Hi", "Hello", "Good morning", "Good evening", "Hey", "Greetings", "Howdy")
_NAMED = (" there!", ", friend!", " assistant!", ", nice to meet you!", " again.")
_SMALL_TALK = (
    "thanks a lot", "thank you so much", "bye for now", "see you later", "who made you?", "are you a robot?",
    "what's your name?", "how was your day?", "that is funny", "sorry", "yes please", "never mind",
    "I'm bored", "cool", "wow", "good night", "nice", "great job", "are you there?", "can you help me?",
)  # fmt: skip
_MARKS = ("?", "!", "...", "-", "??!", "…", ".", ":)", "🙃", "👍", "🤔🤔", "—")
_FRAGMENTS = (
    "hm", "asdf", "qwerty", "foo", "xyz", "none", "undefined", "n/a", "ping", "continue", "go on", "what",
    "why", "help", "a", "the", "blah blah", "lorem ipsum", "testing", "7", "1000", "3.14",
)  # fmt: skip
_OTHER = {
    "What is the capital of {}?": ("Norway", "Peru", "Kenya", "Vietnam"),
    "Who wrote {}?": ("Don Quixote", "The Odyssey", "Moby Dick"),
    "How do I {}?": ("bake sourdough bread", "change a bicycle tyre", "remove a wine stain"),
    "Translate '{}' into Italian.": ("I love you", "where is the station", "happy birthday"),
    "Why do {}?": ("cats purr", "leaves turn red in autumn", "people dream", "onions make us cry"),
    "Recommend {}.": ("a film for a rainy evening", "a hike near Munich", "some jazz albums"),
    "Explain {} to a child.": ("gravity", "inflation", "how the heart works"),
    "Write a short poem about {}.": ("autumn", "my dog", "the moon"),
    "What are the symptoms of {}?": ("the flu", "diabetes", "a broken rib"),
    "Is it safe to {}?": ("eat raw eggs", "travel alone in Brazil", "charge a phone overnight"),
    "Who was {}?": ("Cleopatra", "Nelson Mandela", "Marie Curie"),
    "Summarise the plot of {}.": ("Hamlet", "The Lord of the Rings"),
    "What does the idiom '{}' mean?": ("spill the beans", "break a leg"),
    "Should I {}?": ("quit my job", "buy or rent a flat", "adopt a second cat"),
    "Tell me about {}.": ("the Roman Empire", "black holes", "the life of bees"),
}


def greetings() -> list[str]:
    return [*(first + rest for first, rest in product(_GREETED, _NAMED)), *_SMALL_TALK]


def next_to_nothing() -> list[str]:
    return [*_MARKS, *_FRAGMENTS]


def off_topic() -> list[str]:
    return [wording.format(each) for wording, all_of in _OTHER.items() for each in all_of]
