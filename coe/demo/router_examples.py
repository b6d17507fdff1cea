"""Labelled texts from which the demonstration's category router learns what each skill looks like.

They come from the train phrasings only, so they share none with the test questions. General questions,
which belong to the base model, are written out here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

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


OTHER_LANGUAGES: Mapping[str, tuple[str, ...]] = {
    "arithmetic": (
        "Was ergibt {n} plus {m}?",
        "Addiere {n} und {m}.",
        "Ich habe {n} Euro und gebe 2 aus. Wie viel bleibt?",
        "Additionne {n} et {m}.",
        "J'ai {n} pommes et j'en mange 2. Combien en reste-t-il ?",
        "¿Cuántos son {n} menos 2?",
        "Tengo {n} manzanas y compro {m} más. ¿Cuántas tengo?",
    ),
    "units": (
        "Wie viele Zentimeter sind {n} Meter?",
        "Was sind {n} Liter in Milliliter?",
        "Combien de grammes y a-t-il dans {n} kilos ?",
        "{n} mètres, c'est combien de centimètres ?",
        "Convierte {n} horas a minutos.",
        "{n} kilómetros en metros",
    ),
    "calendar": (
        "Welcher Tag ist {n} Tage nach Montag?",
        "Welcher Monat kommt 2 Monate vor Juni?",
        "Quel jour sera-t-on 4 jours après mercredi ?",
        "Quel mois précède avril de 3 mois ?",
        "¿Qué día de la semana es 2 días antes del jueves?",
        "¿Qué mes es 3 meses antes de octubre?",
    ),
    "json": (
        "Lies Name und Alter aus und gib JSON zurück: Anna ist {n} Jahre alt.",
        "Erstelle ein JSON mit Name und Beruf: Peter ist Lehrer.",
        "Mets le produit et le prix en JSON : la lampe coûte {n} euros.",
        "Devuelve nombre y edad en JSON: Ana tiene {n} años.",
        "Haz un JSON con nombre y oficio: Luis es médico.",
    ),
    "sql": (
        "Tabelle users(id, name, age). Namen aller Nutzer über {n}?",
        "Table users(id, name, age). Les noms des utilisateurs de plus de {n} ans ?",
        "Tabla users(id, name, age). ¿Nombres de los usuarios mayores de {n}?",
    ),
    "letters": (
        "Was ist der erste Buchstabe von Haus?",
        "Wie lautet der Plural von mouse?",
        "Quelle est la dernière lettre du mot maison ?",
        "Mets le mot jardin en majuscules.",
        "Deletrea la palabra gato con guiones.",
    ),
    "logic": (
        "a ist wahr und b ist falsch. Was ist a oder b?",
        "p est vrai et q est faux. Que vaut p et q ?",
        "p es verdadero y q es falso. ¿Cuánto vale p o q?",
    ),
    "sorting": (
        "Sortiere die Zahlen {n}, {m}, 4 von klein nach groß.",
        "Welche Zahl ist die größte: {n}, {m}, 8?",
        "Range poire, figue, pomme par ordre alphabétique.",
        "Ordena los números {n}, {m}, 4 de mayor a menor.",
        "¿Cuál es el mayor de {n}, {m}, 8?",
    ),
    "regex": (
        "Schreibe einen regulären Ausdruck für drei Ziffern.",
        "Écris une expression régulière pour trois chiffres.",
        "Escribe una expresión regular para tres dígitos.",
    ),
    "general": (
        "Hallo, wie geht's?",
        "Erzähl mir etwas über die Römer.",
        "Was soll ich heute kochen?",
        "Bonjour, comment ça va ?",
        "Qui a peint la Joconde ?",
        "Que dois-je cuisiner ce soir ?",
        "¿Cuál es la capital de Francia?",
        "¿Por qué el cielo es azul?",
    ),
}
"""German, French and Spanish: a question's language says nothing of its skill."""


def router_examples(per_skill: int = 120) -> list[tuple[str, str]]:
    """``(text, category)`` pairs; the category is the skill's name, or ``general``."""
    pairs = [
        (question.text, skill.name)
        for skill in all_skills()
        for question in distinct_questions(skill, "train", per_skill, EXAMPLES_SEED)
    ]
    return [*pairs, *((text, "general") for text in GENERAL), *_in_other_languages()]


def _in_other_languages() -> Iterator[tuple[str, str]]:
    rng = random.Random(EXAMPLES_SEED)
    for skill, texts in OTHER_LANGUAGES.items():
        for text in texts:
            yield text.format(n=rng.randint(3, 60), m=rng.randint(3, 60)), skill
