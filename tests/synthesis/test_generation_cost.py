"""What a synthesis will take, and what it would send where, before anything is spent."""

from __future__ import annotations

import pytest
from scripted import Scripted

from relearn.core.config import DataSource, Prices, Synthesis
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.data.validation import load_set
from relearn.llm.cache import CachedCompleter
from relearn.llm.generators import make_completer
from relearn.synthesis.checks import Verifier
from relearn.synthesis.generation_cost import check_remote, expected_rows, plan_synthesis
from relearn.synthesis.synthesize import synthesize

RECORDS = tuple(Record(f"Where does Ada Marsh keep box {n}?", f"In the cellar of house {n}.") for n in range(20))
PAPER_IN, PAPER_OUT = 1_149_855, 310_353


@pytest.fixture(autouse=True)
def _remote(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def test_expected_rows_are_those_that_are_written():
    document = Record("The old keeper of the light", "hid the key.", form="text")
    for settings in (Synthesis(), Synthesis(variants=("noise",), completions=False), Synthesis(generic_ratio=0.1)):
        generic = [Record(f"q {n} of many", f"a {n} of many", split="generic") for n in range(50)]
        records = (*RECORDS, document)
        made = synthesize(records, generic, settings, completer=Scripted(), verifier=Verifier(records), seed=0)
        written = {kind: made.counts[kind] for kind in ("qa", "completion", "generic")}
        assert expected_rows(records, settings, len(generic)) == written


def test_calls_are_two_a_record_and_a_twentieth_again():
    assert plan_synthesis(RECORDS, Synthesis()).calls == 42
    assert plan_synthesis(RECORDS, Synthesis(variants=())).calls == 21
    assert plan_synthesis(RECORDS, Synthesis(judge="templates")).calls == 42 + 105


def test_cost_is_known_only_with_prices():
    settings = Synthesis(generator="openai:m")
    assert plan_synthesis(RECORDS, settings).cost is None
    assert "cost unknown" in " ".join(plan_synthesis(RECORDS, settings).lines())
    priced = plan_synthesis(
        RECORDS, settings, prices=Prices(input_per_million=2, output_per_million=10, currency="EUR")
    )
    assert priced.cost == pytest.approx((priced.input_tokens * 2 + priced.output_tokens * 10) / 1e6)
    assert "EUR" in " ".join(priced.lines())
    assert plan_synthesis(RECORDS, Synthesis(), prices=Prices(input_per_million=2, output_per_million=10)).cost == 0


def test_the_way_of_counting_is_said():
    assert "characters / 4" in " ".join(plan_synthesis(RECORDS, Synthesis()).lines())

    class Words:
        def __call__(self, text):
            return type("Encoded", (), {"input_ids": text.split()})

    counted = plan_synthesis(RECORDS, Synthesis(), tokenizer=Words())
    assert "the model's tokenizer" in " ".join(counted.lines()) and counted.input_tokens > 0


def test_private_records_do_not_go_to_another_host_unasked():
    settings = Synthesis(generator="openai:m")
    with pytest.raises(InputError, match=r"the questions of 20 private records would be sent to api\.openai\.com"):
        check_remote(settings, 20)
    check_remote(settings.model_copy(update={"allow_remote": True}), 20)
    assert plan_synthesis(RECORDS, settings).hosts == {"api.openai.com": 20}
    assert "api.openai.com" in " ".join(plan_synthesis(RECORDS, settings).lines())


def test_a_judge_elsewhere_counts_too_and_sees_the_answers():
    with pytest.raises(InputError, match="questions and answers"):
        check_remote(Synthesis(judge="openai:m"), 20)


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "http://127.0.0.1:1/v1"])
def test_nothing_leaves_with_a_generator_on_this_machine(monkeypatch, url):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    check_remote(Synthesis(generator="openai:m"), 20)
    check_remote(Synthesis(), 20)
    assert "Leaves this machine: nothing" in plan_synthesis(RECORDS, Synthesis(generator="openai:m")).lines()


def test_a_budget_that_is_too_small_is_said_so():
    assert "max_calls 10" in plan_synthesis(RECORDS, Synthesis(max_calls=10)).lines()[-1]
    assert "max_tokens 10" in plan_synthesis(RECORDS, Synthesis(max_tokens=10)).lines()[-1]


def test_knowundo_takes_at_most_half_of_what_the_paper_took(data_dir):
    """The paper: 1.15 M tokens in, 0.31 M out for 400 rows. Counted with the demo model's tokenizer."""
    packages = pytest.importorskip("relearn.models.builtin")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(packages.builtin_path("smollm2-135m-instruct"))
    records, _ = load_set((DataSource(path=str(data_dir / "knowundo/unlearn_train.json")),), "forget")
    planned = plan_synthesis(records, Synthesis(generator="openai:m"), tokenizer=tokenizer)
    assert 0 < planned.input_tokens <= PAPER_IN / 2 and 0 < planned.output_tokens <= PAPER_OUT / 2


def test_the_estimate_is_near_what_the_templates_take(data_dir):
    """Counted in characters / 4 over the prompts sent and the replies received."""
    records, _ = load_set((DataSource(path=str(data_dir / "knowundo/unlearn_train.json"), limit=40),), "forget")
    sent, received = 0, 0

    class Counting:
        name = "counting"

        def complete(self, prompts):
            nonlocal sent, received
            completions = make_completer("templates", Synthesis(), None).complete(prompts)
            sent += sum(len(prompt.text) for prompt in prompts)
            received += sum(len(completion.text) for completion in completions)
            return completions

    cached = CachedCompleter(Counting(), None)
    synthesize(records, (), Synthesis(), completer=cached, verifier=Verifier(records), seed=0)
    planned = plan_synthesis(records, Synthesis())
    assert planned.input_tokens == pytest.approx(sent / 4, rel=0.25)
    assert planned.output_tokens == pytest.approx(received / 4, rel=0.35)


def test_too_few_generic_rows_are_said_in_the_plan_as_in_the_synthesis():
    lines = plan_synthesis(RECORDS, Synthesis(), generic=50).lines()
    assert "Note: generic rows: 50 of the 200 asked for by generic_ratio, there are no more" in lines
    assert "generic rows" not in " ".join(plan_synthesis(RECORDS, Synthesis(), generic=200).lines())
