"""Questions asked through the page: the same answers as `relearn ask`, piece by piece, one at a time, and stopped."""

from __future__ import annotations

import threading

import anyio
import httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ui_runs import OWN, TOKEN, Page, make_run, whole

from relearn.analysis.hooks import HookedModel
from relearn.analysis.logit_lens import top_tokens
from relearn.engine.forward import TokenRow
from relearn.inference.run_models import ModelSet
from relearn.ui.run_data import open_runs
from relearn.ui.session import Session, TokenStream, columns, split_by_token
from relearn.workflows.ask import answers_before_and_after
from tiny import build_tiny_tokenizer

QUESTION = "Where does the engineer live?"


@pytest.fixture(scope="module")
def page(plain_run, audited_run) -> Page:
    """Of two runs, the first adapter of which is loaded first."""
    page = Page(plain_run, audited_run)
    assert page.call("/api/load").json() == {"loaded": True}
    return page


@pytest.fixture(scope="module")
def lines(page) -> list[dict]:
    return page.ask(QUESTION)


@pytest.fixture(scope="module")
def asked(plain_run, audited_run) -> dict[str, str]:
    """What `relearn ask` says, by column."""
    first, second = (answers_before_and_after(folder, [QUESTION])[0] for folder in (plain_run, audited_run))
    assert first["before"] == second["before"] and first["after"] != second["after"]
    return {"before-0": first["before"], "after-0": first["after"], "after-1": second["after"]}


def test_answers_are_those_of_relearn_ask(lines, asked):
    assert {key: line["text"] for key, line in whole(lines).items()} == asked
    assert lines[-1] == {"end": True}


def test_pieces_and_tokens_add_up_to_the_answer(lines, asked):
    for key, text in asked.items():
        assert "".join(line["piece"] for line in lines if line.get("column") == key and "piece" in line) == text
        assert "".join(whole(lines)[key]["tokens"]) == text
    assert sum("piece" in line for line in lines) > 3


def test_full_fine_tuning_has_a_model_before_and_one_after(tmp_path, tiny_model_dir, plain_run):
    run = make_run(tmp_path / "full", tiny_model_dir, unlearn={"full": True})
    merged = ModelSet.of_run(open_runs([plain_run])[0].recipe, plain_run).unlearned()  # pyright: ignore
    merged.model.merge_and_unload().save_pretrained(run / "model")
    merged.tokenizer.save_pretrained(run / "model")
    (run / "adapter").rename(run / "old")
    page = Page(run)
    page.call("/api/load")
    expected = answers_before_and_after(run, [QUESTION])[0]
    assert [line["text"] for line in whole(page.ask(QUESTION)).values()] == [expected["before"], expected["after"]]


def test_drawn_answers_are_those_of_relearn_ask_too(tmp_path, tiny_model_dir):
    run = make_run(tmp_path / "drawn", tiny_model_dir, generate={"max_new_tokens": 8, "temperature": 0.9})
    page = Page(run)
    page.call("/api/load")
    expected = answers_before_and_after(run, [QUESTION])[0]
    assert [line["text"] for line in whole(page.ask(QUESTION)).values()] == [expected["before"], expected["after"]]


def test_runs_with_another_start_have_a_before_of_their_own(tmp_path, tiny_model_dir, plain_run, audited_run):
    learned = make_run(tmp_path / "learned", tiny_model_dir, learned=True)
    found = columns(open_runs([plain_run, learned, audited_run]))
    assert [(column.key, column.title) for column in found] == [
        ("before-0", "before · plain, audited"),
        ("after-0", "after · plain"),
        ("after-2", "after · audited"),
        ("before-1", "before · learned"),
        ("after-1", "after · learned"),
    ]
    page = Page(plain_run, learned)
    page.call("/api/load")
    expected = answers_before_and_after(learned, [QUESTION])[0]
    said = {key: line["text"] for key, line in whole(page.ask(QUESTION)).items()}
    assert (said["before-1"], said["after-1"]) == (expected["before"], expected["after"])
    assert len(set(said.values())) == 4


def test_one_model_is_in_memory_for_all_runs_that_share_a_start(plain_run, audited_run, monkeypatch):
    loads = []
    from relearn.inference import run_models

    real = run_models.load
    monkeypatch.setattr(run_models, "load", lambda *a, **k: loads.append(1) or real(*a, **k))
    page = Page(plain_run, audited_run)
    page.html()
    assert loads == []
    page.call("/api/load")
    page.ask(QUESTION)
    page.ask("Who?")
    assert loads == [1]


def test_candidates_are_those_of_the_analysis(page, lines, audited_run):
    answer = whole(lines)["after-1"]
    places = page.call("/api/candidates", {"answer": answer["answer"]}).json()["places"]
    assert len(places) == len(answer["tokens"]) > 0
    loaded = ModelSet.of_run(open_runs([audited_run])[0].recipe, audited_run).unlearned()  # pyright: ignore
    prompt = loaded.tokenizer(loaded.chat.prompt(QUESTION, "chat"), add_special_tokens=False).input_ids
    said = loaded.tokenizer(answer["text"], add_special_tokens=False).input_ids
    first = top_tokens(HookedModel(loaded.model), TokenRow("x", (*prompt, said[0]), len(prompt)))[0]
    assert places[0]["probability"] == pytest.approx(first.probability, abs=1e-5)
    assert [one["text"] for one in places[0]["top"]] == [loaded.tokenizer.decode([token]) for token, _ in first.top]
    for place in places:
        assert place["rank"] == 1 and len(place["top"]) == 5
        assert [one["said"] for one in place["top"]] == [True, False, False, False, False]
        shares = [one["probability"] for one in place["top"]]
        assert shares == sorted(shares, reverse=True) and shares[0] == place["probability"]


def test_the_last_layer_says_what_the_model_says(page, lines):
    answer = whole(lines)["after-0"]
    places = page.call("/api/candidates", {"answer": answer["answer"]}).json()["places"]
    for token in (0, len(answer["tokens"]) - 1):
        layers = page.call("/api/layers", {"answer": answer["answer"], "token": token}).json()["layers"]
        assert [one["layer"] for one in layers] == [2, 1, 0]
        assert layers[0]["likeliest"] == places[token]["top"][0]["text"]
        assert layers[0]["rank"] == 1
        assert layers[0]["probability"] == pytest.approx(places[token]["probability"], abs=1e-5)
        assert any(one["probability"] != layers[0]["probability"] for one in layers[1:])


@pytest.mark.parametrize("body", [{"answer": "nothing", "token": 0}, {"answer": None, "token": 0}])
def test_an_answer_that_is_not_kept_is_not_looked_into(page, body):
    for path in ("/api/candidates", "/api/layers"):
        assert page.call(path, body).status_code == 404
    assert page.call("/api/layers", {"answer": "x", "token": "0"}).status_code == 400


def test_a_token_outside_the_answer_is_refused(page, lines):
    answer = whole(lines)["after-0"]
    for token in (-1, len(answer["tokens"])):
        assert page.call("/api/layers", {"answer": answer["answer"], "token": token}).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"question": " "}, 400),
        ({"question": 3}, 400),
        ({"question": "x" * 8001}, 413),
        ({"question": "x", "form": "html"}, 400),
    ],
)
def test_what_is_no_question_is_refused(page, body, status):
    reply = page.call("/api/ask", body)
    assert reply.status_code == status and list(reply.json()) == ["error"]


def test_a_text_is_gone_on_with(page, plain_run):
    from relearn.engine.generate import generate

    recipe = open_runs([plain_run])[0].recipe
    assert recipe is not None
    loaded = ModelSet.of_run(recipe, plain_run).unlearned()
    expected = generate(loaded, [QUESTION], recipe.generate, form="text")[0]
    assert whole(page.ask(QUESTION, form="text"))["after-0"]["text"] == expected


class Slow(Session):
    """Says a word, then waits to be let go on; no model is there."""

    def __init__(self, runs):
        super().__init__(runs)
        self.began, self.go_on, self.stopped = threading.Event(), threading.Event(), threading.Event()

    def load(self) -> None:
        pass

    def ask(self, question, form, tell, stop) -> None:
        tell({"column": "after-0", "piece": "One"})
        self.began.set()
        while not self.go_on.wait(0.01):
            if stop.is_set():
                self.stopped.set()
                return


def test_a_second_question_is_told_that_one_is_being_answered(plain_run):
    session = Slow(open_runs([plain_run]))
    page = Page(plain_run, session=session)
    page.call("/api/load")
    first = threading.Thread(target=page.ask, args=("One?",))
    first.start()
    assert session.began.wait(10)
    for path, body in (("/api/ask", {"question": "Two?"}), ("/api/candidates", {"answer": "x"})):
        reply = page.call(path, body)
        assert reply.status_code == 409 and "answer" in reply.json()["error"]
    session.go_on.set()
    first.join(10)
    assert page.ask("Two?")[-1] == {"end": True}


def test_whoever_goes_away_stops_the_answer(plain_run):
    """The application is spoken to as a server does, and told of the disconnection after the first piece."""
    session = Slow(open_runs([plain_run]))
    page = Page(plain_run, session=session)
    page.call("/api/load")

    async def leave() -> None:
        gone = anyio.Event()
        body = b'{"question": "One?"}'
        coming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if coming:
                return coming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message) -> None:
            if message.get("body"):
                gone.set()

        headers = {"host": OWN[7:], "origin": OWN, "x-relearn-token": TOKEN, "content-type": "application/json"}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/api/ask",
            "raw_path": b"/api/ask",
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in httpx.Headers(headers).items()],
        }
        with anyio.fail_after(20):
            await page.app(scope, receive, send)
            while not session.stopped.is_set():
                await anyio.sleep(0.01)

    anyio.run(leave)
    session.go_on.set()
    assert page.ask("Two?")[-1] == {"end": True}


def test_a_stopped_answer_says_no_further_token(plain_run):
    session = Session(open_runs([plain_run]))
    stop, told = threading.Event(), []

    def tell(line) -> None:
        told.append(line)
        if "piece" in line:
            stop.set()

    from relearn.ui.session import AnswerStopped

    with pytest.raises(AnswerStopped):
        session.ask(QUESTION, "chat", tell, stop)
    assert sum("piece" in line for line in told) == 1
    assert list(whole(told)) == ["before-0"]


def test_what_goes_wrong_while_answering_ends_the_stream_with_one_line(plain_run, capsys):
    class Broken(Slow):
        def ask(self, question, form, tell, stop) -> None:
            tell({"column": "after-0", "piece": "One"})
            raise IndexError("/secret/folder")

    page = Page(plain_run, session=Broken(open_runs([plain_run])))
    page.call("/api/load")
    assert page.ask("One?")[1:] == [{"error": "the model cannot be loaded or asked; see the terminal for the reason"}]
    assert "IndexError: /secret/folder" in capsys.readouterr().err


TOKENIZER = build_tiny_tokenizer()


def decode(tokens) -> str:
    return TOKENIZER.decode(list(tokens), skip_special_tokens=True)


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=40), st.lists(st.integers(0, 383), max_size=6))
def test_any_tokens_become_pieces_that_never_take_anything_back(text, others):
    """Half characters, white space at the ends and special tokens included."""
    tokens = [*TOKENIZER(text, add_special_tokens=False).input_ids, *others]
    final = decode(tokens).strip()
    stream = TokenStream(decode)
    said = ""
    for token in tokens:
        said += stream.add([token])
        assert said == stream.text
    if not others:
        assert said == final
    parts = split_by_token(final, tokens, decode)
    assert len(parts) == len(tokens) and "".join(parts) == (final if tokens else "")


def test_an_umlaut_of_two_tokens_comes_whole():
    tokens = TOKENIZER("für", add_special_tokens=False).input_ids
    stream = TokenStream(decode)
    assert [stream.add([token]) for token in tokens] == ["f", "", "ü", "r"]
    assert split_by_token("für", tokens, decode) == ["f", "", "ü", "r"]


def test_the_lens_has_the_likeliest_token_of_every_layer(plain_run):
    from relearn.analysis.logit_lens import lens

    loaded = ModelSet.of_run(open_runs([plain_run])[0].recipe, plain_run).unlearned()  # pyright: ignore
    inside, row = HookedModel(loaded.model), TokenRow("x", (5, 6, 7, 8, 9), 2)
    expected = torch.stack([inside.read(layer)[1:-1].argmax(-1) for layer in inside.states(row.ids)])
    assert torch.equal(lens(inside, row).likeliest, expected)
