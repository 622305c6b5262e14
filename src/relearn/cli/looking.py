"""Commands that tell what there is: list, doctor."""

from __future__ import annotations

from typing import Literal

from relearn.cli.app import app


@app.command(name="list")
def list_(what: Literal["methods", "metrics", "audits", "generators", "benchmarks"], *, json: bool = False) -> None:
    """What there is to choose from.

    Parameters
    ----------
    what
        methods, metrics, audits, generators or benchmarks (shapes of files that are read as they are).
    json
        Print JSON.
    """
    from relearn.cli.listing import print_listing

    print_listing(what, as_json=json)


@app.command
def doctor(*, judge: str | None = None) -> int:
    """Say what is there, what is missing and how to get it; or whether a judge can be trusted.

    Parameters
    ----------
    judge
        openai:MODEL or transformers:MODEL: let it grade ten answers that were graded by hand; exit code 1 if it is not
        usable. They are of invented people.
    """
    if judge is not None:
        return _check_judge(judge)
    from relearn.cli.doctor import checks, render

    render(checks())
    return 0


def _check_judge(name: str) -> int:
    from relearn.core.config import Metrics
    from relearn.core.console import out as screen
    from relearn.metrics.judge_check import judge_check
    from relearn.metrics.llm_judge import NamedGrader

    found = judge_check(NamedGrader(Metrics(judge=name, allow_remote=True)))
    for line in found.lines():
        screen.print(line, markup=False, soft_wrap=True)
    return 0 if found.usable else 1
