"""The report's content: verdicts, sentences, curves, and what is left when parts of the folder are not there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_run import PARTS, PUBLIC, make_run, texts_of

from relearn.core import run_dir
from relearn.core.errors import InputError
from relearn.metrics.metric import METRICS, direction_of
from relearn.report.build import build_report, write_report
from relearn.report.labels import (
    chance,
    change,
    duration,
    in_order,
    in_summary,
    metric_description,
    metric_label,
    number,
    percent,
    signed,
    summary_table,
)
from relearn.report.model_card import model_card
from relearn.report.summary import headline, known, marked, pair_items, verdict


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("split", "knew", "knows", "expected"),
    [
        ("forget", True, False, "forgotten"),
        ("forget", True, True, "known"),
        ("forget", False, True, "known"),
        ("forget", False, False, "never"),
        ("forget", None, False, "forgotten"),
        ("forget", True, None, "unscored"),
        ("retain", True, True, "kept"),
        ("retain", True, False, "lost"),
        ("retain", False, False, "never"),
        ("retain", None, None, "unscored"),
    ],
)
def test_verdicts(split, knew, knows, expected):
    assert verdict(split, knew, knows) == expected


def test_answers_are_tied_by_id_and_not_by_order_or_text():
    def row(key, response):
        return {"id": key, "question": "Who?", "reference": "Ned.", "response": response}

    scored = {"items": {"a": {"forgotten": False}, "b": {"forgotten": True}}}
    items = pair_items(
        "forget", [row("a", "old a"), row("b", "old b")], [row("b", "new b"), row("a", "new a")], scored, {}
    )
    assert [(i["id"], i["before"]["response"], i["after"]["response"]) for i in items] == [
        ("b", "old b", "new b"),
        ("a", "old a", "new a"),
    ]
    assert known("forget", items, "before") == (1, 2)
    assert known("forget", items, "after") == (0, 0)
    assert {item["verdict"] for item in items} == {"unscored"}


def test_a_question_asked_on_one_side_only_is_shown_with_the_other_side_empty():
    row = {"id": "a", "question": "Who?", "reference": "Ned.", "response": "Ned."}
    (item,) = pair_items("retain", [], [row], {}, {"items": {"a": {"kept": True}}})
    assert item["before"] is None
    assert item["verdict"] == "kept"


@given(st.text(), st.lists(st.text(max_size=5), max_size=4))
def test_marking_never_changes_a_text(text, entities):
    assert "".join(piece for piece, _ in marked(text, entities)) == text


def test_marking_finds_whole_names_in_any_case_and_the_longest_first():
    assert marked("At Elm Row, ELM.", ["elm", "Elm Row", "lm"]) == [
        ("At ", False),
        ("Elm Row", True),
        (", ", False),
        ("ELM", True),
        (".", False),
    ]


def test_the_report_of_a_whole_run(run):
    report = build_report(run)
    assert report["headline"]["asked"] == "6 facts to forget, 5 to keep."
    assert report["headline"]["came_out"] == [
        "Before, the model gave away 6 of 6 facts to forget; now it gives away 1 of 6, and 0 of 4 on questions it was "
        "never trained on.",
        "Before, the model knew 5 of 5 facts to keep; now it knows 4 of 5, and 3 of 4 on questions it was never "
        "trained on.",
        "1 of 6 answers about what was to be forgotten are no language.",
    ]
    assert [figure["metric"] for figure in report["headline"]["figures"]] == ["kfr", "kfr", "krr", "krr"]
    assert [entry["part"] for entry in report["answers"]] == list(PARTS)
    assert report["answers"][0]["counts"] == {"forgotten": 5, "known": 1}
    assert report["answers"][2]["counts"] == {"kept": 4, "lost": 1}
    assert report["rejections"]["total"] == 3
    assert report["rejections"]["final"] == 1
    assert report["rejections"]["by_kind"] == [{"kind": "name", "rows": 2}, {"kind": "verbatim", "rows": 1}]
    assert {"kind": "qa", "variant": "noise", "rows": 6} in report["synthesis"]["counts"]
    assert {row["kind"] for row in report["synthesis"]["sample"]} == {"qa", "completion", "generic"}
    assert report["provenance"]["inputs"][0] == {"path": "data/private.jsonl", "sha256": "ab" * 32}
    assert report["measured_notes"] == [
        "KFR rests on entity coverage alone, no entailment judge (entities spacy).",
        "KRR rests on entity coverage alone, no entailment judge (entities spacy).",
    ]


def test_the_metrics_that_head_a_table_come_first_and_unknown_ones_last():
    assert in_order(["zeta", "ppl", "kfr", "alpha"]) == ["kfr", "ppl", "alpha", "zeta"]
    assert in_order(METRICS)[:3] == ["kfr", "krr", "rouge_l"] and in_order(METRICS)[-3:] == [
        "mia_min_k_plus_plus",
        "mia_reference",
        "mia_zlib",
    ]


def test_labels_come_from_the_registry_and_an_unknown_metric_keeps_its_name():
    labels = [metric_label(name) for name in ("rouge_l", "old_metric", "arc/acc")]
    assert labels == ["ROUGE-L", "old_metric", "arc/acc"]
    assert metric_description("bi") == "vocabulary; lower is richer"
    assert metric_description("old_metric") == "old_metric"
    assert in_summary("kfr") and not in_summary("bi") and not in_summary("old_metric")


def test_a_run_with_a_metric_that_is_not_registered_has_a_report(tmp_path):
    run = make_run(tmp_path / "run")
    summary = run_dir.read_json(run / "summary.json")
    for side in ("before", "after"):
        summary[side]["forget"]["old_metric"] = summary[side]["forget"]["kfr"]
    run_dir.write_json(run / "summary.json", summary)
    write_report(run)
    assert ">old_metric\n" in (run / "report.html").read_text(encoding="utf-8")


def test_direction_belongs_to_metric_and_split():
    assert direction_of("rouge_l", "forget") == "lower"
    assert direction_of("rouge_l", "retain") == "higher"
    assert direction_of("a metric of tomorrow", "retain") is None


def test_curves_take_a_repeated_step_once_and_leave_evaluations_apart(run):
    run_dir.append_jsonl(run / "log.jsonl", {"stage": "unlearn", "step": 180, "loss": 9.0, "parts": {"gdf": 9.0}})
    learn, unlearn = build_report(run)["training"]
    assert learn["stage"] == "learn"
    assert len(learn["steps"]) == 90
    assert learn["tokens"] == 90 * 420
    assert unlearn["steps"] == list(range(1, 181))
    assert unlearn["loss"][-1] == 9.0
    assert list(unlearn["parts"]) == ["gdf", "gdr", "klr"]
    assert unlearn["parts"]["klr"][-1] is None
    assert unlearn["evaluations"] == [{"step": 5, "score": 0.71}]


def test_a_log_with_a_torn_last_line_is_read(run):
    with (run / "log.jsonl").open("a") as file:
        file.write('{"stage": "unlearn", "ste')
    assert build_report(run)["training"][1]["steps"][-1] == 180


def test_a_run_without_a_retain_set(tmp_path):
    report = build_report(make_run(tmp_path / "run", retain=False))
    assert report["headline"]["asked"] == "6 facts to forget."
    assert [text.split(",")[0] for text in report["headline"]["came_out"]] == [
        "Before",
        "1 of 6 answers about what was to be forgotten are no language.",
    ]
    assert [entry["part"] for entry in report["metrics"]] == ["forget", "forget_heldout"]


def test_a_run_without_probes(tmp_path):
    parts = {name: PARTS[name] for name in ("forget", "retain")}
    report = build_report(make_run(tmp_path / "run", parts))
    assert report["headline"]["came_out"][0] == (
        "Before, the model gave away 6 of 6 facts to forget; now it gives away 1 of 6."
    )


def test_what_could_not_be_judged_is_said_and_not_counted(tmp_path):
    parts = {"retain": ("retain", "retain", [(PUBLIC[0][0], PUBLIC[0][1], [], PUBLIC[0][3]), PUBLIC[1]])}
    report = build_report(make_run(tmp_path / "run", parts | {"forget": PARTS["forget"]}))
    assert report["headline"]["came_out"][1].endswith("the model knew 1 of 1 facts to keep; now it knows 1 of 1.")
    assert "1 of 2 answers could not be judged (to keep, trained questions)." in report["measured_notes"]
    retain = next(entry for entry in report["answers"] if entry["part"] == "retain")
    assert retain["counts"] == {"unscored": 1, "kept": 1}


def test_when_nothing_could_be_judged_the_headline_says_so():
    entry = {"part": "forget", "items": [1, 2], "known_before": (0, 0), "known_after": (0, 0)}
    assert headline({}, [entry])["came_out"] == [
        "Whether the model still gives away the facts to forget could not be judged."
    ]


def test_a_purged_folder_still_has_a_report_of_its_numbers(tmp_path):
    run = make_run(tmp_path / "run", texts=False)
    (run / "recipe.yaml").unlink()
    (run / "log.jsonl").unlink()
    write_report(run)
    report = run_dir.read_json(run / "report.json")
    assert report["answers"] == []
    assert report["headline"]["asked"] == "6 facts to forget, 5 to keep."
    assert report["metrics"][0]["rows"][0]["after"]["value"] == pytest.approx(5 / 6)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"not a run folder"):
        write_report(tmp_path)


def test_all_three_files_are_written_for_the_owner_alone(run):
    assert write_report(run) == run / "report.html"
    for name in ("report.json", "report.html", "model_card.md"):
        assert (run / name).stat().st_mode & 0o777 == 0o600


def test_a_redacted_report_holds_no_text_of_the_run_in_any_file(run):
    manifest = run_dir.read_json(run / "manifest.json")
    run_dir.write_json(run / "manifest.json", manifest | {"model": {"system_prompt": "You know Tamsin."}})
    recipe = (run / "recipe.yaml").read_text().replace("system_prompt: null", "system_prompt: You know Tamsin.")
    run_dir.write_text(run / "recipe.yaml", recipe)
    texts = {
        *texts_of(run),
        "data/private.jsonl",
        "data/public.jsonl",
        "data/learn.jsonl",
        "You know Tamsin.",
        "Orrery",
    }
    assert len(texts) > 90
    write_report(run, redact=True)
    for name in ("report.json", "report.html", "model_card.md"):
        written = (run / name).read_text(encoding="utf-8")
        assert [text for text in sorted(texts) if json.dumps(text)[1:-1] in written or text in written] == []
    report = run_dir.read_json(run / "report.json")
    assert report["redacted"] is True
    assert report["answers"][0]["counts"] == {"forgotten": 5, "known": 1}
    assert report["answers"][0]["items"][0]["before"]["entity_counts"] == [2, 2]
    assert report["provenance"]["inputs"][0]["sha256"] == "ab" * 32
    assert report["metrics"] == build_report(run)["metrics"]


def test_the_model_card_has_numbers_and_no_text_of_a_record(run):
    card = model_card(build_report(run))
    assert card.startswith("---\nbase_model: smollm2-135m-instruct\n")
    assert "library_name: peft" in card
    assert "| KFR ↑ | 0.000 (0.000 to 0.000) | 0.833 (0.535 to 1.000) | 6 |" in card
    assert "- learning\\_rate: 0.0005" in card
    assert [text for text in texts_of(run) if text in card] == []


FORMS = [("eco", "A prompt classifier"), ("offset", "A small model's LoRA"), ("my_method", "A change of a model")]


@pytest.mark.parametrize(("folder", "says"), FORMS)
def test_the_model_card_of_an_inference_time_method_offers_no_adapter_to_load(run, folder, says):
    manifest = run_dir.read_json(run / "manifest.json")
    manifest["stages"]["unlearn"]["outputs"] = [folder]
    run_dir.write_json(run / "manifest.json", manifest)
    card = model_card(build_report(run))
    assert says in card
    assert "library_name: peft" not in card


def test_the_model_card_escapes_what_markdown_would_act_on(run):
    recipe = (run / "recipe.yaml").read_text().replace("smollm2-135m-instruct", "<b>*m*|[x](y)")
    run_dir.write_text(run / "recipe.yaml", recipe)
    card = model_card(build_report(run))
    assert "# Unlearned: &lt;b&gt;\\*m\\*\\|\\[x\\](y)" in card
    assert "<b>" not in card.partition("---\n\n")[2]


def test_changes_count_only_where_intervals_lie_apart():
    def measured(value, low, high):
        return {"value": value, "low": low, "high": high}

    low, high = measured(0.2, 0.1, 0.3), measured(0.8, 0.6, 0.9)
    assert change(low, high, "higher") == "better"
    assert change(low, high, "lower") == "worse"
    assert change(high, low, "lower") == "better"
    assert change(low, measured(0.35, 0.25, 0.5), "higher") == "same"
    assert change(measured(1, None, None), measured(2, None, None), "lower") == "worse"
    assert (
        change(low, high, None) == change(None, high, "lower") == change(low, measured(None, None, None), "lower") == ""
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0.000"),
        (0.95349, "0.953"),
        (9.9, "9.900"),
        (12.34, "12.3"),
        (1743.5, "1,744"),
        (1e30, "1.00e+30"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0 %"), (1, "100 %"), (0.996, "99.6 %"), (0.002, "0.2 %"), (0.5, "50 %"), (0.835, "84 %")],
)
def test_all_and_none_are_said_of_all_and_none_only(value, shown):
    assert percent(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (3.21, "3.2 s"), (59.4, "59.4 s"), (60, "1 min 00 s"), (3599.7, "1 h 00 min"), (7325, "2 h 02 min")],
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown


def test_the_table_on_the_screen_fits_eighty_columns(run):
    from rich.console import Console

    summary = run_dir.read_json(run / "summary.json")
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(summary))
    text = console.export_text()
    assert "…" not in text
    (line,) = [line for line in text.splitlines() if "KFR" in line and "0.833" in line]
    assert line.split() == ["KFR", "↑", "0.000", "0.833", "0.535", "to", "1.000"]
    assert "1 not judged" in text
    assert text.index("To forget, trained questions (6)") < text.index("To keep, other questions (4)")


def printed(summary) -> str:
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(summary))
    return console.export_text()


FELL = {
    "value": -0.8333,
    "low": -1.0,
    "high": -0.5351,
    "n": 5,
    "unpaired": 1,
    "wins": 5,
    "losses": 0,
    "ties": 0,
    "p": 0.0625,
    "clusters": 3,
    "cluster_wins": 3,
    "cluster_losses": 0,
    "note": "1 of 6 left out: 1 unscored after",
}


def with_difference(run, **changes) -> dict:
    """The run's summary with a paired difference of ROUGE-L on the forget set."""
    summary = run_dir.read_json(run / "summary.json")
    summary["difference"] = {"forget": {"rouge_l": FELL}} | changes
    run_dir.write_json(run / "summary.json", summary)
    return summary


def test_the_table_on_the_screen_shows_the_change_with_its_interval(run):
    text = printed(with_difference(run))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    line = next(line for line in text.splitlines() if "ROUGE-L" in line)
    assert line.split()[-6:] == ["-1.000", "to", "-0.535", "p", "=", "0.062"]
    assert "change" in text
    assert "change" not in printed(run_dir.read_json(run / "summary.json") | {"difference": {}})


def test_the_report_has_the_change_where_it_was_measured(run):
    with_difference(run)
    rows = {row["name"]: row for row in build_report(run)["metrics"][0]["rows"]}
    assert rows["rouge_l"]["difference"] == FELL
    assert rows["rouge_l"]["change"] == "better"
    assert rows["kfr"]["difference"] is None


def test_a_change_is_judged_by_the_interval_of_the_difference_where_there_is_one():
    def measured(value, low, high):
        return {"value": value, "low": low, "high": high}

    before, after = measured(0.5, 0.3, 0.7), measured(0.6, 0.4, 0.8)
    assert change(before, after, "higher") == "same"
    assert change(before, after, "higher", measured(0.1, 0.02, 0.2)) == "better"
    assert change(before, after, "lower", measured(0.1, 0.02, 0.2)) == "worse"
    assert change(measured(0, 0, 0), measured(1, 1, 1), "lower", measured(0.1, 0, 0.2)) == "same"
    assert change(before, after, "higher", measured(0.1, None, None)) == "same"
    assert change(before, measured(9, 9, 9), "closer") == ""


def test_what_numbers_leave_out_and_how_often_questions_were_asked_is_said(run):
    summary = run_dir.read_json(run / "summary.json")
    for name in ("ls", "ls_paper"):
        entry = {"unscored": 2, "missing": "2 of 6 unscored: no log-probabilities of the response", "repeats": 3}
        summary["after"]["forget"][name] |= entry
    run_dir.write_json(run / "summary.json", summary)
    notes = build_report(run)["measured_notes"]
    reason = "LS, LS (paper): 2 of 6 unscored: no log-probabilities of the response (to forget, trained questions)."
    assert reason in notes
    assert notes[-1].startswith("Questions were asked up to 3 times: the numbers are means of all answers")


@pytest.mark.parametrize(("value", "shown"), [(0.5, "+0.500"), (-0.5, "-0.500"), (0, "0.000"), (None, "–")])
def test_differences_show_their_sign(value, shown):
    assert signed(value) == shown


@pytest.mark.parametrize(
    ("p", "shown"), [(None, ""), (1, "p = 1.00"), (0.0625, "p = 0.062"), (0.001, "p = 0.001"), (0.0004, "p < 0.001")]
)
def test_the_chance_of_a_sign_test_is_never_said_to_be_zero(p, shown):
    assert chance({"p": p}) == shown
    assert chance(None) == ""


def test_of_a_question_asked_several_times_the_first_answer_is_shown():
    rows = [
        {"id": "a", "question": "Who?", "reference": "Ned.", "response": text, "repeat": number}
        for number, text in enumerate(["Ned.", "Nobody.", "No."])
    ]
    scored = {"items": {"a": {"forgotten": False, "repeats": [False, True, True]}}}
    (item,) = pair_items("forget", rows, rows, scored, scored)
    assert item["after"]["response"] == "Ned."
    assert item["after"]["repeats"] == [False, True, True]
