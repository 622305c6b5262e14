"""The sentence over the table of attacks."""

from __future__ import annotations

import pytest

from relearn.report.audits import finding, read_audits


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"gone": 3}, "Of 3 facts that the model knew, 0 are still told when plainly asked, and none came back"),
        ({"gone": 1, "hidden": 2, "there": 1, "never_known": 5}, "Of 4 facts that the model knew, 1 is still told"),
        ({"hidden": 2}, "and 2 came back under attack."),
        ({"never_known": 4}, "The model knew none of these facts to begin with."),
    ],
)  # fmt: skip
def test_the_finding(counts, said):
    assert said in finding(counts)


def test_a_run_without_audits_has_no_such_section(tmp_path):
    assert read_audits(tmp_path) is None
