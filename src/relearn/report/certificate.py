"""Build the contents of certificate.json from the files of an audit, sign them, and render certificate.html.

A certificate contains numbers, names of attacks and metrics, hashes of models, and keyed hashes of record ids; no text
of a record. It has no floats: shares are texts with four decimals, so that its canonical JSON has one form.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from relearn.audits.strength import FULL, STANDARD
from relearn.core.errors import InputError
from relearn.core.owner_key import OwnerKey, canonical_json, is_signed, read_canonical
from relearn.core.run_dir import AUDITS, SIDES, RunFolder
from relearn.report.html import TEMPLATES, digest, environment
from relearn.report.labels import metric_label, part_title
from relearn.report.sections import reads_model

FORMAT = 1
FORMAT_KEY = "relearn_certificate"
ALGORITHM = "Ed25519"
NO_CONTROL, _NONE = "none was given", "none"
_LARGEST = 1 << 25  # bytes
VERDICT_TITLES = {
    "there": "still there",
    "hidden": "hidden",
    "gone": "gone",
    "not_attacked": "not attacked",
    "not_calibrated": "not calibrated",
    "never_known": "never known",
    "not_measured": "not measured",
}
LIMITS = (
    "It is about these weights alone, named by their hashes. It says nothing about other copies, earlier checkpoints, "
    "adapters that were handed out, retrieval stores, caches, logs or training data.",
    "A fact is called gone where none of the attacks listed here brought it back. Attacks that were not tried, or are "
    "not known yet, may.",
    "Facts are found in answers by rules and measured on a sample of prompts; intervals are 95 % intervals.",
    "It is a record of measurements, signed by the owner of the key. It is no legal statement and no proof of erasure.",
)
REMOVABLE = (
    "What was attacked is the model with its adapter merged. Whoever has the start model, or can take the adapter off, "
    "has the facts."
)
# Most rows of each table on the page; certificate.json has all.
_SHOWN_ATTACKS, _SHOWN_FACTS, _SHOWN_KEPT = 20, 30, 6
# Metrics of what was kept and of what was forgotten, with the parts of summary.json that they are read from.
_KEPT = (("retain", "krr"), ("retain_heldout", "krr"), ("forget", "kfr"), ("forget_heldout", "kfr"))
_ABILITY = "ability"


def audit_entries(run: RunFolder) -> dict[str, Any]:
    """Return strength, control, attacks and worst case of the audit in a run folder."""
    about = run.json(f"{AUDITS}/about.json")
    control = about.get("control") or NO_CONTROL
    worst = run.audit_worst_case
    return {
        "strength": about.get("strength") or None,
        "reaches_standard": reaches_standard(about),
        "samples": about.get("samples"),
        "facts": len(run.verdicts),
        "control": _control_kind(control),
        "attacks": [_attack(name, row, run) for name, row in run.audit_summary.items()],
        "worst": {name: counted_share(worst.get(name)) for name in ("plain", "after")},
        "krr_on_retain_sample": decimal(about.get("krr_unchanged")),
    }


def _control_kind(control: str) -> str:
    """Describe the control model without its name, which may be the path of a folder."""
    base = "before any fine-tuning"
    return _NONE if control == NO_CONTROL else f"the model {base}" if control.endswith(base) else "a named model"


def reaches_standard(about: Mapping[str, Any]) -> bool:
    """Return whether an audit tried at least the attacks of strength "standard", as hard as it does."""
    needed = set(STANDARD.attacks or ()) - {"adapters"}
    named = (about.get("strength") or "").partition(",")[0] in (STANDARD.name, FULL.name)
    return named and needed <= set(about.get("attacks", ())) and about.get("samples", 0) >= STANDARD.samples


def _attack(name: str, row: Mapping[str, Any], run: RunFolder) -> dict[str, Any]:
    document = run.json(f"{AUDITS}/{name}.json")
    about = {"name": name, "title": document.get("title", name), "decides": bool(document.get("counts", False))}
    sides = (*SIDES, "control")
    if reads_model(row):
        return {**about, "measure": row["shown"], **{side: measured(row[side].get(row["shown"])) for side in sides}}
    variants = document.get("variants", {})
    shares = {side: counted_share((row.get(side) or {}).get("stated")) for side in sides}
    return {**about, "variants": len(variants), **shares, "brought_back": counted_share(row.get("back"))}


def measured(measurement: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return value and interval as decimals, with the number of items; None for what was not measured."""
    if not measurement or measurement.get("value") is None:
        return None
    return {**{key: decimal(measurement.get(key)) for key in ("value", "low", "high")}, "n": measurement.get("n")}


def counted_share(measurement: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a share of facts as `measured` does, with the number of facts that it counts."""
    share = measured(measurement)
    if measurement is None or share is None or share["n"] is None:
        return share
    return {**share, "count": round(measurement["value"] * share["n"])}


def decimal(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def kept_entries(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return KRR, KFR and general ability, each before and after unlearning; [] where nothing was scored."""
    sides = {side: summary.get(side) or {} for side in SIDES}
    ability = sorted({name for side in sides.values() for name in side.get(_ABILITY) or {}})
    rows = [
        {
            "part": part,
            "metric": metric,
            **{side: measured((parts.get(part) or {}).get(metric)) for side, parts in sides.items()},
        }
        for part, metric in (*_KEPT, *((_ABILITY, name) for name in ability))
    ]
    return [row for row in rows if row["before"] or row["after"]]


def fact_entries(
    verdicts: Sequence[Mapping[str, Any]],
    without: Mapping[str, str],
    audit: Mapping[str, Any],
    *,
    guessed: Collection[str],
    keyed: Callable[[str], str],
) -> list[dict[str, Any]]:
    """Return the verdict on every fact, sorted by keyed hash so that the order tells nothing.

    `without`: the verdict on a forget record that the audit has none on, by id. `guessed`: ids of facts that the
    control model states, which no audit can call gone. `keyed`: computes the keyed hash of an id.
    """
    by_id = {row["id"]: row for row in verdicts}
    facts = []
    for record_id in dict.fromkeys([*without, *by_id]):
        row = by_id.get(record_id, {})
        verdict = row.get("verdict") or without[record_id]
        if verdict == "gone":
            verdict = _verdict_of_gone(audit, is_guessed=record_id in guessed)
        facts.append({"id": keyed(record_id), "verdict": verdict, "by": list(row.get("by", ()))})
    return sorted(facts, key=lambda fact: fact["id"])


def _verdict_of_gone(audit: Mapping[str, Any], *, is_guessed: bool) -> str:
    """Return what the verdict "gone" of an audit counts as, by its strength and its control model."""
    if not audit["reaches_standard"]:
        return "not_attacked"
    return "not_calibrated" if is_guessed or audit["control"] == _NONE else "gone"


def is_calibrated(verdicts: Sequence[Mapping[str, Any]], audit: Mapping[str, Any], guessed: Collection[str]) -> bool:
    """Return whether there is a control model that does not state all the facts itself, as the start model would."""
    known = [row["id"] for row in verdicts if row["verdict"] != "never_known"]
    return audit["control"] != _NONE and not (known and all(record_id in guessed for record_id in known))


def counts_of(facts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the facts by verdict, in the order of VERDICT_TITLES."""
    counts = Counter(fact["verdict"] for fact in facts)
    return {name: counts[name] for name in VERDICT_TITLES if counts[name]}


def sign(document: Mapping[str, Any], key: OwnerKey) -> dict[str, Any]:
    """Return the document with a signature over its canonical JSON, the public key included."""
    signer = {"algorithm": ALGORITHM, "public_key": key.public}
    signature = key.sign(canonical_json({**document, "signature": signer}))
    return {**document, "signature": {**signer, "value": signature}}


def has_valid_signature(document: Mapping[str, Any]) -> bool:
    """Return whether the document is exactly what the key that it names has signed."""
    signature = document.get("signature")
    if not isinstance(signature, dict) or set(signature) != {"algorithm", "public_key", "value"}:
        return False
    signer = {name: signature[name] for name in ("algorithm", "public_key")}
    texts = all(isinstance(value, str) for value in signature.values())
    if not texts or signer["algorithm"] != ALGORITHM:
        return False
    try:
        content = canonical_json({**document, "signature": signer})
    except (ValueError, RecursionError):
        return False
    return is_signed(content, signature["value"], signer["public_key"])


def read_certificate(path: Path) -> dict[str, Any]:
    """Read certificate.json. Raises InputError for a file that is no certificate, or one of a later format."""
    way_out = "give the file certificate.json that relearn certify wrote"
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError("is too large for a certificate", where=str(path), way_out=way_out)
        document = read_canonical(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), way_out=way_out) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), way_out=way_out) from None
    except ValueError as error:
        raise InputError(f"is no certificate: {error}", where=str(path), way_out=way_out) from None
    if not isinstance(document, dict) or not isinstance(document.get(FORMAT_KEY), int):
        raise InputError("is no certificate of relearn", where=str(path), way_out=way_out)
    if document[FORMAT_KEY] > FORMAT:
        raise InputError("is of a later version of relearn", where=str(path), way_out="update relearn")
    return document


def render_certificate(document: Mapping[str, Any], public_key: str) -> str:
    """Render the unsigned document as an HTML page that prints on one sheet of A4."""
    style = (TEMPLATES / "certificate.css").read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src '{digest(style)}'; base-uri 'none'; form-action 'none'"
    facts, attacks = document["facts"], document["audit"]["attacks"]
    return (
        environment()
        .get_template("certificate.html")
        .render(
            document=document,
            public_key=public_key,
            style=Markup(style),
            policy=policy,
            titles=VERDICT_TITLES,
            verdicts=document["verdicts"],
            files=_file_rows(document["models"]),
            facts=facts[:_SHOWN_FACTS],
            attacks=attacks[:_SHOWN_ATTACKS],
            kept=[
                {
                    **row,
                    "title": part_title(row["part"], document["method"] is not None),
                    "label": metric_label(row["metric"]),
                }
                for row in document["kept"][:_SHOWN_KEPT]
            ],
            conclusion=conclusion(document),
            calibration=_calibration(document),
        )
    )


def _file_rows(models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each part of the models, with the models that it is a part of."""
    rows = [{**part, "sides": side} for side in SIDES for part in models[side]]
    for row in [row for row in rows if row["sides"] == "before"]:
        if (same := {**row, "sides": "after"}) in rows:
            rows.remove(same)
            row["sides"] = "before and after"
    if models["exported"]:
        rows.append({"sides": "exported", "part": "merged weights", "sha256": models["exported"]})
    return rows


def conclusion(document: Mapping[str, Any]) -> str:
    """State in a sentence how many of the facts are gone."""
    counts = document["verdicts"]
    if not document["audit"]["reaches_standard"]:
        tried = document["audit"]["strength"] or "not recorded"
        return f"Not attacked hard enough for a verdict: the audit's strength is {tried}, and standard is needed."
    if not document["calibrated"]:
        return "Not calibrated: no control model separates what the model remembers from what can be guessed."
    known = sum(counts.get(name, 0) for name in ("there", "hidden", "gone", "not_calibrated"))
    others = [f"{counts[name]} {_WERE[name]}" for name in _WERE if counts.get(name)]
    share = f"{counts.get('gone', 0)} of {known} facts that the model knew are gone"
    return " ".join([f"{share}: none of the attacks below brought them back.", *(f"{one}." for one in others)])


_WERE = {"not_calibrated": "cannot be judged: the control model states them too", "not_attacked": "were not attacked"}


def _calibration(document: Mapping[str, Any]) -> str:
    control, strength = document["audit"]["control"], document["audit"]["strength"] or "not recorded"
    known = f"control: {control}" if document["calibrated"] else f"not calibrated (control: {control})"
    return f"Strength of the audit: {strength}; {known}."


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
