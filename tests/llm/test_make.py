"""Generator names, and what of a text is whole."""

from __future__ import annotations

import pytest

from relearn.core.config import Synthesis
from relearn.core.errors import InputError
from relearn.llm.completer import estimated_tokens, whole_part, without_thoughts
from relearn.llm.generators import GENERATORS, find_generator, make_completer, remote_host


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("template", "did you mean 'templates'"),
        ("openai", "write openai:MODEL"),
        ("openai:", "write openai:MODEL"),
        ("templates:x", "takes no model"),
        ("gpt-4", "unknown generator"),
    ],
)
def test_a_name_that_is_wrong_says_the_way_out(name, says):
    with pytest.raises(InputError, match=says):
        find_generator(name)


def test_the_known_generators():
    assert set(GENERATORS) == {"openai", "templates", "transformers"}
    assert all(GENERATORS.get(name).about for name in GENERATORS)
    assert find_generator("openai:org/model:free")[1] == "org/model:free"


def test_templates_write_offline():
    completer = make_completer("templates", Synthesis(), None)
    assert completer.complete([]) == [] and remote_host("templates") is None


def test_whole_part_ends_with_the_last_sentence_or_line():
    assert whole_part("1. One here.\n2. Two is cu") == "1. One here."
    assert whole_part("no end at all") == ""
    assert whole_part('She said "yes!" and then') == 'She said "yes!"'
    assert whole_part("first line\nsecond li") == "first line"


def test_thoughts_are_taken_out_even_when_they_never_end():
    assert without_thoughts("<think>a\nb</think> yes") == "yes"
    assert without_thoughts("<think>a\nb") == ""


def test_estimated_tokens_are_characters_over_four_rounded_up():
    assert [estimated_tokens("x" * length) for length in (0, 1, 4, 5)] == [0, 1, 1, 2]
