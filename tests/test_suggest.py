"""The wording of "did you mean"."""

from __future__ import annotations

from coe.core.suggest import suggest


def test_the_nearest_name_stands_before_the_choices() -> None:
    assert (
        suggest("arithmatic", ["arithmetic", "sql"])
        == 'did you mean "arithmetic"? (choose from arithmetic, sql)'
    )


def test_of_many_choices_the_first_are_listed_and_the_rest_counted() -> None:
    told = suggest("zzz", [f"expert-{i:03}" for i in range(150)])
    assert told.startswith("choose from expert-000, ")
    assert told.endswith("expert-019 and 130 more")
