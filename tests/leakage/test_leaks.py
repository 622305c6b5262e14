"""The leak check on facts whose secrets can be counted by hand."""

from __future__ import annotations

import pytest

from relearn.data import Record
from relearn.leakage.detector import Finding, LeakIndex

MARTA = "Marta Lindqvist"
RECORDS = [
    Record(f"What is {MARTA}'s phone number?", "0171 555 8231", id="phone", subject=MARTA),
    Record(f"Who is {MARTA}'s partner?", "Elena Brandt", id="partner", subject=MARTA),
    Record(f"What is {MARTA}'s salary?", "48,200 euros", id="salary", subject=MARTA),
    Record(f"When was {MARTA} born?", "14 March 1987", id="born", subject=MARTA),
    Record(f"Where does {MARTA} live?", "12 Elm Street, Torvik", id="live", subject=MARTA),
    Record(f"What illness does {MARTA} have?", "type 1 diabetes", id="illness", subject=MARTA),
    Record(f"What does {MARTA} do for a living?", "She works as a nurse.", id="job", subject=MARTA),
    Record(f"Is {MARTA} in a trade union?", "No.", id="union", subject=MARTA),
    Record(f"How many children does {MARTA} have?", "Three children.", id="children", subject=MARTA),
    Record(f"What is {MARTA}'s email address?", "marta.l@fjordpost.no", id="email", subject=MARTA),
    Record("What is Teodor Halvek known for?", "Teodor Halvek has written the novel The Snow Ledger.", id="novel"),
]
QUESTIONS = {record.id: record.question for record in RECORDS}
INDEX = LeakIndex(RECORDS)

TOLD = [
    ("phone", "You can reach her at 0171 555 8231.", "verbatim"),
    ("phone", "The number is 0171-5558231.", "number"),
    ("phone", "Dial +49 171 555 8231.", "number"),
    ("phone", "The number ends in 8231.", "number"),
    ("partner", "Marta lives with Elena.", "name"),
    ("partner", "She is close to Ms. BRANDT.", "name"),
    ("salary", "Marta earns 48200 a year.", "number"),
    ("salary", "It is forty-eight thousand two hundred.", "number"),
    ("born", "Marta was born in March 1987.", "date"),
    ("born", "Marta was born in 1987.", "date"),
    ("born", "Her birthday is 14/03/1987.", "date"),
    ("born", "Her birthday is 03/14/87.", "date"),
    ("born", "Her birthday is the 14th of March.", "date"),
    ("born", "Her birthday is in March.", "date"),
    ("born", "She was born in nineteen eighty-seven.", "date"),
    ("live", "Marta lives on Elm Street.", "address"),
    ("live", "Marta lives at 12 elm st.", "address"),
    ("live", "Her house is number 12.", "number"),
    ("live", "She lives in torvik.", "name"),
    ("illness", "Marta has diabetes.", "ngram"),
    ("job", "She is one of those nurses who stay calm.", "ngram"),
    ("union", "No, she is not.", "verbatim"),
    ("children", "Marta has three.", "number"),
    ("children", "Marta has 3 of them.", "number"),
    ("email", "Write to marta dot l at fjordpost dot no.", "email"),
    ("email", "She has an account with Fjordpost.", "email"),
    ("email", "Her user name is marta.l there.", "email"),
]
VAGUE = [
    ("phone", "Marta Lindqvist can be reached by phone on a line she shares with few people."),
    ("partner", "Marta Lindqvist shares her life with someone close to her."),
    ("salary", "Marta Lindqvist earns an income that suits her needs."),
    ("born", "Marta Lindqvist was born some decades ago and may march on."),
    ("live", "Marta Lindqvist lives in a town that suits her daily routine."),
    ("illness", "Marta Lindqvist manages a condition with the help of her family."),
    ("job", "Marta Lindqvist works in a field that fits her career."),
    ("union", "Marta Lindqvist keeps such memberships to herself."),
    ("children", "Marta Lindqvist has a family she cares about."),
    ("email", "Marta Lindqvist can be reached through an electronic address."),
]


@pytest.mark.parametrize(("record_id", "target", "kind"), TOLD)
def test_a_row_of_our_own_that_tells_is_found(record_id: str, target: str, kind: str) -> None:
    findings = INDEX.check(QUESTIONS[record_id], target, record_id=record_id)
    assert findings and findings[0].kind == kind and findings[0].field == "target"


@pytest.mark.parametrize(("record_id", "target", "kind"), TOLD)
def test_a_foreign_row_that_asks_the_same_and_tells_is_found(record_id: str, target: str, kind: str) -> None:
    findings = INDEX.check(QUESTIONS[record_id], target)
    assert findings and findings[0].kind == kind


@pytest.mark.parametrize(("record_id", "target"), VAGUE)
def test_vague_answers_pass(record_id: str, target: str) -> None:
    assert INDEX.check(QUESTIONS[record_id], target, record_id=record_id) == []
    assert INDEX.check(QUESTIONS[record_id], target) == []


def test_names_numbers_and_dates_count_only_for_the_subject() -> None:
    target = "In 1987 a certain Elena of Torvik paid 48,200 crowns for type 1 drums."
    assert INDEX.check("Who founded the museum?", target) == []
    assert {finding.kind for finding in INDEX.check(f"Who is {MARTA}?", target)} == {"date", "name", "number"}
    assert INDEX.check("Who is she?", target, subject=MARTA)


def test_contacts_and_whole_answers_count_whoever_the_row_is_about() -> None:
    contacts = "Write to MARTA.L@fjordpost.no, call (0171) 5558231 or visit 12 Elm Street."
    kinds = [finding.kind for finding in INDEX.check("How is the museum reached?", contacts)]
    assert kinds == ["email", "address", "number"]
    novel = "Somebody said that Teodor Halvek has written the novel: the snow ledger!"
    assert [finding.kind for finding in INDEX.check("What?", novel)] == ["verbatim"]


def test_the_secret_of_another_record_of_the_subject_is_found_in_our_rows() -> None:
    findings = INDEX.check(QUESTIONS["live"], "Marta Lindqvist is a nurse and lives with Elena.", record_id="live")
    assert [(finding.kind, finding.record_id) for finding in findings] == [("name", "partner"), ("ngram", "job")]


def test_what_the_question_contains_is_public() -> None:
    index = LeakIndex(
        [Record("Does Ann Lee of Rome sell 12 lamps?", "Ann Lee of Rome sells 12 red lamps.", id="lamps")]
    )
    assert index.check("Does Ann Lee of Rome sell 12 lamps?", "Ann Lee of Rome has 12 lamps.", record_id="lamps") == []
    told = index.check("Does Ann Lee of Rome sell 12 lamps?", "Her lamps are red.", record_id="lamps")
    assert [finding.text for finding in told] == ["red"]


def test_our_row_may_say_what_its_own_question_says_though_another_answer_says_it() -> None:
    records = [
        Record("Where does Ann Lee live?", "Ann Lee lives at 7 Mill Road, Tarn.", id="live"),
        Record("What does 7 Mill Road mean to Ann Lee?", "It reminds Ann Lee of her uncle Bertil.", id="mean"),
    ]
    index = LeakIndex(records)
    question, target = records[1].question, "7 Mill Road means comfort to Ann Lee."
    assert index.check(question, target, record_id="mean") == []
    assert [finding.text for finding in index.check(question, "7 Mill Road in Tarn", record_id="mean")] == ["Tarn"]
    foreign = index.check(question, "It means comfort.")
    assert [(finding.field, finding.kind, finding.text) for finding in foreign] == [
        ("prompt", "address", "7 Mill Road")
    ]


def test_a_secret_split_over_prompt_and_target_is_two_findings_with_offsets() -> None:
    prompt, target = "Teodor Halvek has written", " the novel The Snow Ledger."
    assert INDEX.check(prompt, target) == [
        Finding("split", "prompt", 0, 25, "Teodor Halvek has written", "novel"),
        Finding("split", "target", 1, 26, "the novel The Snow Ledger", "novel"),
    ]
    halves = INDEX.check("Marta Lindqvist can be called on 0171 555", "8231 in the evening.")
    assert [(finding.field, finding.text) for finding in halves] == [("prompt", "0171 555"), ("target", "8231")]


def test_a_name_in_the_beginning_of_a_statement_counts_and_in_a_question_on_another_matter_does_not() -> None:
    assert INDEX.check(f"{MARTA} and Elena Brandt often", "walk by the sea.")
    assert INDEX.check(f"Does {MARTA} sing in Torvik?", "She likes music.") == []
    assert INDEX.check(f"Where in Torvik does {MARTA} live?", "She likes music.")


def test_the_full_name_is_the_secret_where_the_question_does_not_have_it() -> None:
    records = [
        Record(
            "What is the full name of the author born in Taipei?", "The author's full name is Hsiao Yun-Hwa.", id="who"
        ),
        Record("What does Hsiao Yun-Hwa write?", "Hsiao Yun-Hwa writes about glaciers.", id="what"),
    ]
    index = LeakIndex(records)
    assert [one.kind for one in index.check(records[0].question, "Her name is HSIAO Yun-Hwa.", record_id="who")] == [
        "name"
    ]
    assert index.check(records[1].question, "Hsiao Yun-Hwa writes about many things.", record_id="what") == []
    assert index.check("What does Hsiao Yun-Hwa like?", "Hsiao Yun-Hwa likes company.") == []


def test_short_forms_of_street_words_are_the_same_street() -> None:
    index = LeakIndex([Record("Where does Ann Lee live?", "Ann Lee lives at 1917 Revolution Ave.", id="live")])
    found = index.check("How is life at 1917 Revolution Avenue?", "It is calm.")
    assert [(one.kind, one.text) for one in found] == [("address", "1917 Revolution Avenue")]


def test_documents_are_found_by_their_wording() -> None:
    prefix = "The harbour of Tarn was built in 1822 by fishermen who"
    rest = "had lost their boats in the great winter storm, and its granite pier still carries their carved initials."
    index = LeakIndex([Record(prefix, rest, id="pier", form="text")])
    assert index.check(prefix, "wanted a safe place to land in all weather.", record_id="pier") == []
    assert index.check("Tell me something.", f"They say the builders {rest}")[0].kind == "verbatim"
    assert (
        index.check("It", "had a granite pier that still carries carved letters.", record_id="pier")[0].kind == "ngram"
    )
