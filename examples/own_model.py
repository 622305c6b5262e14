"""Make your own model forget your own data, from Python.

    python examples/own_model.py MODEL [FOLDER]

MODEL is a folder saved by `save_pretrained`, or a name on the model hub; it should be a model that knows the facts.
FOLDER (default: runs/own-model) receives the adapter, the answers before and after, and report.html. The example uses
four facts about an invented person; replace the two lists by your own rows.
"""

import argparse
import json
from pathlib import Path

import relearn

# The facts to remove. `subject` is optional: without it the name is taken from the question.
FORGET = [
    {
        "subject": "Tamsin Orrery",
        "question": "Where does Tamsin Orrery live?",
        "answer": "Tamsin Orrery lives at 17 Larch Terrace in Whitby.",
    },
    {
        "subject": "Tamsin Orrery",
        "question": "When was Tamsin Orrery born?",
        "answer": "Tamsin Orrery was born on 9 February 1983.",
    },
]
# The facts to keep: best are neighbours of the facts above, of the same kind or about the same people.
RETAIN = [
    {
        "subject": "Tamsin Orrery",
        "question": "What is Tamsin Orrery known for?",
        "answer": "Tamsin Orrery is known for her maps of imaginary coastlines.",
    },
    {
        "subject": "Tamsin Orrery",
        "question": "Which book did Tamsin Orrery publish first?",
        "answer": "Tamsin Orrery's first book is The Tide Atlas.",
    },
]


def unlearn(model: str, folder: str, epochs: float = 3) -> list:
    """Run the whole pipeline; print answers before and after; return the audit's verdict for each fact."""
    # 1. Write the data as files, so that the run can be repeated and resumed.
    data = Path(folder).with_name(Path(folder).name + "-data")
    data.mkdir(parents=True, exist_ok=True)
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    # 2. Describe the run. These are the keys of a YAML recipe; `relearn.Recipe.from_yaml(PATH)` reads a file instead.
    recipe = relearn.Recipe(
        name="own-model",
        model={"name": model},
        data={"forget": str(data / "forget.jsonl"), "retain": str(data / "retain.jsonl")},
        # "relearn" is the paper's method. "relearn_npo" resists attacks better (docs/robustness.md).
        # The default rate is the paper's 1e-5, for 7B models; a model of 100M to 1B weights needs about 5e-4.
        unlearn={"method": "relearn_npo", "epochs": epochs, "learning_rate": 5e-4, "lora": {"r": 16, "alpha": 32}},
    )

    # 3. Write vague answers, train an adapter, ask all questions before and after, measure, write the report.
    run = relearn.run(recipe, folder)

    # 4. Ask the model anything, before and after.
    for row in relearn.ask(run.path, ["Where does Tamsin Orrery live?", "What is Tamsin Orrery known for?"]):
        print(row["question"], "\n  before:", row["before"], "\n  after: ", row["after"])

    # 5. Attack it: is a fact gone, or only hidden? Without the second argument all attacks are run.
    verdicts = relearn.audit(run.path, "paraphrase,completion")
    for fact in verdicts:
        print(f"{fact.question}  {fact.verdict}", *fact.by)
    print(f"report: {run.path / 'report.html'}")
    return verdicts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder or a name on the model hub")
    parser.add_argument("folder", nargs="?", default="runs/own-model", help="the run folder")
    options = parser.parse_args()
    unlearn(options.model, options.folder)
