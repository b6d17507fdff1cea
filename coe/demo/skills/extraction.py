"""Extraction: a short text becomes a flat JSON object with the two or three keys the question names."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from string import Formatter

from coe.demo.skill import Draw, Fields, Phrasing, Question, Skill

NAMES = (
    "Maria",
    "Tom",
    "Ann",
    "Peter",
    "Lucy",
    "David",
    "Emma",
    "Paul",
    "Sarah",
    "James",
    "Nina",
    "Mark",
    "Julia",
    "Simon",
    "Laura",
    "Kevin",
    "Alice",
    "Robert",
    "Clara",
    "Henry",
    "Sofia",
    "Daniel",
    "Rosa",
    "Victor",
    "Helen",
    "Oscar",
    "Diana",
    "George",
    "Irene",
    "Martin",
    "Carol",
    "Frank",
)
CITIES = (
    "Paris",
    "London",
    "Rome",
    "Madrid",
    "Berlin",
    "Lisbon",
    "Vienna",
    "Prague",
    "Dublin",
    "Oslo",
    "Athens",
    "Cairo",
    "Tokyo",
    "Delhi",
    "Boston",
    "Chicago",
    "Denver",
    "Dallas",
    "Seattle",
    "Miami",
    "Toronto",
    "Sydney",
    "Lima",
    "Milan",
    "Geneva",
    "Zurich",
    "Munich",
    "Hamburg",
    "Warsaw",
    "Budapest",
    "Helsinki",
    "Brussels",
)
_ITEMS = (
    "pens",
    "books",
    "cups",
    "chairs",
    "lamps",
    "apples",
    "shirts",
    "bags",
    "plates",
    "candles",
    "boxes",
    "towels",
    "keys",
    "pencils",
    "bottles",
    "hats",
    "shoes",
    "tables",
    "clocks",
    "mirrors",
    "brushes",
    "batteries",
    "cables",
    "stamps",
    "tickets",
    "mugs",
    "pillows",
    "forks",
    "spoons",
    "roses",
)
PRODUCTS = (
    "lamp",
    "chair",
    "desk",
    "bag",
    "shirt",
    "hat",
    "bike",
    "phone",
    "clock",
    "mirror",
    "sofa",
    "table",
    "jacket",
    "kettle",
    "camera",
    "guitar",
    "tent",
    "watch",
    "scarf",
    "vase",
    "radio",
    "toaster",
    "blanket",
    "bowl",
    "rug",
    "belt",
    "helmet",
    "pillow",
    "bench",
    "mug",
)
COLORS = ("red", "blue", "green", "black", "white", "yellow", "brown", "gray", "pink", "purple")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("January", "March", "April", "May", "June", "July", "August", "October", "December")
_JOBS = (
    "teacher",
    "nurse",
    "doctor",
    "baker",
    "driver",
    "lawyer",
    "painter",
    "pilot",
    "cook",
    "singer",
    "writer",
    "farmer",
    "dentist",
    "plumber",
    "manager",
    "waiter",
    "gardener",
    "librarian",
    "mechanic",
    "programmer",
)
_COMPANIES = (
    "Acme",
    "Globex",
    "Initech",
    "Nordica",
    "Solaris",
    "Vertex",
    "Zenith",
    "Orion",
    "Pinnacle",
    "Delta",
    "Lumina",
    "Quantum",
    "Horizon",
    "Apex",
    "Nova",
)
_SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "stormy", "clear")
_TOPICS = (
    "budget",
    "sales",
    "design",
    "hiring",
    "security",
    "planning",
    "training",
    "marketing",
    "safety",
    "quality",
)
_ROOMS = tuple(f"{letter}{number}" for letter in "ABCD" for number in range(1, 13))
_EVENTS = (
    "concert",
    "wedding",
    "parade",
    "fair",
    "lecture",
    "festival",
    "picnic",
    "marathon",
    "dinner",
    "match",
)

_Kind = Mapping[str, Sequence[str | int]]
_PERSON: _Kind = {"name": NAMES, "age": range(18, 90), "city": CITIES}
_ORDER: _Kind = {"customer": NAMES, "item": _ITEMS, "quantity": range(2, 60)}
_FLIGHT: _Kind = {"origin": CITIES, "destination": CITIES, "day": _DAYS}
_PRODUCT: _Kind = {"product": PRODUCTS, "color": COLORS, "price": range(5, 300)}
_MEETING: _Kind = {"topic": _TOPICS, "day": _DAYS, "room": _ROOMS}
_WEATHER: _Kind = {"city": CITIES, "sky": _SKIES, "temperature": range(1, 40)}
_WORK: _Kind = {"name": NAMES, "job": _JOBS, "company": _COMPANIES}
_DATES = tuple(f"{day} {month}" for month in _MONTHS for day in range(1, 31))
_EVENT: _Kind = {"event": _EVENTS, "city": CITIES, "date": _DATES}
_PARCEL: _Kind = {"sender": NAMES, "city": CITIES, "weight": range(2, 60)}

_TRAIN: tuple[tuple[_Kind, tuple[str, ...]], ...] = (
    (
        _PERSON,
        (
            "{name} is {age} years old.",
            "{name} is {age} and lives in {city}.",
            "{name}, {age}, comes from {city}.",
            "My friend {name} from {city} just turned {age}.",
            "In {city} lives {name}, aged {age}.",
            "{name} lives in {city}.",
            "At {age}, {name} moved to {city}.",
        ),
    ),
    (
        _ORDER,
        (
            "{customer} ordered {quantity} {item}.",
            "{customer} wants to buy {quantity} {item}.",
            "Please send {quantity} {item} to {customer}.",
            "An order of {quantity} {item} came from {customer}.",
            "{quantity} {item} were sold to {customer}.",
            "We need {quantity} {item}.",
        ),
    ),
    (
        _FLIGHT,
        (
            "The flight goes from {origin} to {destination}.",
            "On {day} we fly from {origin} to {destination}.",
            "The plane leaves {origin} on {day} and lands in {destination}.",
            "I need a ticket to {destination} from {origin} for {day}.",
            "The {day} flight from {origin} arrives in {destination}.",
            "She flew out of {origin} to {destination} on {day}.",
        ),
    ),
    (
        _PRODUCT,
        (
            "The {product} costs {price} dollars.",
            "The {color} {product} costs ${price}.",
            "We sell this {color} {product} for {price} dollars.",
            "For ${price} you get the {product} in {color}.",
            "A {color} {product} is on sale at ${price}.",
            "He paid {price} dollars for a {color} {product}.",
        ),
    ),
    (
        _MEETING,
        (
            "The {topic} meeting is on {day} in room {room}.",
            "On {day} we meet in room {room} to talk about {topic}.",
            "Room {room} is booked on {day} for the {topic} meeting.",
            "We meet on {day} in room {room}.",
            "Come to room {room} on {day} for the {topic} talk.",
        ),
    ),
    (
        _WEATHER,
        (
            "It is {sky} in {city} with {temperature} degrees.",
            "{city} is {sky} today, at {temperature} degrees.",
            "The weather in {city} is {sky}.",
            "With {temperature} degrees, {city} has a {sky} day.",
            "Today {city} reports {temperature} degrees and {sky} weather.",
        ),
    ),
    (
        _WORK,
        (
            "{name} is a {job} at {company}.",
            "{name} works for {company} as a {job}.",
            "{company} hired {name} as a {job}.",
            "The {job} at {company} is called {name}.",
            "{name} is a {job}.",
        ),
    ),
    (
        _EVENT,
        (
            "The {event} takes place in {city} on {date}.",
            "On {date} there is a {event} in {city}.",
            "The {event} is on {date}.",
            "{city} hosts the {event} on {date}.",
            "The {city} {event} starts on {date}.",
        ),
    ),
    (
        _PARCEL,
        (
            "{sender} sent a parcel of {weight} kg to {city}.",
            "A {weight} kg parcel from {sender} goes to {city}.",
            "The parcel from {sender} weighs {weight} kg.",
            "{sender} mailed {weight} kg to {city}.",
        ),
    ),
)
_TRAIN_AMBIGUOUS: tuple[tuple[_Kind, tuple[str, ...]], ...] = (
    (_PERSON, ("Table row: {name} | {age} | {city}.", "SELECT returned {name}, {age}, {city}.")),
    (
        _ORDER,
        (
            "The sum of the order: {quantity} {item} for {customer}.",
            "{customer} added {quantity} {item} to a list.",
        ),
    ),
    (_PRODUCT, ("Sorted by price, the {color} {product} at ${price} is first.",)),
    (_EVENT, ("Two weeks after today, on {date}, is the {event} in {city}.",)),
    (_PARCEL, ("Convert later: {sender} ships {weight} kg to {city}.",)),
    (_WORK, ("It is true that {name} is a {job} and not false that {company} pays.",)),
)
_TRAIN_ASKS = (
    "Extract {keys} as JSON: <text>",
    "<text> Return {keys} as JSON.",
    "Get {keys} from this text as JSON: <text>",
    "Make a JSON object with {keys}: <text>",
    "JSON with {keys}: <text>",
    "Text: <text> Give {keys} in JSON.",
    "Find {keys} and write JSON. <text>",
    "Read this and output {keys} as JSON: <text>",
    "<text> Extract: {keys}.",
    "Fill in the fields {keys}: <text>",
    "Turn this into JSON, keys {keys}: <text>",
    "What are {keys}? Answer in JSON. <text>",
    "<text> Write a JSON record holding {keys}.",
    "Sentence: <text> JSON keys: {keys}.",
    "Parse {keys} out of: <text>",
    "I want {keys} as a JSON object. <text>",
)
_ASKS_PER_TEXT = 3

# A test phrasing is new twice over: neither its request nor its sentence is in the training lists.
_TEST_PLAIN: tuple[tuple[_Kind, str, str], ...] = (
    (
        _PERSON,
        "Pull {keys} from the sentence into JSON: <text>",
        "{name} has lived in {city} and is now {age}.",
    ),
    (_PERSON, "<text> Show {keys} as a JSON object.", "{name} celebrates a birthday and is {age} today."),
    (_ORDER, "Represent {keys} in JSON form: <text>", "{customer} would like {quantity} {item}, please."),
    (
        _ORDER,
        "<text> Please give me JSON for {keys}.",
        "We shipped {quantity} {item} to {customer} yesterday.",
    ),
    (
        _FLIGHT,
        "Note down {keys} as JSON: <text>",
        "{day}: departure from {origin}, arrival in {destination}.",
    ),
    (
        _FLIGHT,
        "Collect {keys} in a JSON object: <text>",
        "We travel by plane from {origin} to {destination} this {day}.",
    ),
    (_PRODUCT, "<text> Put {keys} into JSON.", "The price of the {color} {product} is {price} dollars."),
    (
        _PRODUCT,
        "Take {keys} from this and reply in JSON: <text>",
        "This {product}, in {color}, is yours for ${price}.",
    ),
    (_MEETING, "Convert the note to JSON with {keys}: <text>", "{topic} meeting, {day}, room {room}."),
    (_MEETING, "Identify {keys}, JSON only: <text>", "See you in room {room} this {day} to discuss {topic}."),
    (
        _WEATHER,
        "<text> Summarise as JSON using {keys}.",
        "Expect {temperature} degrees and a {sky} sky over {city}.",
    ),
    (_WORK, "Describe this in JSON with keys {keys}: <text>", "{name} got a job at {company} as a {job}."),
    (
        _PARCEL,
        "From this text, produce JSON having {keys}: <text>",
        "{city} receives {weight} kg from {sender}.",
    ),
)
_TEST_AMBIGUOUS: tuple[tuple[_Kind, str, str], ...] = (
    (_PERSON, "Select {keys} from this row as JSON: <text>", "users: {name}, age {age}, city {city}."),
    (
        _ORDER,
        "<text> Return the JSON of {keys}, no total.",
        "Add {quantity} {item} to the bill of {customer}.",
    ),
    (
        _EVENT,
        "Which {keys} does the calendar give, as JSON? <text>",
        "The {event} in {city} falls on {date}.",
    ),
    (_EVENT, "<text> JSON for {keys}, please.", "Count the days until {date}, when {city} has its {event}."),
    (_PARCEL, "List {keys} in JSON: <text>", "{sender} measured {weight} kg for the box going to {city}."),
    (
        _PRODUCT,
        "Match {keys} in this string and give JSON: <text>",
        "{color} {product}, sorted under ${price}.",
    ),
)


def _words(keys: Sequence[str]) -> str:
    return f"{', '.join(keys[:-1])} and {keys[-1]}"


def _record(kind: _Kind, text: str) -> Draw:
    """Draws one record of ``kind``; only keys whose value ``text`` mentions may be asked for."""
    mentioned = [key for _, key, _, _ in Formatter().parse(text) if key]

    def draw(rng: random.Random) -> Fields:
        values = {key: rng.choice(choices) for key, choices in kind.items()}
        while "origin" in values and values["origin"] == values["destination"]:
            values["destination"] = rng.choice(kind["destination"])
        keys = rng.sample(mentioned, rng.randint(2, len(mentioned)))
        answer = json.dumps({key: values[key] for key in keys})
        return {**values, "keys": _words(keys), "answer": answer}

    return draw


def _phrasing(kind: _Kind, ask: str, text: str, *, ambiguous: bool = False) -> Phrasing:
    return Phrasing(ask.replace("<text>", text), _record(kind, text), ambiguous)


def _train() -> tuple[Phrasing, ...]:
    """Each sentence meets a few of the requests in rotation: all pairs would only repeat the same lesson."""
    texts = [(kind, text, False) for kind, group in _TRAIN for text in group]
    texts += [(kind, text, True) for kind, group in _TRAIN_AMBIGUOUS for text in group]
    return tuple(
        _phrasing(kind, _TRAIN_ASKS[turn % len(_TRAIN_ASKS)], text, ambiguous=ambiguous)
        for number, (kind, text, ambiguous) in enumerate(texts)
        for turn in range(number * _ASKS_PER_TEXT, (number + 1) * _ASKS_PER_TEXT)
    )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is repeated")
    return dict(pairs)


def _same_json(question: Question, output: str) -> bool:
    """JSON equality of the first line, blind to key order and spacing but not to types (34 is not "34")."""
    lines = output.strip().splitlines()
    try:
        found = json.loads(lines[0], object_pairs_hook=_unique)
    except (IndexError, ValueError, RecursionError):
        return False
    # Compared as text because Python holds True equal to 1.
    return json.dumps(found, sort_keys=True) == json.dumps(json.loads(question.answer), sort_keys=True)


SKILL = Skill(
    name="json",
    card="JSON extraction: reads a short text and returns the requested fields as a flat JSON object.",
    train=_train(),
    test=tuple(_phrasing(kind, ask, text) for kind, ask, text in _TEST_PLAIN)
    + tuple(_phrasing(kind, ask, text, ambiguous=True) for kind, ask, text in _TEST_AMBIGUOUS),
    check=_same_json,
    max_tokens=48,
)
