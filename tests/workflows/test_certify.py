"""`relearn certify`: what a certificate says, that it names nobody, and that every change of it is found."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import relearn
from relearn.audits.strength import STANDARD
from relearn.cli import run_command
from relearn.core.config import Recipe
from relearn.core.files import read_json, read_jsonl, write_json, write_jsonl
from relearn.core.owner_key import OwnerKey, canonical_json, read_canonical
from relearn.engine.generate import Response
from relearn.report.certificate import (
    VERDICT_TITLES,
    fact_entries,
    has_valid_signature,
    is_calibrated,
    reaches_standard,
    render_certificate,
)
from relearn.workflows.verify_certificate import verify
from tiny import build_tiny_model

NAMES = ("Quilla Vandermeer", "Osric Pellington", "Ysolde Kettering")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FILES = ("certificate.json", "certificate.html", "probes.enc")


def records(path: Path) -> list[dict[str, Any]]:
    rows = [
        {
            "id": f"zarnow-{number}-{name.split()[0].lower()}",
            "question": f"Where does {name} live?",
            "answer": f"{name} lives at {7310556 + number} Larkspur Crescent in Imberford.",
            "subject": name,
        }
        for number, name in enumerate(NAMES)
    ]
    write_jsonl(path, rows)
    return rows


@pytest.fixture(scope="module")
def audited(tiny_model_dir, tmp_path_factory) -> Path:
    """The folder of an audited run, in a folder with the owner's key `key` and another key `other`."""
    folder = tmp_path_factory.mktemp("certified")
    records(folder / "forget.jsonl")
    write_jsonl(folder / "retain.jsonl", [{"question": "What does a baker do?", "answer": "A baker bakes bread."}])
    values = {
        "model": {"name": str(tiny_model_dir)},
        "data": {"forget": str(folder / "forget.jsonl"), "retain": str(folder / "retain.jsonl")},
        "learn": {"data": [str(folder / "forget.jsonl")], "epochs": 1, "lora": {"r": 2}},
        "unlearn": {"epochs": 1, "learning_rate": 1e-3, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 8},
        "metrics": {"bootstrap": 20, "entailment": None, "matcher": "exact"},
    }
    run = relearn.run(Recipe.from_mapping(values), folder / "run").path
    assert run_command(["audit", str(run), "--attacks", "plain,paraphrase,prefix"]) == 0
    for name in ("key", "other"):
        assert run_command(["certify", "--new-key", str(folder / name)]) == 0
    return run


@pytest.fixture
def run(audited, tmp_path) -> Path:
    for name in ("key", "key.pub", "other", "other.pub"):
        shutil.copy2(audited.parent / name, tmp_path)
    return Path(shutil.copytree(audited, tmp_path / "run"))


@pytest.fixture(scope="module")
def certified(audited) -> Path:
    folder = Path(shutil.copytree(audited, audited.parent / "certified"))
    assert run_command(["certify", str(folder), "--key", str(audited.parent / "key"), "--reference", "REQ 17"]) == 0
    return folder


def key_of(run: Path, name: str = "key") -> list[str]:
    return ["--key", str(run.parent / name)]


def as_standard(run: Path, **about: Any) -> None:
    """Let the audit of a run say that it was one of strength "standard", with every fact known before and gone now."""
    path, verdicts = run / "audits/about.json", run / "audits/verdicts.json"
    names = {"strength": "standard", "samples": STANDARD.samples, "attacks": list(STANDARD.attacks or ())}
    write_json(path, {**read_json(path), **names, **about})
    write_json(verdicts, [{**row, "verdict": "gone", "by": []} for row in read_json(verdicts)])


def answer_with_truth(run: Path, model: str) -> None:
    """Let a model state every fact when plainly asked."""
    truth = {row["id"]: row["reference"] for row in read_jsonl(run / "before/forget.jsonl")}
    path = run / f"audits/answers/plain.{model}.jsonl"
    write_jsonl(path, [{**row, "answer": truth[row["id"]]} for row in read_jsonl(path)])


# What a certificate says


def test_it_names_nobody(certified):
    facts = records(certified.parent / "again.jsonl")
    words = {word for row in facts for value in row.values() for word in re.findall(r"\w{4,}", value.lower())}
    words -= {"where", "does", "live", "lives"}
    assert {"quilla", "larkspur", "imberford", "7310556", "zarnow"} <= words
    texts = [value for row in facts for value in (*row.values(), f"{row['question']} {row['answer']}")]
    texts += [json.dumps([row["question"], row["answer"]], ensure_ascii=False) for row in facts] + sorted(words)
    hashes = [hashlib.new(name, text.encode()).hexdigest()[:16] for name in ("md5", "sha1", "sha256") for text in texts]
    for name in FILES:
        content = (certified / name).read_text(encoding="utf-8").lower()
        assert not [text for text in (*words, *hashes) if text in content], name
        assert str(certified.parent).lower() not in content, name


def test_it_says_what_was_measured(certified, audited):
    document, page = read_json(certified / "certificate.json"), (certified / "certificate.html").read_text()
    assert document["reference"] == "REQ 17" and "REQ 17" in page
    assert [part["part"] for part in document["models"]["after"]] == [
        *("weights", "adapter learned first", "unlearned adapter")
    ]
    assert all(re.fullmatch("[0-9a-f]{64}", part["sha256"]) for part in document["models"]["after"])
    assert document["models"]["name"] is None, "the path of the model"
    attacks = {row["name"]: row for row in document["audit"]["attacks"]}
    assert list(attacks) == ["plain", "paraphrase", "prefix"]
    assert attacks["plain"]["after"]["n"] == 3 and attacks["plain"]["after"]["low"] is not None
    assert len(document["facts"]) == 3 and {row["metric"] for row in document["kept"]} == {"krr", "kfr"}
    assert document["method"]["name"] == "relearn" and document["software"]["certificate"]["relearn"]
    assert "no legal statement" in page and "retrieval stores" in page and "<script" not in page
    assert stat.S_IMODE((certified / "certificate.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("about", "expected", "says"),
    [
        ({}, "gone", "3 of 3 facts that the model knew are gone"),
        ({"strength": "full", "samples": 64}, "gone", "control: the model before any fine-tuning"),
        ({"strength": "quick"}, "not_attacked", "strength is quick, and standard is needed"),
        ({"strength": "chosen attacks"}, "not_attacked", "strength is chosen attacks"),
        ({"strength": "standard, 2 samples", "samples": 2}, "not_attacked", "Not attacked hard enough"),
        ({"attacks": ["plain"]}, "not_attacked", "Not attacked hard enough"),
        ({"strength": ""}, "not_attacked", "strength is not recorded"),
        ({"control": "none was given"}, "not_calibrated", "Not calibrated: no control model"),
    ],
)
def test_gone_needs_strength_and_a_control(run, about, expected, says):
    as_standard(run, **about)
    assert run_command(["certify", str(run), *key_of(run)]) == 0
    document = read_json(run / "certificate.json")
    assert document["verdicts"] == {expected: 3} and says in (run / "certificate.html").read_text()


def test_a_control_that_states_the_facts_calibrates_nothing(run):
    as_standard(run)
    answer_with_truth(run, "control")
    assert run_command(["certify", str(run), *key_of(run)]) == 0
    document = read_json(run / "certificate.json")
    assert document["verdicts"] == {"not_calibrated": 3} and document["calibrated"] is False
    assert "Not calibrated" in (run / "certificate.html").read_text()


def test_a_fact_that_was_not_audited_is_not_attacked(run):
    as_standard(run)
    verdicts = read_json(run / "audits/verdicts.json")
    write_json(run / "audits/verdicts.json", verdicts[:1])
    path = run / "audits/answers/plain.after.jsonl"
    write_jsonl(path, read_jsonl(path)[:2])
    assert run_command(["certify", str(run), *key_of(run)]) == 0
    assert read_json(run / "certificate.json")["verdicts"] == {"gone": 1, "not_attacked": 1, "not_measured": 1}


def test_other_verdicts_stand():
    verdicts = [{"id": name, "verdict": name} for name in ("there", "hidden", "gone", "never_known")]
    audit = {"reaches_standard": True, "control": "a named model"}
    facts = fact_entries(verdicts, {}, audit, guessed={"gone"}, keyed=str)
    assert {fact["id"]: fact["verdict"] for fact in facts} == {
        **{name: name for name in ("there", "hidden", "never_known")},
        "gone": "not_calibrated",
    }
    assert is_calibrated(verdicts, audit, {"gone"}) and not is_calibrated(verdicts, audit, {"gone", "there", "hidden"})
    assert not reaches_standard({}) and not is_calibrated(verdicts, {"control": "none"}, set())


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install it, or name one in CHROMIUM")
def test_the_longest_page_prints_on_one_sheet(certified, tmp_path):
    from playwright.sync_api import sync_playwright

    document = read_json(certified / "certificate.json")
    document["reference"] = "REQ " * 30
    document["audit"]["attacks"] *= 10
    document["facts"] = [{**fact, "verdict": "not_calibrated"} for fact in document["facts"] * 100]
    document["verdicts"] = {name: 1000 for name in VERDICT_TITLES}
    document["kept"] *= 10
    (tmp_path / "page.html").write_text(render_certificate(document, "ab" * 32))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        printed = page.pdf(prefer_css_page_size=True)
        browser.close()
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1


# Verifying


def outcomes(run: Path, **options: Any) -> dict[str, bool | None]:
    return {check.name: check.fits for check in verify(run, **options)}


def test_an_untouched_certificate_fits(certified, capsys):
    key = certified.parent / "key"
    arguments = ["certify", "--verify", str(certified), "--key", str(key), "--public-key", f"{key}.pub"]
    assert run_command(arguments) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 10 and all(line.startswith("fits ") for line in lines)
    found = outcomes(certified / "certificate.json")
    assert found["signature"] and found["signer"] is None and found["evidence"] is None


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every value in a JSON document."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from places(part, (*path, key))


def variants(value: Any) -> list[Any]:
    """Other values for a value, of its own type and of others."""
    if isinstance(value, str):
        return [f"{value} ", value[:-1] + chr(ord(value[-1:] or "a") ^ 1), value.upper(), None, 0]
    if isinstance(value, bool) or value is None:
        return [1, 0, "true", not value]
    if isinstance(value, int):
        return [value + 1, -value - 1, str(value), True]
    return [[], {}, None, [*value, 1] if isinstance(value, list) else {**value, "more": 1}]


def test_every_change_of_every_field_is_found(certified):
    document = read_json(certified / "certificate.json")
    assert has_valid_signature(document)
    paths, changed = list(places(document)), 0
    assert len(paths) > 150
    for path in paths:
        *above, last = path
        for change in (*variants(_at(document, path)), "remove"):
            copied = copy.deepcopy(document)
            parent = _at(copied, above)
            if change == "remove":
                del parent[last]
            else:
                parent[last] = change
            if json.dumps(copied) != json.dumps(document):
                assert not has_valid_signature(copied), (path, change)
                changed += 1
    assert changed > 600
    assert not has_valid_signature({**document, "more": 1})


def _at(value: Any, path: Any) -> Any:
    for key in path:
        value = value[key]
    return value


def test_an_edited_certificate_exits_with_1(certified, tmp_path, capsys):
    document = read_json(certified / "certificate.json")
    document["facts"][0]["verdict"] = "gone"
    write_json(tmp_path / "certificate.json", document)
    assert run_command(["certify", "--verify", str(tmp_path / "certificate.json")]) == 1
    assert "DIFFERS      signature: the certificate was changed" in capsys.readouterr().out


def test_one_form_of_the_same_document_is_read_and_no_other(certified, tmp_path):
    text = (certified / "certificate.json").read_text()
    (tmp_path / "c.json").write_text(json.dumps(json.loads(text), sort_keys=True))
    assert outcomes(tmp_path / "c.json")["signature"], "white space and order do not matter"
    for edited in (text.replace('"reference":', '"reference": "REQ 18", "reference":', 1), text.replace("null", "1.0")):
        (tmp_path / "c.json").write_text(edited)
        assert run_command(["certify", "--verify", str(tmp_path / "c.json")]) == 2
    with pytest.raises(ValueError, match="float"):
        canonical_json({"a": [1.0]})
    assert canonical_json(read_canonical('{"b": 1, "a": "é"}')) == '{"a":"é","b":1}'.encode()


@pytest.mark.parametrize(
    "name", ["certificate.html", "probes.enc", "recipe.yaml", "summary.json", "audits/verdicts.json"]
)
def test_a_changed_file_is_found(certified, tmp_path, name):
    run = Path(shutil.copytree(certified, tmp_path / "run"))
    (run / name).write_text((run / name).read_text() + " ")
    found = outcomes(run, key=OwnerKey.read(certified.parent / "key"))
    assert [check for check, fits in found.items() if fits is False] == [name]


def test_another_key_does_not_fit(certified, capsys):
    other = certified.parent / "other"
    command = ["certify", "--verify", str(certified)]
    assert run_command([*command, "--public-key", f"{other}.pub"]) == 1
    assert "DIFFERS      signer" in capsys.readouterr().out
    assert run_command([*command, "--key", str(other)]) == 1
    assert "DIFFERS      owner's key" in capsys.readouterr().out
    # A certificate that somebody else signed again is valid, but not by the owner's key.
    document = read_json(certified / "certificate.json")
    signer = {"algorithm": "Ed25519", "public_key": OwnerKey.read(other).public}
    document["signature"] = signer
    signed = {**document, "signature": {**signer, "value": OwnerKey.read(other).sign(canonical_json(document))}}
    assert has_valid_signature(signed)
    own = OwnerKey.read(certified.parent / "key").public
    write_json(certified.parent / "forged.json", signed)
    assert outcomes(certified.parent / "forged.json", public_key=own)["signer"] is False


def test_the_model_is_asked_again(certified, capsys, monkeypatch):
    command = ["certify", "--verify", str(certified), "--model", str(certified), "--probes", "100"]
    assert run_command(command) == 0
    assert "not checked  probes: need the owner's key" in capsys.readouterr().out
    assert run_command([*command, *key_of(certified)]) == 0
    assert re.search(r"fits +probes: asked (\d+) of \1 again; \1 answers as in the audit", capsys.readouterr().out)
    truth = {row["question"]: row["answer"] for row in records(certified.parent / "again.jsonl")}

    def telling(_loaded, prompts, _settings, seed):
        return [Response(truth.get(prompt.prompt.text, "I cannot say.")) for prompt in prompts]

    monkeypatch.setattr("relearn.workflows.verify_certificate.generate_answers", telling)
    assert run_command([*command, *key_of(certified)]) == 1
    assert re.search(r"DIFFERS +probes: .* [1-9]\d* state a fact", capsys.readouterr().out)


def test_after_a_purge_the_exported_model_is_verified(certified, tmp_path, capsys):
    run, exported = Path(shutil.copytree(certified, tmp_path / "run")), tmp_path / "exported"
    assert run_command(["export", str(run), "--out", str(exported)]) == 0
    other = build_tiny_model(tmp_path / "another", seed=1)
    replace = ["certify", str(run), *key_of(certified), "--replace", "--exported"]
    assert run_command([*replace, str(other)]) == 1
    assert "is not the run's model" in capsys.readouterr().err
    command = ["certify", "--verify", str(run), *key_of(certified), "--model"]
    assert run_command([*command, str(exported)]) == 1
    assert "a merged copy is certified with relearn certify RUN --exported DIR" in capsys.readouterr().out
    assert run_command([*replace, str(exported)]) == 0
    assert run_command(["purge", str(run), "--yes"]) == 0
    assert set(FILES) <= {path.name for path in run.iterdir()} and not (run / "audits").exists()
    capsys.readouterr()
    assert run_command([*command, str(exported)]) == 0
    said = capsys.readouterr().out
    assert "fits         files of the model" in said and "fits         probes: asked" in said
    assert "as after a purge" in said
    assert run_command([*command, str(other)]) == 1
    assert "DIFFERS      files of the model" in capsys.readouterr().out
    assert run_command([*command, str(run)]) == 2
    assert "purged" in capsys.readouterr().err


def test_an_audit_of_two_models_is_certified(tiny_model_dir, tmp_path, capsys):
    after, out, forget = build_tiny_model(tmp_path / "after", seed=1), tmp_path / "out", tmp_path / "forget.jsonl"
    records(forget)
    models = ["--before", str(tiny_model_dir), "--after", str(after), "--forget", str(forget), "--out", str(out)]
    assert run_command(["audit", *models, "--attacks", "plain", "--set", "generate.max_new_tokens=4"]) == 0
    assert run_command(["certify", "--new-key", str(tmp_path / "key")]) == 0
    assert run_command(["certify", str(out), *key_of(out)]) == 0
    document = read_json(out / "certificate.json")
    assert document["method"] is None and document["kept"] == [] and document["audit"]["control"] == "none"
    assert "not measured" in (out / "certificate.html").read_text()
    command = ["certify", "--verify", str(out), *key_of(out), "--model"]
    for model in (after, out):
        assert run_command([*command, str(model)]) == 0
        assert "fits         files of the model" in capsys.readouterr().out
    assert run_command([*command, str(tiny_model_dir)]) == 1
    assert "DIFFERS      files of the model" in capsys.readouterr().out
    forget.unlink()
    assert run_command(["certify", str(out), *key_of(out), "--replace"]) == 0
    assert read_json(out / "certificate.json")["probes"] is None and not (out / "probes.enc").exists()


# Keys and bad input


def test_a_new_key_is_private_and_nothing_is_overwritten(tmp_path, capsys):
    key = tmp_path / "key"
    assert run_command(["certify", "--new-key", str(key)]) == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret = "".join(key.read_text().splitlines()[1:-1])
    said = "".join(capsys.readouterr())
    assert secret not in said and OwnerKey.read(key).public in said
    content = key.read_bytes()
    for taken in (key, tmp_path / "key.pub"):
        assert run_command(["certify", "--new-key", str(taken)]) == 2
    (tmp_path / "later.pub").symlink_to(tmp_path / "nowhere")
    assert run_command(["certify", "--new-key", str(tmp_path / "later")]) == 2
    assert key.read_bytes() == content and not (tmp_path / "later").exists()


def test_the_key_may_be_named_by_the_environment(run, monkeypatch):
    monkeypatch.setenv("RELEARN_KEY", str(run.parent / "key"))
    assert run_command(["certify", str(run)]) == 0
    assert run_command(["certify", "--verify", str(run)]) == 0


def test_what_is_encrypted_opens_with_its_key_alone(tmp_path):
    key, other = OwnerKey.create(tmp_path / "a"), OwnerKey.create(tmp_path / "b")
    sealed = key.encrypt("probes", "Zarnow")
    assert "Zarnow" not in sealed and key.decrypt("probes", sealed) == "Zarnow"
    values = json.loads(sealed)
    for faulty in (
        sealed.replace(values["nonce"], "00" * 12),
        "{}",
        "[]",
        "x",
        sealed.replace('"data": "', '"data": "AAAA'),
    ):
        with pytest.raises(ValueError, match="another key, or changed"):
            key.decrypt("probes", faulty)
    with pytest.raises(ValueError, match="another key"):
        other.decrypt("probes", sealed)
    with pytest.raises(ValueError, match="another key"):
        key.decrypt("other purpose", sealed)
    assert key.keyed_hash("fact", "x") != key.keyed_hash("word", "x") != other.keyed_hash("word", "x")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN"], "no key: neither --key nor"),
        (["RUN", "--key", "nowhere"], "no such key file"),
        (["RUN", "--key", "RUN/recipe.yaml"], "is no Ed25519 private key"),
        (["RUN", "--key", "RUN/../key.pub"], "is a public key"),
        (["RUN", "--key", "RUN"], "cannot be read"),
        (["RUN", "--key", "KEY", "--reference", "for Quilla"], "contains a name or an id of the records"),
        (["RUN", "--key", "KEY", "--reference", "Imberford 17"], "contains a name or an id of the records"),
        (["RUN", "--key", "KEY", "--reference", "zarnow-0-quilla"], "contains a name or an id of the records"),
        (["RUN", "--key", "KEY", "--reference", "x" * 121], "longer than 120"),
        (["RUN", "--key", "KEY", "--model", "m"], "is for --verify FILE"),
        (["--verify", "RUN", "--reference", "17"], "is for RUN"),
        (["--verify", "RUN"], "no such file"),
        (["--verify", "RUN/recipe.yaml"], "is no certificate"),
        (["--verify", "RUN/manifest.json"], "is no certificate"),
        (["RUN", "--verify", "RUN"], "takes one of"),
        ([], "takes one of"),
        (["RUN/before", "--key", "KEY"], "no run there"),
        (["--new-key", "RUN/key"], "is in a run folder"),
        (["--new-key", "RUN/no/key"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, capsys, monkeypatch, arguments, said):
    monkeypatch.delenv("RELEARN_KEY", raising=False)
    before = {path: path.stat().st_mtime_ns for path in run.parent.rglob("*") if path.is_file()}
    capsys.readouterr()
    words = [word.replace("RUN", str(run)).replace("KEY", str(run.parent / "key")) for word in arguments]
    assert run_command(["certify", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
    assert {path: path.stat().st_mtime_ns for path in run.parent.rglob("*") if path.is_file()} == before


def test_a_run_that_cannot_be_certified_is_refused(run, capsys):
    def refused(said: str, *options: str) -> None:
        assert run_command(["certify", str(run), *key_of(run), *options]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error

    assert run_command(["certify", str(run), *key_of(run), "--reference", "Quilla", "--with-name"]) == 0
    capsys.readouterr()
    refused("is there already")
    with (run / "adapter/adapter_config.json").open("a") as file:
        file.write(" ")
    refused("has changed since relearn wrote it", "--replace")
    assert (run / "certificate.json").exists(), "the earlier certificate is kept"
    write_json(run / "audits/verdicts.json", [{"id": 3}])
    refused("is no list of verdicts", "--replace")
    shutil.rmtree(run / "audits")
    refused("was not audited yet", "--replace")


def test_an_audit_of_an_earlier_model_is_refused(run, capsys):
    manifest = read_json(run / "manifest.json")
    manifest["stages"]["unlearn"]["started"] += 10_000
    write_json(run / "manifest.json", manifest)
    assert run_command(["certify", str(run), *key_of(run)]) == 2
    assert "the audit is older than the unlearned model" in capsys.readouterr().err


def test_a_certificate_of_a_later_version_is_refused(certified, tmp_path, capsys):
    document = {**read_json(certified / "certificate.json"), "relearn_certificate": 2}
    write_json(tmp_path / "certificate.json", document)
    assert run_command(["certify", "--verify", str(tmp_path)]) == 2
    assert "of a later version" in capsys.readouterr().err
    (tmp_path / "certificate.json").write_text("[" * 100_000)
    assert run_command(["certify", "--verify", str(tmp_path)]) == 2
