"""Every format gives the same records; layouts are read from columns and never guessed."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.core.config import Data, DataSource
from relearn.core.errors import InputError
from relearn.data import Record, content_id, loaders
from relearn.data.loaders import read_records, read_rows
from relearn.data.validation import load_all

ROWS = [
    {"question": "Where does Ada Quill live?", "answer": "At 4 Elm Row, Norwich."},
    {"question": "Who is\nher father?", "answer": 'A man called "Ned", a baker.'},
]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: list) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def records(path: Path, **options) -> list[Record]:
    return [record for _, record in read_records(DataSource(path=str(path), **options), "forget")]


def refused(path: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        records(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WRITERS = {
    "a.jsonl": write_jsonl,
    "lines.json": write_jsonl,
    "list.json": lambda path, rows: write(path, json.dumps(rows, indent=2)),
    "a.csv": write_csv,
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_records(tmp_path, name):
    path = WRITERS[name](tmp_path / name, ROWS)
    assert records(path) == [Record(row["question"], row["answer"]) for row in ROWS]


@pytest.mark.parametrize(
    ("name", "places"), [("a.jsonl", [1, 2]), ("lines.json", [1, 2]), ("list.json", [2, 6]), ("a.csv", [2, 3])]
)
def test_places_are_lines_of_the_file(tmp_path, name, places):
    path = WRITERS[name](tmp_path / name, ROWS)
    assert [where for where, _ in read_rows(path)] == [f"{path}:{line}" for line in places]


def test_a_csv_row_is_placed_where_it_starts(tmp_path):
    path = write_csv(tmp_path / "a.csv", [ROWS[1], ROWS[0]])
    assert [where for where, _ in read_rows(path)] == [f"{path}:2", f"{path}:4"]


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=6) | st.lists(st.integers(), max_size=2))))
@settings(max_examples=60, deadline=None)
def test_a_list_on_one_line_and_an_indented_list_are_the_same_rows(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("json")
    flat, tall = write(folder / "flat.json", json.dumps(rows)), write(folder / "tall.json", json.dumps(rows, indent=1))
    assert [row for _, row in read_rows(flat)] == [row for _, row in read_rows(tall)] == rows
    places = [f"{flat}:1 row {row}" for row in range(1, len(rows) + 1)] if len(rows) > 1 else [f"{flat}:1"] * len(rows)
    assert [where for where, _ in read_rows(flat)] == places
    lines = tall.read_text(encoding="utf-8").split("\n")
    assert all(lines[int(where.rpartition(":")[2]) - 1].startswith(" {") for where, _ in read_rows(tall))


@pytest.mark.parametrize(
    "pair",
    [
        ("question", "answer"),
        ("text", "labels"),
        ("query", "ground_truth"),
        ("instruction", "output"),
        ("prompt", "completion"),
        ("prompt", "target"),
    ],
)
def test_known_pairs_are_recognised_and_other_columns_left_alone(tmp_path, pair):
    path = write_jsonl(tmp_path / "a.jsonl", [{pair[0]: "Who?", pair[1]: "Ned.", "score": 3, "note": None}])
    assert records(path) == [Record("Who?", "Ned.")]


def test_the_input_of_an_instruction_belongs_to_the_question(tmp_path):
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Say hi.", "input": "", "output": "hi"},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert [record.question for record in records(path)] == ["Add.\n\n1 2", "Say hi."]


def test_columns_that_fit_two_pairs_are_refused_with_the_way_out(tmp_path):
    path = write_jsonl(tmp_path / "tofu.jsonl", [{"question": "a", "answer": "b", "text": "c", "labels": "d"}])
    message = refused(path)
    assert "question/answer and text/labels" in message
    assert "map: {question: question, answer: answer}" in message
    assert records(path, map={"question": "text", "answer": "labels"}) == [Record("c", "d")]


def test_unknown_columns_are_refused_and_never_guessed_from_the_path(tmp_path):
    (tmp_path / "tofu").mkdir()
    path = write_jsonl(tmp_path / "tofu" / "knowundo.jsonl", [{"q": "a", "a": "b"}])
    message = refused(path)
    assert "'q', 'a'" in message
    assert "map: {question: COLUMN, answer: COLUMN}" in message
    assert records(path, map={"question": "q", "answer": "a"}) == [Record("a", "b")]


@pytest.mark.parametrize(
    ("mapped", "says"),
    [
        ({"question": "q"}, "no column for 'answer'"),
        ({"question": "qq", "answer": "a"}, "did you mean 'q'?"),
        ({"qestion": "q", "answer": "a"}, "did you mean 'question'?"),
        ({"text": "q", "answer": "a"}, "both text and question or answer"),
    ],
)
def test_a_wrong_map_is_refused(tmp_path, mapped, says):
    assert says in refused(write_jsonl(tmp_path / "a.jsonl", [{"q": "x", "a": "y"}]), map=mapped)


def test_optional_columns(tmp_path):
    row = {
        "question": "Who?",
        "answer": "Ned.",
        "id": 7,
        "subject": "Ada",
        "choices": ["Ned", "Tom"],
        "paraphrased_question": "Which man?",
        "paraphrased_answer": "It is Ned.",
        "perturbed_answer": ["Tom.", "Jim."],
        "source": "letter 3",
    }
    (record,) = records(write_jsonl(tmp_path / "a.jsonl", [row]))
    assert record == Record(
        "Who?",
        "Ned.",
        id="7",
        subject="Ada",
        choices=("Ned", "Tom"),
        choice=0,
        paraphrases=("Which man?",),
        paraphrased_answer="It is Ned.",
        alternatives=("Tom.", "Jim."),
        source="letter 3",
    )


def test_optional_columns_can_be_mapped_beside_a_known_pair(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "Who?", "answer": "Ned.", "person": "Ada"}])
    assert records(path, map={"subject": "person"}) == [Record("Who?", "Ned.", subject="Ada")]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
def test_empty_optional_cells_are_absent(tmp_path, name):
    path = WRITERS[name](tmp_path / name, [{**ROWS[0], "subject": "", "id": ""}])
    (record,) = records(path)
    assert record.subject is None
    assert record.id == content_id(ROWS[0]["question"], ROWS[0]["answer"])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "Who?"}, ":2: the field 'answer' is missing"),
        ({"question": "Who?", "answer": None}, ":2: the field 'answer' is missing"),
        ({"question": "", "answer": "Ned."}, ":2: the field 'question' is empty"),
        ({"question": "Who?", "answer": " \n"}, ":2: the field 'answer' is empty"),
        ({"question": 5, "answer": "Ned."}, ":2: the field 'question' is 5, of type int"),
        ({"question": "Who?", "answer": ["Ned."]}, ":2: the field 'answer' is ['Ne…, of type list"),
        ({"question": "Who?", "answer": "Ned.", "choices": [1]}, ":2: the field 'choices' is …, of type int"),
        ({"question": "Who?", "answer": "N\x00ed"}, "control character U+0000 at position 1"),
        ({"question": "Wh\x1b[0mo?", "answer": "Ned"}, "control character U+001B at position 2"),
        ({"question": "Who?", "answer": "Ne\rd"}, "control character U+000D at position 2"),
        ({"question": "Who?", "answer": "Ned", "paraphrases": ["a", "b\x07"]}, "control character U+0007"),
        ({"question": "Who?", "answer": "\ud800"}, "control character U+D800"),
        (["Who?", "Ned."], ":2: a row is an object of fields, this is a list"),
    ],
)
def test_bad_rows_are_named_with_place_and_field(tmp_path, row, says):
    path = write_jsonl(tmp_path / "a.jsonl", [ROWS[0], row])
    assert says in refused(path)


def test_the_message_of_a_wrong_answer_does_not_show_it_whole(tmp_path):
    message = refused(write_jsonl(tmp_path / "a.jsonl", [{"question": "PIN?", "answer": 48213377}]))
    assert "4821…" in message
    assert "48213377" not in message


def test_new_lines_and_tabs_are_fine_and_windows_line_ends_become_plain(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "a\tb\nc\r\nd", "answer": "\u200f שלום \u202e"}])
    assert records(path) == [Record("a\tb\nc\nd", "\u200f שלום \u202e")]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"question": "a", "answer": "b"}\n{"question"\n', "a.jsonl:2: not JSON"),
        ("a.json", '[\n{"question": "a"},\n{"question": }\n]', "a.json:3: not JSON"),
        ("a.json", '"words"', "holds a str"),
        ("a.jsonl", '{"question": "a", "answer": "b", "answer": "c"}\n', "a.jsonl:1: has the key 'answer' twice"),
        ("a.json", '[{"question": "a", "answer": "b", "answer": "b"}]', "has the key 'answer' twice"),
        ("a.jsonl", "\n\n", "no rows"),
        ("a.json", "[]", "no rows"),
        ("a.csv", "question,answer\n", "no rows"),
        ("a.csv", "question,answer\na,b,c\n", "a.csv:2: more cells than columns"),
        ("a.csv", "question,answer\na\n", "a.csv:2: the field 'answer' is missing"),
        ("a.csv", "answer,answer\na,b\n", "two columns of the same name"),
        ("a.csv", 'question,answer\na,"b\n', "not CSV"),
        ("a.parquet", "PAR?", "not Parquet"),
        ("a.xlsx", "", "cannot read .xlsx"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, text, says):
    assert says in refused(write(tmp_path / name, text))


def test_a_missing_file_is_refused(tmp_path):
    assert "no such file" in refused(tmp_path / "none.jsonl")
    assert "no such file" in refused(Path("typo.txt"))


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("question,answer\nWho?,J\xf6rg\n".encode("latin-1"))
    assert "not UTF-8" in refused(tmp_path / "a.csv")


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\nWho?,Ned.\n", encoding="utf-8-sig")
    assert records(tmp_path / "a.csv") == [Record("Who?", "Ned.")]


def test_a_folder_of_files_is_read_in_the_order_of_names(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", [ROWS[1]])
    write_csv(tmp_path / "a.csv", [ROWS[0]])
    write(tmp_path / "README.md", "not data")
    assert [record.answer for record in records(tmp_path)] == [row["answer"] for row in ROWS]


def test_a_folder_without_data_is_refused(tmp_path):
    assert "a folder without data files" in refused(tmp_path)


def test_saved_data_sets_with_and_without_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=one, test=one.select([1])).save_to_disk(str(tmp_path / "two"))
    assert [record.answer for record in records(tmp_path / "one")] == [row["answer"] for row in ROWS]
    assert len(records(tmp_path / "two", split="test")) == 1
    assert "has the splits train, test" in refused(tmp_path / "two")
    assert "no split 'dev'" in refused(tmp_path / "two", split="dev")
    assert "has no splits" in refused(tmp_path / "one", split="train")


def test_a_hub_name_goes_to_datasets(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(path, name=None):
        asked.append((path, name))
        return datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(records(Path("locuslab/TOFU"), name="forget10")) == 2
    assert asked == [("locuslab/TOFU", "forget10")]


def test_a_hub_name_out_of_reach_is_the_users_to_mend(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(path, name=None):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert "no data set of this name could be loaded (no route)" in refused(Path("no-such-owner/nothing"))


def test_split_of_a_plain_file_is_refused(tmp_path):
    assert "take them out" in refused(write_jsonl(tmp_path / "a.jsonl", ROWS), split="train")


def test_limit_takes_the_first_rows(tmp_path):
    assert records(write_jsonl(tmp_path / "a.jsonl", ROWS), limit=1) == [Record(ROWS[0]["question"], ROWS[0]["answer"])]


def test_documents_become_prefix_and_continuation(tmp_path):
    words = [f"w{number}" for number in range(40)]
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": " ".join(words), "title": "x"}])
    placed = read_records(DataSource(path=str(path), chunk_words=16), "forget")
    # 40 words in chunks of 16: 0-15, 16-31, and a tail of 8 that is long enough to stand alone.
    assert [(len(r.question.split()), len(r.answer.split())) for _, r in placed] == [(4, 12), (4, 12), (2, 6)]
    assert " ".join(f"{record.question} {record.answer}" for _, record in placed).split() == words
    assert all(record.form == "text" for _, record in placed)
    assert [place for place, _ in placed] == [f"{path}:1 words {a}" for a in ("1-16", "17-32", "33-40")]
    assert placed[1][1].source == f"{path}:1 words 17-32"
    assert placed[1][1].id == content_id(placed[1][1].question, placed[1][1].answer)


def test_a_short_tail_joins_the_chunk_before_and_line_breaks_inside_stay(tmp_path):
    text = "\n".join(f"w{number}" for number in range(19))
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": text, "id": "doc"}])
    (record,) = records(path, chunk_words=16)
    assert record.question == "w0\nw1\nw2\nw3\nw4"
    assert record.answer == "\n".join(f"w{number}" for number in range(5, 19))
    assert record.id == "doc#1"


@given(st.integers(2, 300), st.integers(8, 64))
@settings(max_examples=60, deadline=None)
def test_chunks_cover_a_document_once(tmp_path_factory, count, size):
    path = write_jsonl(tmp_path_factory.mktemp("doc") / "a.jsonl", [{"text": " ".join(map(str, range(count)))}])
    chunks = records(path, chunk_words=size)
    assert " ".join(f"{r.question} {r.answer}" for r in chunks) == " ".join(map(str, range(count)))
    assert all(r.question and r.answer for r in chunks)


def test_a_document_of_one_word_is_refused(tmp_path):
    assert "cannot be continued" in refused(write_jsonl(tmp_path / "a.jsonl", [{"text": "word"}]))


TURNS = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "At the lake."}]
SHAREGPT = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "At the lake."}]
PARTS = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS},
        {"messages": [{"role": "system", "content": "Be brief."}, *TURNS], "source": "a log"},
        {"messages": PARTS},
        {"conversations": SHAREGPT, "id": "x"},
        {"conversation": SHAREGPT, "text": "Where? At the lake."},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"prompt": "Where?", "completion": TURNS[1:]},
    ],
    ids=["messages", "system", "parts", "sharegpt", "beside text", "trl", "prompt as text"],
)
@pytest.mark.parametrize("write", [write_jsonl, write_parquet], ids=["jsonl", "parquet"])
def test_conversations_are_read(tmp_path, row, write):
    suffix = "jsonl" if write is write_jsonl else "parquet"
    (record,) = records(write(tmp_path / f"a.{suffix}", [row]))
    assert (record.question, record.answer, record.form) == ("Where?", "At the lake.", "chat")


def test_every_turn_of_a_conversation_is_a_record(tmp_path):
    more = [{"role": "user", "content": "Since when?"}, {"role": "assistant", "content": "Since May."}]
    system = {"role": "system", "content": "Be brief."}
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": 7, "messages": [system, *TURNS, *more]}, {"messages": TURNS}])
    notes: list[str] = []
    placed = read_records(DataSource(path=str(path)), "forget", notes)
    assert [(record.id, record.answer) for _, record in placed[:2]] == [("7#1", "At the lake."), ("7#2", "Since May.")]
    assert [place.removeprefix(str(path)) for place, _ in placed] == [":1 turn 1", ":1 turn 2", ":2"]
    assert "the system texts of 1 conversations are left out" in notes[0]
    assert "1 conversations have several turns" in notes[1]


@pytest.mark.parametrize(
    ("turns", "says"),
    [
        (TURNS[:1], "has the turns user -> every user turn needs"),
        (TURNS[::-1], "has the turns assistant, user"),
        ([*TURNS[:1], *TURNS], "has the turns user, user, assistant"),
        ([], "is no list of turns"),
        ("Where?", "is no list of turns"),
        ([["user", "Where?"]], "is no list of turns"),
        ([{"role": "tool", "content": "x"}], "messages[0] has the role 'tool' -> a turn is"),
        ([TURNS[0], {"role": "assistant", "content": None}], "messages[1]: the field 'content' is missing"),
        ([TURNS[0], {"role": "assistant", "content": [{"type": "image"}]}], "the field 'text' is missing"),
        ([{"content": "x"}], "has the role None"),
        ([{"role": ["user"], "content": "x"}], "has the role ['user']"),
    ],
)
def test_turns_that_are_no_questions_and_answers(tmp_path, turns, says):
    assert says in refused(write_jsonl(tmp_path / "a.jsonl", [{"messages": turns}]))


def test_conversations_in_a_column_of_another_name(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"chat": TURNS}])
    assert records(path, map={"messages": "chat"})[0].answer == "At the lake."
    assert "map names both messages and question or answer" in refused(path, map={"messages": "chat", "answer": "chat"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "question;answer\nWho?;Ned, of course.\n"),
        ("a.csv", "\ufeffquestion;answer\r\nWho?;Ned, of course.\r\n"),
        ("a.csv", "question\tanswer\nWho?\tNed, of course.\n"),
        ("a.csv", '"question";"answer"\nWho?;"Ned, of course."\n'),
        ("a.tsv", "question\tanswer\nWho?\tNed, of course.\n"),
        ("a.TSV", "question\tanswer;x\tb\nWho?\tNed, of course.\t1\n"),
    ],
)
def test_the_header_decides_what_separates_cells(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    columns = {"question": "question", "answer": "answer;x"} if "answer;x" in text else {}
    assert records(tmp_path / name, map=columns) == [Record("Who?", "Ned, of course.")]


def test_a_header_that_fits_nothing_is_shown(tmp_path):
    (tmp_path / "a.csv").write_text("question|answer\nWho?|Ned.\n")
    assert "no known pair of columns among 'question|answer'" in refused(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("question;answer\nWho?;Ned;of course.\n")
    assert "b.csv:2: more cells than columns -> quote cells that hold semicolons" in refused(tmp_path / "b.csv")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_of_a_large_retain_set_a_sample_is_read(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(loaders, "SAMPLE_CHARACTERS", 2000)
    rows = [{"question": f"Who is {number}?", "answer": f"Number {number}."} for number in range(400)]
    write = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}[suffix]
    source = DataSource(path=str(write(tmp_path / f"a.{suffix}", rows)))
    notes: list[str] = []
    drawn = [record.question for _, record in read_records(source, "retain", notes, sample=True)]
    everything = [row["question"] for row in rows]
    assert 10 < len(drawn) < 100 and drawn == sorted(drawn, key=everything.index)
    # Rows of all parts of the file, the same on a second call, with a note on how many.
    assert [part for part in range(4) if any(everything.index(name) // 100 == part for name in drawn)] == [0, 1, 2, 3]
    assert drawn == [record.question for _, record in read_records(source, "retain", sample=True)]
    assert f"a random sample of {len(drawn)} of 400 rows is used" in notes[0]
    assert len(read_records(source, "forget")) == 400
    others = {"path": str(write_jsonl(tmp_path / "r.jsonl", ROWS))}
    data = load_all(Data.model_validate({"forget": [source.model_dump()], "retain": others}))
    assert len(data.forget) == 400 and not data.notes


def test_memory_for_a_large_retain_set_is_bounded(tmp_path, monkeypatch):
    """Four times as many rows take no more memory."""
    monkeypatch.setattr(loaders, "SAMPLE_CHARACTERS", 20_000)

    def peak(count: int) -> int:
        rows = [{"question": f"Who is {number}?", "answer": f"Number {number}."} for number in range(count)]
        source = DataSource(path=str(write_jsonl(tmp_path / f"{count}.jsonl", rows)))
        del rows
        tracemalloc.start()
        read_records(source, "retain", sample=True)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert peak(12_000) < 1.5 * peak(3000)
