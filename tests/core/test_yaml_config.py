"""YAML that a user wrote: what is read, and every other text refused in one line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.yaml_config import MAX_CHARACTERS, apply_change, parse_yaml, read_mapping

LAUGHS = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
)
REFUSED = {
    "cycle": ("a: &x [*x]", "an anchor contains itself"),
    "cycle of two": ("a: &x {b: &y [*x]}", "an anchor contains itself"),
    "alias bomb": (LAUGHS, "more than 50,000 values"),
    "bomb of merges": (LAUGHS.replace("[x", "[{k: x}"), "more than 50,000 values"),
    "deep": (f"a: {'[' * 5000}", "nested deeper than 40 levels"),
    "deep mapping": ("".join(f"{' ' * depth}a:\n" for depth in range(500)), "nested deeper"),
    "number": ("a: 0x_", "a value cannot be read"),
    "long number": (f"a: {'9' * 5000}", "r.yaml: "),
    "large number": (f"a: {'9' * 30}", "'a' is a number of 30 digits"),
    "no number": ("a: .nan", "'a' is nan"),
    "infinite": ("a: {b: [.inf]}", "'a.b' is inf"),
    "timestamp": ("a: !!timestamp 2020-13-45", "a value cannot be read"),
    "bytes": ("a: !!binary aGFsbG8=", "'a' is a bytes"),
    "set": ("a: !!set {x, y}", "'a' is a set"),
    "python": ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "number as key": ("1: 2", 'the key 1 of the file is not a text -> put it in quotes: "1"'),
    "list as key": ("? [a, b]\n: 2", "not YAML"),
    "null as key": ("a: {null: 2}", "the key None of a"),
    "double key": ("a: 1\nb: 2\na: 3", "the key 'a' is there twice"),
    "NUL": ('a: "x\\0y"', "'a' has the character U+0000"),
    "surrogate": ('a: ["x\\ud800y"]', "'a' has the character U+D800"),
    "surrogate in a key": ('"x\\ud800y": 1', "has the character U+D800"),
    "raw control": ("a: x\x07", "not YAML"),
    "tab": ("a:\n\t- b", "not YAML"),
    "undefined alias": ("a: *x", "undefined alias"),
    "two documents": ("a: 1\n---\nb: 2", "but found another document"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_yaml_is_refused_in_one_line(name, tmp_path):
    text, expected = REFUSED[name]
    path = tmp_path / "r.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        read_mapping(path)
    message = str(caught.value)
    assert expected in message and "r.yaml" in message and "\n" not in message and len(message) < 1000
    assert time.process_time() - began < 5


def test_dates_are_text_and_numbers_are_numbers():
    text = "a: 2020-01-02\nb: 2020-13-45\nc: 2020-01-02 10:00:00\nd: 1e-3\ne: 1.0e-3\nf: on\ng: null\nh: 0x1F"
    expected = {"a": "2020-01-02", "b": "2020-13-45", "c": "2020-01-02 10:00:00", "d": "1e-3", "e": 1e-3, "f": True}
    assert parse_yaml(text, "r.yaml") == {**expected, "g": None, "h": 31}


def test_aliases_and_merges_of_ordinary_size_are_read():
    text = "base: &base {a: 1, b: [2]}\nown: {<<: *base, a: 3}\nlist: [*base, *base]"
    base = {"a": 1, "b": [2]}
    assert parse_yaml(text, "r.yaml") == {"base": base, "own": {"a": 3, "b": [2]}, "list": [base, base]}


def test_a_large_file_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("a: " + "x" * MAX_CHARACTERS)
    with pytest.raises(InputError, match="more than 1,000,000 characters -> is it the right file"):
        read_mapping(path)
    with pytest.raises(InputError, match="more than 1,000,000 characters"):
        read_mapping(Path("/dev/zero"))


@pytest.mark.parametrize("value", ["[", "{a", "*x", "&x [*x]", "0x_", "!!binary x", "\x07", '"\\ud800"', "'"])
def test_values_on_the_command_line_are_read_by_the_same_rules(value):
    with pytest.raises(InputError, match=r"^--set unlearn\.epochs"):
        apply_change({}, f"unlearn.epochs={value}")


@pytest.mark.parametrize("present", [None, {}])
def test_a_part_that_is_empty_in_the_file_can_be_filled(present):
    values = {"unlearn": present}
    apply_change(values, "unlearn.epochs=2")
    assert values == {"unlearn": {"epochs": 2}}
    with pytest.raises(InputError, match="'unlearn' has no parts"):
        apply_change({"unlearn": [1]}, "unlearn.epochs=2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"forget": ""}}, "'data.forget.0.path' is '': empty: give a path or a name"),
        ({"data": {"forget": "a" * 300}}, "too long for a path: 300 characters"),
        ({"data": {"forget": "a/" * 3000}}, "too long for a path: 6,000 characters"),
        ({"data": {"forget": "a\0b"}}, "has the character u+0000"),
        ({"model": {"name": "m", "adapter": ["x", " "]}}, "empty: give a path or a name"),
        ({"synthesis": {"file": ""}}, "'synthesis.file' is ''"),
        ({"metrics": {"ability": {"tasks": ["t.json", ""]}}}, "'metrics.ability.tasks.1' is ''"),
        ({"name": 5}, "'name' is 5: input should be a valid string -> put it in quotes: \"5\""),
        ({"seed": -1}, "'seed' is -1"),
        ({"unlearn": {"epochs": float("inf")}}, "'unlearn.epochs' is inf"),
    ],
)
def test_values_that_no_stage_could_use(change, message):
    with pytest.raises(InputError) as caught:
        Recipe.from_mapping({"model": "m", "data": {"forget": "f.jsonl"}, **change}, where="r.yaml")
    assert message in str(caught.value)
