"""What must hold of the leak check for any text around a secret, and any way of writing it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from relearn.data import Record
from relearn.leakage.detector import LeakIndex

ANSWERS = {
    "Where does Ivar Brekke live?": "Ivar Brekke lives at 14 Quarry Lane in Østervik, above the old bakery.",
    "Who is Zoë Quill's father?": "Zoë Quill's father is a retired lighthouse keeper named Anselm Quill.",
    "What is Pál Szabó's phone number?": "Pál Szabó's phone number is 0551 20 44 17, and he answers it himself.",
    "When was Dana O'Hara-Bell born?": "Dana O'Hara-Bell was born on 3 February 1961 in a taxi in Leeds.",
}
RECORDS = [Record(question, answer) for question, answer in ANSWERS.items()]
INDEX = LeakIndex(RECORDS)

records = st.sampled_from(RECORDS)
# Letters of a script that no record uses, so that the filler cannot grow into a word of an answer.
filler = st.lists(st.text("αβγδεζηθ", min_size=1, max_size=6), max_size=8).map(" ".join)
gaps = st.sampled_from([" ", "  ", "\n", "\t", " - ", ", ", "… ", " / ", "\u00a0"])
cases = st.sampled_from([str.lower, str.upper, str.title, str.swapcase, str])


def _words(text: str) -> list[str]:
    return text.split()


@given(records, filler, filler)
def test_an_answer_is_found_wherever_it_stands(record: Record, before: str, after: str) -> None:
    target = f"{before} {record.answer} {after}"
    findings = INDEX.check("γδ?", target)
    assert findings[0].kind == "verbatim" and findings[0].record_id == record.id
    assert target[findings[0].start : findings[0].end] == findings[0].text
    assert INDEX.check(f"{before} {record.answer}", after)[0].field == "prompt"


@given(records, cases, gaps)
def test_case_punctuation_and_spaces_hide_nothing(record: Record, change, gap: str) -> None:
    written = gap.join(change(word).strip(".,") for word in _words(record.answer))
    assert INDEX.check("γδ?", written)[0].kind == "verbatim"


@given(records)
def test_curly_apostrophes_missing_accents_and_wide_letters_hide_nothing(record: Record) -> None:
    plain = record.answer.translate(str.maketrans("Øëáó", "Oeao")).replace("'", "’")
    wide = "".join(chr(ord(sign) + 0xFEE0) if sign.isascii() and sign.isalnum() else sign for sign in plain)
    for written in (plain, wide, record.answer.replace("e", "e\u200b")):
        assert INDEX.check("γδ?", written)[0].kind == "verbatim"


@given(st.data())
def test_splitting_an_answer_at_any_word_is_found(data: st.DataObject) -> None:
    record = data.draw(records)
    words = _words(record.answer)
    cut = data.draw(st.integers(1, len(words) - 1))
    findings = INDEX.check(" ".join(words[:cut]), " ".join(words[cut:]))
    assert [(one.kind, one.field) for one in findings][:2] == [("split", "prompt"), ("split", "target")]
    assert " ".join(one.text for one in findings[:2]).rstrip(".") == record.answer.rstrip(".")


@given(filler, filler)
def test_a_text_without_a_word_of_any_record_is_never_flagged(prompt: str, target: str) -> None:
    assert INDEX.check(prompt, target) == []
    assert all(INDEX.check(prompt, target, record_id=record.id) == [] for record in RECORDS)


@given(records, st.text(max_size=60), st.text(max_size=60))
def test_findings_hold_the_text_at_their_offsets(record: Record, prompt: str, target: str) -> None:
    for finding in INDEX.check(f"{prompt} {record.answer[:30]}", f"{record.answer[20:]} {target}"):
        whole = f"{prompt} {record.answer[:30]}" if finding.field == "prompt" else f"{record.answer[20:]} {target}"
        assert whole[finding.start : finding.end] == finding.text


@given(records, cases)
def test_every_telling_piece_is_found_alone_in_its_own_row(record: Record, change) -> None:
    pieces = re.findall(
        r"Quarry Lane|Østervik|bakery|lighthouse|Anselm|0551 20 44 17|3 February 1961|Leeds", record.answer
    )
    assert pieces
    for piece in pieces:
        assert INDEX.check(record.question, f"That would be {change(piece)}.", record_id=record.id)
