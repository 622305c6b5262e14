"""Normal forms of text: tokens, words, plurals, street names, numbers in words, entities, and word lists."""

from __future__ import annotations

import pytest

from relearn.text.normalize import (
    entity_form,
    find_numerals,
    is_function_word,
    is_ordinary,
    norms,
    read_word_lists,
    singular,
    street_form,
    tokenise,
    words_only,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Isabella Marquez’s e-mail", "isabella marquez e mail"),
        ("Fatoumata Bâ, O'REILLY, Straße", "fatoumata ba o reilly strasse"),
        ("48,200 and 48\u202f200 but 1,2", "48200 and 48200 but 1 2"),
        ("mar\u200bta e\u0301t\u00e9 ﬁne Ｍａｒｔａ ４８", "marta ete fine marta 48"),
        ("東京に", "東 京 に"),
    ],
)
def test_equal_forms(text: str, expected: str) -> None:
    assert norms(text) == tuple(expected.split())


def test_offsets_point_into_the_given_text() -> None:
    text = "  O’Reilly’s 48,200 Straße"
    assert [text[token.start : token.end] for token in tokenise(text)] == ["O", "Reilly", "48,200", "Straße"]


@pytest.mark.parametrize(
    ("plural", "single"), [("nurses", "nurse"), ("ceremonies", "ceremony"), ("boxes", "box"), ("glass", "glass")]
)
def test_plurals(plural: str, single: str) -> None:
    assert singular(plural) == single


def test_a_text_without_case_and_punctuation_keeps_its_accents() -> None:
    assert words_only("  Élise's (old) e-mail!") == "élise s old e mail"
    assert words_only("...") == ""


def test_short_street_words_are_written_out() -> None:
    assert street_form(["12", "elm", "st"]) == ("12", "elm", "street")


def test_an_entity_has_no_article_possessive_or_plural() -> None:
    assert entity_form("the Goldsmiths' Hall") == "goldsmith hall"
    assert entity_form("About 48,200") == "48200"


def test_word_lists_are_read_by_section() -> None:
    lists = read_word_lists("relearn.text", "names.txt")
    assert {"dr", "rev"} <= lists["titles"] and "New_York" in lists["not_a_person"]
    assert not any(word.startswith(("#", "[")) for words in lists.values() for word in words)


def test_ordinary_words() -> None:
    assert is_function_word("the") and is_function_word("x") and not is_function_word("7")
    assert is_ordinary("works") and is_ordinary("families") and is_ordinary("the")
    assert not any(map(is_ordinary, ("nurse", "diabetes", "divorced", "green", "dog", "teacher", "torvik", "1987")))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("forty eight thousand two hundred", [48200]),
        ("nineteen eighty seven and twenty nineteen", [1987, 2019]),
        ("two hundred and five of three", [205, 3]),
        ("one million one hundred thousand and one", [1100001]),
        ("one of them, hundred times", []),
    ],
)
def test_numerals(text: str, values: list[int]) -> None:
    assert [value for _, _, value in find_numerals(norms(text))] == values
