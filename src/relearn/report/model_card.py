"""Format model_card.md: the adapter or model, its training data counts, settings and metrics, without record texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from relearn.report.labels import MISSING, counted, in_order, interval, metric_label, number

PAPER = "[arXiv 2502.11190](https://arxiv.org/abs/2502.11190)"
_LIMITS = """## Limits

{measured} Other wordings, jailbreak prompts, quantised weights or further training may bring a fact back. KFR counts an
answer that names nothing of the reference as forgotten, be it vague, wrong or gibberish."""
_ASKED = "Measured on the questions above alone."
_ATTACKED = "Measured on the questions above and under the attacks that report.html lists."


def model_card(report: Mapping[str, Any]) -> str:
    """Format the model card from the content of report.json: YAML front matter for model hubs, then Markdown."""
    sections = (_front_matter, _what, _data, _training, _numbers)
    limits = _LIMITS.format(measured=_ATTACKED if report["audits"] else _ASKED)
    return "\n\n".join([*(section(report) for section in sections), limits]) + "\n"


def _front_matter(report: Mapping[str, Any]) -> str:
    method, lora = report["method"]["method"], report["method"]["makes"] == "adapter"
    tags = [*(["lora"] if lora else []), "unlearning", "relearn", *([method] if method else [])]
    values = {"base_model": report["model"]["name"], "tags": list(dict.fromkeys(tags))}
    if lora:
        values["library_name"] = "peft"
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


_FORMS = {
    "adapter": "A LoRA adapter in PEFT format",
    "model": "A fully fine-tuned model",
    "offset": "A small model's LoRA adapter, whose change in logits is added at inference,",
    "eco": "A prompt classifier with the noise laid over the prompts it flags, at inference,",
}


def _what(report: Mapping[str, Any]) -> str:
    form = _FORMS.get(report["method"]["makes"], "A change of a model")
    first = " The facts were taught to the model first, for this run." if report["model"]["learned_first"] else ""
    name, method = _inline(report["model"]["name"]), _inline(report["method"]["method"])
    head = report["headline"]
    return (
        f"# Unlearned: {name}\n\n{form} that makes its model forget chosen facts and keep the others, by the method "
        f"{method} of relearn ({PAPER}).{first}\n\n" + " ".join([head["asked"], *head["holds"], *head["came_out"]])
    )


def _data(report: Mapping[str, Any]) -> str:
    asked = [f"- {entry['title']}: {counted(len(entry['items']), 'question')}" for entry in report["answers"]]
    rows = sum(entry["rows"] for entry in report["synthesis"]["counts"])
    if rows:
        asked.append(f"- Training rows written to forget: {rows:,}; rejected texts: {report['rejections']['total']:,}")
    return "\n".join(["## Data", "", "The texts are not part of this card.", "", *asked])


def _training(report: Mapping[str, Any]) -> str:
    method = report["method"]
    settings = {key: method[key] for key in ("epochs", "learning_rate", "batch_size", "accumulation", "generator")}
    lora = method["lora"] or {}
    if lora and report["method"]["makes"] in ("adapter", "offset"):
        settings |= {f"lora {key}": lora[key] for key in ("r", "alpha", "dropout", "target") if key in lora}
    settings |= {"seed": report["provenance"]["seed"], **report["provenance"]["versions"]}
    lines = [f"- {_inline(key)}: {_inline(value)}" for key, value in settings.items() if value is not None]
    return "\n".join(["## Training", "", *lines])


def _numbers(report: Mapping[str, Any]) -> str:
    lines = ["## Measured", "", "With 95 % intervals."]
    for entry in report["metrics"]:
        rows = {row["name"]: row for row in entry["rows"]}
        lines += ["", f"### {entry['title']}", "", "| | before | after | answers |", "|---|---|---|---|"]
        lines += [_row(name, rows[name]) for name in in_order(rows)]
    if report["measured_notes"]:
        lines += ["", *(f"- {_inline(note)}" for note in report["measured_notes"])]
    return "\n".join(lines)


def _row(name: str, row: Mapping[str, Any]) -> str:
    measured = row["after"] or row["before"]
    arrow = {"higher": " ↑", "lower": " ↓"}.get(row["better"], "")
    return f"| {metric_label(name)}{arrow} | {_cell(row['before'])} | {_cell(row['after'])} | {measured['n']:,} |"


def _cell(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return MISSING
    bounds = interval(measured)
    return number(measured["value"]) + (f" ({bounds})" if bounds else "")


def _inline(value: Any) -> str:
    """Put `value` on one line and escape the special characters of Markdown and HTML."""
    text = " ".join(str(value).split())
    for character in "\\`*_[]<>|":
        text = text.replace(character, {"<": "&lt;", ">": "&gt;"}.get(character, f"\\{character}"))
    return text
