"""lm-eval itself on a tiny model: results are read as the library gives them, and our numbers are its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from relearn.ability import check_ability, lm_eval_tasks, local_tasks, measure_ability
from relearn.core.config import Ability, Model
from relearn.core.errors import InputError
from relearn.inference.choice_logprobs import ChoiceQuestion, letter_logprobs, text_logprobs
from relearn.models.load import load

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'relearn-llm[lm-eval]'")

ROWS = [
    {"question": "Where does the teacher live?", "choices": ["a quiet street", "at sea", "Oslo", "here"], "answer": 0},
    {"question": "What was her father?", "choices": ["a nurse", "a baker", "12 March", "an engineer"], "answer": 1},
    {"question": "Who was a nurse?", "choices": ["the harbour", "he", "her mother", "it"], "answer": 2},
    {"question": "Which number?", "choices": ["1984", "12", "0", "555-0199"], "answer": 3},
    {"question": "Who is the engineer?", "choices": ["she", "he", "a street", "the old city"], "answer": 0},
]
LETTERED = "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
HEADING = "The following are multiple choice questions (with answers).\n\n"


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load(Model(name=str(tiny_model_dir)))


@pytest.fixture
def rows(tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def task_file(rows: Path, name: str, **more) -> str:
    """A task of lm-eval's own over a local file."""
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
        **more,
    }
    path = rows.parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def test_our_multiple_choice_is_lm_evals(loaded, rows):
    """The same log-probabilities by letter and by text, hence the same accuracies."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    by_letter = task_file(rows, "by_letter", doc_to_text=LETTERED, doc_to_choice=list("ABCD"), description=HEADING)
    by_text = task_file(rows, "by_text", doc_to_text="Question: {{question.strip()}}\nAnswer:", doc_to_choice="choices")
    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=2)
    found = simple_evaluate(model, tasks=[by_letter, by_text], bootstrap_iters=0)
    asked = [ChoiceQuestion(row["question"], tuple(row["choices"]), row["answer"]) for row in ROWS]
    for name, ours in (("by_letter", letter_logprobs(loaded, asked)), ("by_text", text_logprobs(loaded, asked))):
        samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
        theirs = [[response[0] for response in sample["filtered_resps"]] for sample in samples]
        assert ours == [pytest.approx(tuple(map(float, own)), abs=1e-4) for own in theirs]
    outcomes = {
        outcome.name: outcome for outcome in local_tasks.run_task(loaded, local_tasks.read_task(str(rows)), Ability())
    }
    assert outcomes["rows/acc"].value == found["results"]["by_letter"]["acc,none"]
    assert outcomes["rows/acc_by_text"].value == found["results"]["by_text"]["acc_norm,none"]


def test_a_task_file_runs_offline_on_the_model_in_memory(loaded, rows):
    path = task_file(rows, "letters", doc_to_text=LETTERED, doc_to_choice=list("ABCD"))
    settings = Ability(tasks=(path,), limit=4, batch_size=2)
    check_ability(settings)
    outcomes = {outcome.name: outcome for outcome in measure_ability(loaded, settings)}
    assert set(outcomes) == {"letters/acc", "letters/acc_norm"}
    acc = outcomes["letters/acc"]
    assert (acc.n, len(acc.items), acc.by) == (4, 4, f"lm-eval {lm_eval_tasks.metadata.version('lm-eval')}")
    assert acc.value == sum(acc.items.values()) / 4
    variance = sum((item - acc.value) ** 2 for item in acc.items.values()) / 3
    assert acc.stderr == pytest.approx((variance / 4) ** 0.5)
    measured = acc.measurement
    assert 0 <= measured.low <= measured.value <= measured.high <= 1 and measured.n == 4


def test_sums_by_generation(loaded, rows):
    path = task_file(
        rows,
        "said",
        output_type="generate_until",
        doc_to_text="Question: {{question}}\nAnswer:",
        doc_to_target="{{choices[answer]}}",
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        generation_kwargs={"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
    )
    (outcome,) = measure_ability(loaded, Ability(tasks=(path,), limit=2))
    assert (outcome.name, outcome.n) == ("said/exact_match", 2)


def test_a_group_stands_for_its_tasks(loaded, rows):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    task_file(rows, "letters", doc_to_text=LETTERED, doc_to_choice=list("ABCD"))
    task_file(rows, "again", doc_to_text="{{question}}", doc_to_choice="choices")
    weighted = [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}]
    group = {"group": "both", "task": ["letters", "again"], "aggregate_metric_list": weighted}
    (rows.parent / "both.yaml").write_text(yaml.safe_dump(group))
    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=2)
    tasks = TaskManager(include_defaults=False, include_path=str(rows.parent))
    found = simple_evaluate(model, tasks=["both"], task_manager=tasks)
    (outcome,) = lm_eval_tasks.read_results(found, "lm-eval")
    assert (outcome.name, outcome.n) == ("both/acc", 10)
    assert outcome.value == (found["results"]["letters"]["acc,none"] + found["results"]["again"]["acc,none"]) / 2
    assert outcome.stderr > 0


def test_unknown_names_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match="did you mean 'gsm8k'"):
        check_ability(Ability(tasks=("gsm8kk",)))
    with pytest.raises(InputError, match="no such task file"):
        check_ability(Ability(tasks=(str(tmp_path / "no.yaml"),)))


def test_what_lm_eval_cannot_run_is_said_in_one_line(loaded, rows):
    path = task_file(rows.parent / "absent.jsonl", "absent", doc_to_text="{{question}}", doc_to_choice="choices")
    with pytest.raises(InputError, match="lm-eval could not run") as caught:
        measure_ability(loaded, Ability(tasks=(path,)))
    assert "\n" not in str(caught.value)
