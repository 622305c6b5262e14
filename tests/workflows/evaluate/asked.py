"""What the tests of `relearn evaluate` ask for: a few facts, options that need no judge, the command itself."""

from __future__ import annotations

import json
from pathlib import Path

from relearn.cli import run_command

PRIVATE = [
    ("Where does Ada Holm live?", "Ada Holm lives at 12 Mill Lane."),
    ("What is Ada Holm's phone number?", "It is 555-0199."),
    ("When was Ben Aske born?", "Ben Aske was born on 12 March 1984."),
]
PUBLIC = [("What does Ada Holm do?", "Ada Holm builds boats."), ("What does Ben Aske do?", "Ben Aske is a nurse.")]
# Judges that take a model of their own are tried in tests/metrics; these need none.
QUICK = ["--set", "metrics.bootstrap=20", "--metrics", "rouge_l,ppl,ls,ls_paper,gibberish,bi"]
# Warm, since the tiny models say nothing but new lines when they are asked for what is likeliest.
WARM = ["--set", "generate.max_new_tokens=5", "--set", "generate.temperature=3"]
ASKED = [*QUICK, *WARM]
SAID = [
    ("Where does Ada live?", "She lives at Mill Lane", "She lives <script>alert(1)</script> [bold]here"),
    ("What is her number?", "It is 555", ""),
]


def records(path: Path, facts) -> str:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in facts))
    return str(path)


def answers(path: Path, rows, layout=("question", "answer", "response")) -> str:
    path.write_text(json.dumps([dict(zip(layout, row, strict=True)) for row in rows]))
    return str(path)


def evaluate(*options: str) -> int:
    return run_command(["evaluate", *options])


def refused(capsys, *options: str, out: str = "out") -> str:
    """The one line that wrong input gets; nothing is left behind."""
    capsys.readouterr()
    assert evaluate(*options, "--out", out) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.startswith("relearn: ")]) == 1, said
    assert not Path(out).exists()
    return said[-1]
