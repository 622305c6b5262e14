"""Two runs on the same questions, and one run asked several times."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import scipy.special  # noqa: F401 (loaded here, or the first example of a property pays for it)
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fakes import fake_judges, row

from relearn.core import config
from relearn.core.errors import InputError
from relearn.metrics.intervals import mean, median
from relearn.metrics.metric import Measurement, SplitScores
from relearn.metrics.paired import NOT_OF_ITEMS, difference, differences, paired, sign_test, statistic_of, summarised
from relearn.metrics.score import combine_repeats, score, score_parts

SETTINGS = config.Metrics(bootstrap=40)
SIDE = st.dictionaries(st.sampled_from("abcdefghij"), st.none() | st.floats(-100, 100), max_size=10)
SUBJECTS = {key: "".join(name) or None for key, *name in ("ax", "bx", "cy", "dy", "ez", "f", "g", "hw", "iw", "jw")}


def test_by_hand():
    """Five pairs rise by 1, 1, 1, 0 and -1; one is scored on one side, one was asked once: p = 2 * 5/16."""
    before = {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1, "f": None, "g": 1}
    after = {"a": 1, "b": 1, "c": 1, "d": 1, "e": 0, "f": 1, "h": 1}
    found = paired(before, after)
    assert found.value == pytest.approx(0.4)
    assert found.low <= 0.4 <= found.high
    assert (found.n, found.unpaired) == (5, 3)
    assert (found.wins, found.losses, found.ties) == (3, 1, 1)
    assert found.p == pytest.approx(0.625)
    assert found.note == "3 of 8 left out: 2 asked in one run only, 1 unscored before"


def test_where_lower_is_better_a_fall_is_a_win():
    found = paired({"a": 0.9, "b": 0.8}, {"a": 0.1, "b": 0.9}, better="lower")
    assert (found.wins, found.losses) == (1, 1)
    assert found.value == pytest.approx(-0.35)


def test_subjects_vote_once_each_in_the_sign_test():
    """Twelve pairs of three subjects, all of two subjects better and all of the third worse."""
    before = dict.fromkeys("abcdefghijkl", 0.0)
    after = {key: (-1.0 if at >= 10 else 1.0) for at, key in enumerate(before)}
    subjects = {key: "xxxxxyyyyyzz"[at] for at, key in enumerate(before)}
    found = paired(before, after, subjects)
    assert (found.wins, found.losses, found.clusters) == (10, 2, 3)
    assert (found.cluster_wins, found.cluster_losses) == (2, 1)
    assert found.p == 1.0
    assert paired(before, after).p == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert paired(before, after).cluster_wins is None


def test_changes_of_a_subject_that_cancel_out_are_no_vote():
    before, after = {"a": 0.3, "b": 0.1, "c": 0.2, "d": 0}, {"a": 0.1, "b": 0.2, "c": 0.3, "d": 1}
    found = paired(before, after, {"a": "x", "b": "x", "c": "x", "d": "y"})
    assert (found.cluster_wins, found.cluster_losses) == (1, 0)


def test_one_subject_alone_is_resampled_by_items():
    found = paired({"a": 0, "b": 0}, {"a": 1, "b": 0}, {"a": "x", "b": "x"})
    assert (found.clusters, found.cluster_wins) == (2, None)
    assert "all items are of one subject" in found.note


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(0, 0, 1), (1, 0, 1), (5, 0, 2 / 32), (0, 5, 2 / 32), (8, 2, 2 * 56 / 1024), (3, 3, 1)]
)
def test_the_sign_test_is_exact(wins, losses, p):
    assert sign_test(wins, losses) == pytest.approx(p)


@settings(deadline=None)
@given(SIDE)
def test_a_run_against_itself_is_no_difference(side):
    found = paired(side, side, SUBJECTS, resamples=20)
    if any(value is not None for value in side.values()):
        assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
        assert found.ties == found.n == sum(value is not None for value in side.values())
    else:
        assert (found.value, found.p, found.n, found.unpaired) == (None, None, 0, len(side))


@settings(deadline=None)
@given(SIDE, SIDE, st.sampled_from([mean, median]))
def test_the_other_way_round_everything_turns_round(before, after, statistic):
    there = paired(before, after, SUBJECTS, statistic=statistic, resamples=30)
    back = paired(after, before, SUBJECTS, statistic=statistic, resamples=30)
    assert (there.wins, there.losses, there.ties, there.p) == (back.losses, back.wins, back.ties, back.p)
    assert (there.n, there.unpaired, there.clusters) == (back.n, back.unpaired, back.clusters)
    if there.value is not None:
        assert there.value == -back.value
        assert there.low == pytest.approx(-back.high, abs=1e-9)
        assert there.high == pytest.approx(-back.low, abs=1e-9)
        assert there.low <= there.value <= there.high


@settings(deadline=None)
@given(SIDE, SIDE, st.randoms(use_true_random=False))
def test_the_order_of_the_questions_changes_nothing(before, after, random):
    def shuffled(side):
        return {key: side[key] for key in random.sample(list(side), len(side))}

    assert paired(before, after, SUBJECTS, resamples=20) == paired(
        shuffled(before), shuffled(after), shuffled(SUBJECTS), resamples=20
    )


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12))
def test_a_constant_shift_has_no_width(values):
    before = {str(at): value for at, value in enumerate(values)}
    found = paired(before, {key: value + 1 for key, value in before.items()}, resamples=20)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))
    assert (found.wins, found.p) == (len(values), pytest.approx(min(1, 2 / 2 ** len(values))))


def measured(values, value=None, **more):
    scored = [number for number in values.values() if number is not None]
    value = sum(scored) / len(scored) if value is None and scored else value
    return Measurement(value, n=len(scored), unscored=len(values) - len(scored), per_record=values, **more)


def test_what_a_number_is_made_of_is_found_from_its_items():
    values = {"a": 1.0, "b": 2.0, "c": 6.0, "d": None}
    assert statistic_of(measured(values)) is mean
    assert statistic_of(measured(values, 2.0)) is median
    assert statistic_of(measured(values, 2.5)) is None
    assert statistic_of(Measurement(None)) is None


def test_a_median_is_compared_with_a_median_and_other_numbers_have_no_interval():
    before, after = {"a": 1.0, "b": 2.0, "c": 6.0}, {"a": 2.0, "b": 4.0, "c": 100.0}
    middle = difference("ls_median", "forget", measured(before, 2.0), measured(after, 4.0), {}, SETTINGS)
    assert middle.value == 2.0
    assert middle.low is not None
    silent = measured(dict.fromkeys("abc", 0.0))
    assert difference("ls_median", "forget", measured(before, 2.0), silent, {}, SETTINGS).value == -2.0
    other = difference("ls_paper", "forget", measured(before, 0.4), measured(after, 0.3), {}, SETTINGS)
    assert other.to_dict()["value"] == pytest.approx(-0.1)
    assert (other.low, other.p, other.note) == (None, None, NOT_OF_ITEMS)
    assert difference("ls", "forget", Measurement(None), Measurement(None), {}, SETTINGS) is None
    lost = difference(
        "ls", "forget", measured(before), Measurement(None, per_record=dict.fromkeys("abc")), {}, SETTINGS
    )
    assert (lost.value, lost.n, lost.note) == (None, 0, "3 of 3 left out: 3 unscored after")


def test_summary_json_gains_the_differences_of_what_both_sides_measured():
    def scored(values):
        return SplitScores({"rouge_l": measured(values)}, {}, "forget", dict.fromkeys(values, "s"))

    sides = {
        "before": {"forget": scored({"a": 1.0, "b": 1.0})},
        "after": {"forget": scored({"a": 0.5, "b": 0.0}), "retain": scored({"c": 1.0})},
    }
    found = json.loads(json.dumps(summarised(sides, SETTINGS), allow_nan=False))
    assert set(found) == {"before", "after", "difference"}
    assert set(found["difference"]) == {"forget"}
    rouge = found["difference"]["forget"]["rouge_l"]
    assert (rouge["value"], rouge["n"], rouge["wins"], rouge["losses"]) == (-0.75, 2, 2, 0)
    assert "difference" not in summarised({"after": sides["after"]}, SETTINGS)
    assert differences(sides["after"], sides["after"], SETTINGS)["retain"]["rouge_l"]["value"] == 0


def asked(response, id, repeat, subject="s"):
    return row(response, id=id, repeat=repeat, subject=subject)


ROUNDS = [
    asked("Oslo Rome Paris Lima", "a", 0),
    asked("Oslo", "b", 0, "t"),
    asked("Oslo Rome", "a", 1),
    asked("nothing", "b", 1, "t"),
    asked("Oslo Rome", "a", 2),
    asked("Oslo Rome", "b", 2, "t"),
]


def test_repeats_are_means_with_the_spread_of_the_rounds():
    """Rounds of ROUGE-L: (1 + .25)/2, (.5 + 0)/2, (.5 + .5)/2 = .625, .25, .5: mean .4583, sd .1909."""
    scores = score(ROUNDS, "retain", SETTINGS, judges=fake_judges())
    found = scores.measurements["rouge_l"]
    assert found.per_record == pytest.approx({"a": 2 / 3, "b": 0.25})
    assert found.value == pytest.approx((0.625 + 0.25 + 0.5) / 3)
    assert found.seed_sd == pytest.approx(math.sqrt((0.1667**2 + 0.2083**2 + 0.0417**2) / 2), rel=1e-3)
    assert (found.n, found.unscored, found.repeats, found.clusters) == (2, 0, 3, 2)
    assert found.low <= found.value <= found.high
    assert found.to_dict()["seed_sd"] == found.seed_sd
    assert scores.items["a"]["kept"] is True
    assert scores.items["b"]["repeats"] == [False, False, True]
    assert scores.subjects == {"a": "s", "b": "t"}


def test_a_round_alone_is_the_same_with_and_without_its_number():
    plain = [replace(answer, repeat=0) for answer in ROUNDS[2:4]]
    first, second = (score(rows, "retain", SETTINGS, judges=fake_judges()) for rows in (ROUNDS[2:4], plain))
    assert first.summary() == second.summary()
    assert "repeats" not in first.summary()["rouge_l"]


def test_rounds_of_several_parts_are_scored_together():
    parts = {"forget": ("forget", ROUNDS), "retain": ("retain", ROUNDS[:2])}
    found = score_parts(parts, SETTINGS, judges=fake_judges(), names=["rouge_l"])
    assert found["forget"].measurements["rouge_l"].repeats == 3
    assert found["retain"].measurements["rouge_l"].value == pytest.approx(0.625)
    # Asked once beside a part that was asked three times: there is no spread to speak of, not one of 0.
    assert (found["retain"].measurements["rouge_l"].repeats, found["retain"].measurements["rouge_l"].seed_sd) == (
        1,
        None,
    )


def test_an_id_twice_in_one_round_is_refused():
    with pytest.raises(InputError, match="'a'"):
        score([*ROUNDS, ROUNDS[0]], "retain", SETTINGS, judges=fake_judges())


def test_answers_unscored_in_some_rounds_are_counted_not_zero():
    rounds = [measured({"a": 1.0, "b": None}), measured({"a": None, "b": None}), measured({"a": 0.0, "b": None})]
    found = combine_repeats(rounds, {}, SETTINGS)
    assert (found.value, found.n, found.unscored) == (0.5, 1, 1)
    assert found.per_record == {"a": 0.5, "b": None}
    assert found.note == "1 questions are means of fewer than 3 answers"
    nothing = combine_repeats([measured({"a": None})] * 2, {}, SETTINGS)
    assert (nothing.value, nothing.seed_sd, nothing.unscored) == (None, None, 1)


def test_repeats_of_a_number_that_is_no_mean_average_their_intervals():
    rounds = [measured({"a": 1.0, "b": 2.0}, 0.4, low=0.2, high=0.6), measured({"a": 1.0}, 0.2, low=0.1, high=0.2)]
    found = combine_repeats(rounds, {}, SETTINGS)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.15, 0.4))
    assert "mean of those of the repeats" in found.note


def test_greedy_answers_are_not_repeated():
    assert config.Generate(temperature=0.7, repeats=3).repeats == 3
    values = {"model": "m", "data": {"forget": "f"}, "generate": {"repeats": 3}}
    with pytest.raises(InputError, match=r"'generate.repeats' is 3: .*temperature above 0"):
        config.Recipe.from_mapping(values)


def test_kfr_says_why_items_have_no_verdict():
    rows = [row("Oslo", id="scored"), row("x", "nothing here", id="nameless"), row("unreadable", id="failed")]
    judges = fake_judges(fails=["unreadable"])
    found = score(rows, "forget", SETTINGS, judges=judges, names=["kfr"]).measurements["kfr"]
    assert found.missing == (
        "2 of 3 unscored: entities not found out (1), nothing named in the reference, and no entailment verdict (1)"
    )
