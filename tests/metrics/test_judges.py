"""The judges as settings name them, and entities asked from a language model."""

from __future__ import annotations

import pytest
from metric_fakes import CapitalisedEntities, row

from relearn.core import config
from relearn.core.errors import InputError, MissingPartError
from relearn.llm import Completion
from relearn.llm.cache import CachedCompleter
from relearn.metrics import judges as judges_module
from relearn.metrics.entity_coverage import coverages
from relearn.metrics.judges import Judges, PromptedEntities, entity_prompt, make_judges, parse_entities
from relearn.text.entities import ExactMatcher

TEXT = "Marta Lindqvist, a biologist, lives in Torvik."


class Scripted:
    """A completer that answers by the text asked about."""

    name = "scripted"

    def __init__(self, answers: dict[str, Completion]):
        self.answers = answers
        self.asked: list[str] = []

    def complete(self, prompts):
        self.asked.extend(prompt.fields["text"] for prompt in prompts)
        return [self.answers.get(prompt.fields["text"], Completion("None")) for prompt in prompts]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Marta Lindqvist, biologist, Torvik", ["Marta Lindqvist", "biologist", "Torvik"]),
        ("Entities: Torvik, 'biologist'.", ["Torvik", "biologist"]),
        ("None", []),
        ("none.", []),
        ("Torvik, None, torvik", ["Torvik"]),
        ("Torvik, Atlantis", ["Torvik"]),  # what the text does not hold is not an entity of it
        ("", None),
        ("Torvik,\nbiologist", None),
        ("Sure! Here they are:\nTorvik", None),
        ("I could not find any entity in this text", None),
    ],
)
def test_answers_are_parsed_strictly(answer, expected):
    assert parse_entities(answer, TEXT) == expected


def test_the_prompt_holds_the_text_as_it_is():
    prompt = entity_prompt("costs $5, {x} and $text")
    assert "Text: costs $5, {x} and $text" in prompt.text
    assert prompt.task == "entities"


def test_prompted_entities_failures_are_none_and_words_alone_are_sent():
    completer = Scripted({"a": Completion("Torvik"), "b": Completion(error="503"), TEXT: Completion("Torvik")})
    found = PromptedEntities(completer).extract([TEXT, "b", "a", "...", ""])
    assert found == [["Torvik"], None, None, [], []]
    assert completer.asked == [TEXT, "b", "a"]


def test_trap_13_a_cached_completer_is_asked_once_for_all_models(tmp_path):
    completer = Scripted({TEXT: Completion("Torvik"), "Torvik.": Completion("Torvik")})
    for response in ("Torvik.", "nowhere"):
        cached = CachedCompleter(completer, tmp_path / "cache.sqlite")
        judges = Judges((PromptedEntities(cached),), ExactMatcher())
        coverages([row(response, TEXT, "where?")], judges)
        cached.close()
    assert sorted(completer.asked) == sorted([TEXT, "Torvik.", "nowhere", "where?"])


def test_both_extractors_are_united_and_one_failure_is_a_failure():
    completer = Scripted({TEXT: Completion("biologist, Torvik"), "Oslo": Completion(error="timeout")})
    judges = Judges((CapitalisedEntities(), PromptedEntities(completer)), ExactMatcher())
    assert judges.entities([TEXT, "Oslo"]) == [["Marta", "Lindqvist", "Torvik", "biologist"], None]


def test_settings_name_the_judges(monkeypatch):
    monkeypatch.setattr(judges_module, "builtin_path", lambda name: f"/models/{name}")
    made = make_judges(config.Metrics(entities="both", matcher="exact"), Scripted({}))
    assert [extractor.name for extractor in made.extractors] == ["spaCy en_core_web_sm", "scripted"]
    assert isinstance(made.matcher, ExactMatcher)
    assert make_judges(config.Metrics(matcher="some/encoder")).matcher.name == "some/encoder, cosine >= 0.8"


def test_missing_packages_are_said_and_not_raised(monkeypatch):
    def missing(name):
        raise MissingPartError(f"{name} is not installed", way_out="pip install it")

    monkeypatch.setattr(judges_module, "builtin_path", missing)
    assert make_judges(config.Metrics()).missing == "en_core_web_sm is not installed -> pip install it"
    assert make_judges(config.Metrics(matcher="exact"), None).missing is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [(config.Metrics(entities="regex"), "metrics.entities"), (config.Metrics(entities="generator"), "there is none")],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make_judges(settings)
