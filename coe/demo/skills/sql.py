"""SQL over one table: projections, one condition, counts, aggregates, top n. Checked by execution."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence

from coe.demo.skill import Draw, Fields, Phrasing, Question, Skill
from coe.demo.skills.extraction import CITIES, COLORS, NAMES, PRODUCTS

_TITLES = ("Dawn", "River", "Storm", "Garden", "Mirror", "Winter", "Island", "Shadow", "Bridge", "Harvest")
_WORDS = ("apple", "stone", "cloud", "music", "window", "forest", "pepper", "silver", "table", "orange")

# A column is text when it lists its values, a whole number when it is a range.
_Column = Sequence[str] | range
_TABLES: Mapping[str, Mapping[str, _Column]] = {
    "users": {"name": NAMES, "city": CITIES, "age": range(18, 80)},
    "employees": {"name": NAMES, "team": ("sales", "support", "legal", "research"), "salary": range(20, 99)},
    "products": {"product": PRODUCTS, "color": COLORS, "price": range(5, 200), "stock": range(1, 90)},
    "orders": {"customer": NAMES, "item": PRODUCTS, "amount": range(5, 300)},
    "books": {"title": _TITLES, "author": NAMES, "year": range(1950, 2020)},
    "movies": {"title": _TITLES, "genre": ("drama", "comedy", "horror", "crime"), "rating": range(1, 99)},
    "students": {"name": NAMES, "subject": ("math", "history", "biology", "music"), "score": range(10, 100)},
    "cars": {"model": ("Astra", "Focus", "Golf", "Polo", "Yaris"), "color": COLORS, "speed": range(90, 250)},
    "flights": {"origin": CITIES, "destination": CITIES, "duration": range(30, 600)},
    "events": {
        "event": ("fair", "concert", "parade", "race", "lecture"),
        "month": ("March", "April", "May", "June", "July"),
        "guests": range(10, 500),
    },
    "words": {"word": _WORDS, "language": ("English", "French", "German", "Spanish"), "length": range(3, 40)},
    "parcels": {"sender": NAMES, "city": CITIES, "weight": range(1, 60)},
}


def _plural(column: str) -> str:
    return column if column.endswith("s") else f"{column}s".replace("ys", "ies")


def _fields(
    rng: random.Random, table: str, answer: str, probe: Mapping[str, str | int], **fields: object
) -> Fields:
    columns = {
        name: [values.start, values.stop] if isinstance(values, range) else list(values)
        for name, values in _TABLES[table].items()
    }
    # Columns in any order: the answer must be read off the schema, not recalled from the table's name.
    order = ", ".join(rng.sample(list(columns), len(columns)))
    return {
        **fields,
        "table": table,
        "schema": f"{table}(id, {order})",
        "answer": answer,
        "evidence": {"table": table, "columns": columns, "probe": dict(probe)},
    }


def _table(rng: random.Random, only: str) -> tuple[str, list[str], list[str]]:
    """A table (``only`` that one, if named) with its text and its number columns, in random order."""
    table = only or rng.choice(list(_TABLES))
    columns = list(_TABLES[table])
    rng.shuffle(columns)
    numbers = [name for name in columns if isinstance(_TABLES[table][name], range)]
    return table, [name for name in columns if name not in numbers], numbers


def _project(width: int) -> Draw:
    def draw(rng: random.Random) -> Fields:
        table, texts, numbers = _table(rng, "")
        names = rng.sample(texts + numbers, width)
        return _fields(
            rng,
            table,
            f"SELECT {', '.join(names)} FROM {table}",
            {},
            shown=names[0],
            showns=_plural(names[0]),
            other=names[-1],
            others=_plural(names[-1]),
        )

    return draw


def _where(
    sign: str, *, text: bool = False, count: bool = False, only: str = "", tested: str = "", shown: str = ""
) -> Draw:
    """One condition. ``only``, ``tested`` and ``shown`` pin the columns a natural wording speaks of."""

    def draw(rng: random.Random) -> Fields:
        table, texts, numbers = _table(rng, only)
        column = tested or (texts[0] if text else numbers[0])
        target = shown or next(name for name in texts + numbers if name != column)
        values = _TABLES[table][column]
        # Away from the ends of its range, so that no condition is empty or always true.
        value: str | int = rng.choice(values[2:-2]) if isinstance(values, range) else rng.choice(values)
        literal = f"'{value}'" if isinstance(value, str) else value
        what = "COUNT(*)" if count else target
        return _fields(
            rng,
            table,
            f"SELECT {what} FROM {table} WHERE {column} {sign} {literal}",
            {column: value},
            shown=target,
            showns=_plural(target),
            tested=column,
            value=value,
        )

    return draw


def _aggregate(function: str) -> Draw:
    def draw(rng: random.Random) -> Fields:
        table, _, numbers = _table(rng, "")
        column = "*" if function == "COUNT" else numbers[0]
        return _fields(rng, table, f"SELECT {function}({column}) FROM {table}", {}, tested=column)

    return draw


def _top(direction: str, *, by_text: bool = False) -> Draw:
    def draw(rng: random.Random) -> Fields:
        table, texts, numbers = _table(rng, "")
        target = texts[0]
        # A text column may hold ties, harmless only when it is itself what is shown.
        column, limit = target if by_text else numbers[0], rng.randint(2, 9)
        return _fields(
            rng,
            table,
            f"SELECT {target} FROM {table} ORDER BY {column}{direction} LIMIT {limit}",
            {},
            shown=target,
            showns=_plural(target),
            tested=column,
            n=limit,
        )

    return draw


_MORE, _LESS, _IS, _EQUALS = _where(">"), _where("<"), _where("=", text=True), _where("=")
_COUNT_MORE, _COUNT_LESS = _where(">", count=True), _where("<", count=True)
_COUNT_IS = _where("=", text=True, count=True)
_LARGEST, _SMALLEST, _ALPHABETICAL = _top(" DESC"), _top(""), _top("", by_text=True)
_OLDER = _where(">", only="users", tested="age", shown="name")
_YOUNGER = _where("<", only="users", tested="age", shown="name")
_LONGER = _where(">", only="words", tested="length", shown="word")
_SHORTER = _where("<", only="words", tested="length", shown="word")
_IN_MONTH = _where("=", text=True, only="events", tested="month", shown="event")

_OVER = ("above", "over", "greater than", "more than", "higher than", ">")
_UNDER = ("below", "under", "less than", "lower than", "smaller than", "<")
_HIGH, _LOW = ("highest", "largest", "maximum", "biggest"), ("lowest", "smallest", "minimum")
_COMPARE = (
    "{showns} of {table} with {tested} <word> {value}?",
    "Show the {shown} where {tested} is <word> {value}.",
    "List {showns} with {tested} <word> {value}.",
    "Get {showns} if {tested} is <word> {value}.",
    "Which {table} have {tested} <word> {value}? Give the {shown}.",
)
_COMPARE_COUNT = (
    "How many {table} have {tested} <word> {value}?",
    "Count the {table} with {tested} <word> {value}.",
    "Number of {table} with {tested} <word> {value}?",
)
_EXTREME = ("What is the <word> {tested}?", "The <word> {tested} of {table}?", "Find the <word> {tested}.")
_RANKED = (
    "The {shown} of the {n} {table} with the <word> {tested}?",
    "{showns}, <word> {tested} first, only {n}.",
    "List the {n} {showns} with the <word> {tested}.",
    "{n} {showns} by {tested}, <word> first.",
)
_ALL = ("",)
_Asks = tuple[tuple[Draw, tuple[str, ...], tuple[str, ...]], ...]
# Each request meets the words that may stand at its <word>, in rotation.
_TRAIN: _Asks = (
    (_project(1), _ALL, ("List all {showns}.", "Show the {shown} of all {table}.", "Get every {shown}.")),
    (
        _project(2),
        _ALL,
        (
            "Show {shown} and {other} of all {table}.",
            "List every {shown} with its {other}.",
            "Get {showns} and {others}.",
        ),
    ),
    (_MORE, _OVER, _COMPARE),
    (_LESS, _UNDER, _COMPARE),
    (
        _IS,
        _ALL,
        (
            "{showns} of {table} with {tested} {value}?",
            "Show the {shown} where {tested} is {value}.",
            "List {showns} of {table} whose {tested} is {value}.",
            "{showns} if {tested} = {value}?",
        ),
    ),
    (
        _EQUALS,
        ("exactly", "equal to"),
        (
            "Show the {shown} where {tested} is <word> {value}.",
            "{showns} of {table} with {tested} <word> {value}?",
        ),
    ),
    (_OLDER, _ALL, ("Names of users older than {value}?", "Users over {value} years? Give the name.")),
    (_YOUNGER, _ALL, ("Names of users younger than {value}?", "Users under {value} years? Give the name.")),
    (_aggregate("COUNT"), _ALL, ("How many {table} are there?", "Count the {table}.", "Number of {table}?")),
    (_COUNT_MORE, _OVER, _COMPARE_COUNT),
    (_COUNT_LESS, _UNDER, _COMPARE_COUNT),
    (
        _COUNT_IS,
        _ALL,
        (
            "How many {table} have {tested} {value}?",
            "Number of {table} if {tested} is {value}?",
            "Count the {table} whose {tested} is {value}.",
        ),
    ),
    (_aggregate("MAX"), _HIGH, _EXTREME),
    (_aggregate("MIN"), _LOW, _EXTREME),
    (_aggregate("AVG"), ("average", "mean"), _EXTREME),
    (_LARGEST, _HIGH, _RANKED),
    (_SMALLEST, _LOW, _RANKED),
    (_LARGEST, _ALL, ("Top {n} {showns} by {tested}?",)),
    (_SMALLEST, _ALL, ("Bottom {n} {showns} by {tested}?",)),
    (_ALPHABETICAL, _ALL, ("First {n} {showns} in alphabetical order?", "{n} {showns} from A to Z?")),
)
_TRAIN_AMBIGUOUS: _Asks = (
    (_LONGER, _ALL, ("Words with more than {value} letters?", "Which words are longer than {value}?")),
    (_SHORTER, _ALL, ("Words with less than {value} letters?", "Which words are shorter than {value}?")),
    (_ALPHABETICAL, _ALL, ("Sort {showns} alphabetically, show {n}.", "Get {n} {showns} sorted by {shown}.")),
    (_IN_MONTH, _ALL, ("Which events are in {value}? Give the event.", "Events on the calendar of {value}?")),
    (_aggregate("AVG"), _ALL, ("Calculate the mean of the {tested}.", "Add up and average {tested}.")),
    (_MORE, _ALL, ("Is it true that {tested} > {value}? Show the {shown}.",)),
    (_COUNT_IS, _ALL, ("How big is the set of {table} with {tested} {value}?",)),
    (_LARGEST, _ALL, ("Sort by {tested}, largest first, and show {n} {showns}.",)),
)
_OPENINGS = (
    "Table {schema}. ",
    "Given table {schema}: ",
    "{schema}. ",
    "Schema: {schema}. ",
    "Table {schema}. Write SQL. ",
    "SQL for table {schema}. ",
    "Query {schema}: ",
)
# Each request meets two openings: all pairs would only repeat the same lesson.
_TURNS = 2

_TEST_PLAIN: tuple[tuple[Draw, str], ...] = (
    (_project(1), "Database table {schema}. Return each {shown} in {table}."),
    (_project(2), "Table {schema}. Print the {shown} and the {other} for all rows."),
    (_MORE, "We have {schema}. Find {showns} of {table} whose {tested} exceeds {value}."),
    (_LESS, "Table: {schema}. Return {showns} having {tested} smaller than {value}."),
    (_OLDER, "Write a query on {schema}. Who is older than {value}? Names only."),
    (_IS, "Using {schema}, find the {shown} of {table} that have {value} as {tested}."),
    (_COUNT_MORE, "Table {schema}. In how many {table} is {tested} higher than {value}?"),
    (_COUNT_IS, "Database: {schema}. Give the number of {table} having {tested} equal to {value}."),
    (_aggregate("MAX"), "Table {schema}. Give the biggest {tested} among {table}."),
    (_aggregate("MIN"), "There is a table {schema}. Return the least {tested}."),
    (_LARGEST, "Table {schema}. Return {n} {showns}, those with the greatest {tested}."),
    (_SMALLEST, "Using {schema}, give {n} {showns} that have the lowest {tested}."),
)
_TEST_AMBIGUOUS: tuple[tuple[Draw, str], ...] = (
    (_ALPHABETICAL, "Table {schema}. Put the {showns} in alphabetical order and keep the first {n}."),
    (_aggregate("AVG"), "Table: {schema}. Compute the arithmetic mean of {tested}."),
    (_SHORTER, "We have {schema}. Find words made of fewer than {value} letters."),
    (_IN_MONTH, "Database table {schema}. What events take place in the month of {value}?"),
    (_COUNT_LESS, "Table {schema}. Size of the set of {table} where {tested} < {value} is true?"),
)


def _train(asks: _Asks, ambiguous: bool) -> tuple[Phrasing, ...]:
    rows = [(draw, words, ask) for draw, words, group in asks for ask in group]
    size = len(_OPENINGS)
    return tuple(
        Phrasing(_OPENINGS[turn % size] + ask.replace("<word>", words[turn % len(words)]), draw, ambiguous)
        for number, (draw, words, ask) in enumerate(rows)
        for turn in range(number * _TURNS, (number + 1) * _TURNS)
    )


_ROWS, _DATASETS = 24, 3
_MAX_QUERY, _MAX_STEPS = 400, 200_000
_FUNCTIONS = frozenset({"count", "max", "min", "avg", "sum", "total", "lower", "upper", "round", "abs"})


def _values(rng: random.Random, column: Sequence[object], probe: object, distinct: bool) -> list[object]:
    """One column. A probed value is always there, next to its neighbours: > must differ from >=."""
    if isinstance(column[0], int) and isinstance(column[1], int):
        near = [probe - 1, probe, probe + 1] if isinstance(probe, int) else []
        far = [value for value in range(column[0], column[1]) if value not in near]
        rows: list[object] = [*near, *rng.sample(far, min(len(far), _ROWS - len(near)))]
        # Repeats tell SELECT from SELECT DISTINCT, but would leave a top n undefined.
        rows = rows if distinct else [*rows[: _ROWS // 2], *rows[: _ROWS // 2]]
    else:
        rows = ([] if probe is None else [probe] * 3) + rng.choices(column, k=_ROWS)
    rows = rows[:_ROWS]
    rng.shuffle(rows)
    return rows


def _authorise(action: int, _first: str | None, second: str | None, *_: str | None) -> int:
    """Reading and plain functions only: no writes, no recursion, no pattern that backtracks for ever."""
    allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ) or (
        action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _database(evidence: Mapping[str, object], dataset: int, distinct: bool) -> sqlite3.Connection:
    table, columns, probe = evidence["table"], evidence["columns"], evidence["probe"]
    assert isinstance(columns, Mapping)
    assert isinstance(probe, Mapping)
    rng = random.Random(f"{table}/{dataset}")
    data = [_values(rng, values, probe.get(name), distinct) for name, values in columns.items()]
    base = sqlite3.connect(":memory:")
    kinds = ["TEXT" if isinstance(values[0], str) else "INTEGER" for values in columns.values()]
    declared = ", ".join(f"{name} {kind}" for name, kind in zip(columns, kinds, strict=True))
    base.execute(f"CREATE TABLE {table} (id INTEGER, {declared})")
    marks = ", ".join("?" * (len(data) + 1))
    base.executemany(f"INSERT INTO {table} VALUES ({marks})", zip(range(1, _ROWS + 1), *data, strict=True))
    base.set_authorizer(_authorise)
    return base


def _run(base: sqlite3.Connection, query: str) -> list[tuple[object, ...]]:
    # The handler's first call ends the query, so it bounds the work whatever the machine's speed.
    base.set_progress_handler(lambda: 1, _MAX_STEPS)
    return base.execute(query).fetchmany(_ROWS * 2)


def _same_rows(question: Question, output: str) -> bool:
    """Both queries give the same rows on every dataset; in the same order if the reference orders them."""
    query = output.strip().removesuffix(";")
    if len(query) > _MAX_QUERY or query[:6].upper() != "SELECT":
        return False
    ordered = " ORDER BY " in question.answer
    for dataset in range(_DATASETS):
        base = _database(question.evidence, dataset, ordered)
        try:
            wanted, found = _run(base, question.answer), _run(base, query)
        except (sqlite3.Error, sqlite3.Warning, ValueError):
            return False
        finally:
            base.close()
        if wanted != found if ordered else Counter(wanted) != Counter(found):
            return False
    return True


SKILL = Skill(
    name="sql",
    card="SQL: writes one SELECT query over a single table whose columns the question gives.",
    train=_train(_TRAIN, False) + _train(_TRAIN_AMBIGUOUS, True),
    test=tuple(Phrasing(text, draw) for draw, text in _TEST_PLAIN)
    + tuple(Phrasing(text, draw, ambiguous=True) for draw, text in _TEST_AMBIGUOUS),
    check=_same_rows,
    max_tokens=32,
)
