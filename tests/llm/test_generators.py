"""Generator names, and what of a text is whole."""

from __future__ import annotations

import pytest

from relearn.core.config import Synthesis
from relearn.core.errors import InputError
from relearn.llm.completer import drop_truncated_sentence, estimated_tokens, strip_reasoning
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
    assert set(GENERATORS) == {"openai", "self", "templates", "transformers"}
    assert all(GENERATORS.get(name).about for name in GENERATORS)
    assert find_generator("openai:org/model:free")[1] == "org/model:free"


def test_templates_write_offline():
    completer = make_completer("templates", Synthesis(), None)
    assert completer.complete([]) == [] and remote_host("templates") is None


def test_whole_part_ends_with_the_last_sentence_or_line():
    assert drop_truncated_sentence("1. One here.\n2. Two is cu") == "1. One here."
    assert drop_truncated_sentence("no end at all") == ""
    assert drop_truncated_sentence('She said "yes!" and then') == 'She said "yes!"'
    assert drop_truncated_sentence("first line\nsecond li") == "first line"


def test_thoughts_are_taken_out_even_when_they_never_end():
    assert strip_reasoning("<think>a\nb</think> yes") == "yes"
    assert strip_reasoning("<think>a\nb") == ""


def test_estimated_tokens_are_characters_over_four_rounded_up():
    assert [estimated_tokens("x" * length) for length in (0, 1, 4, 5)] == [0, 1, 1, 2]
