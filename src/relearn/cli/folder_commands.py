"""Define the commands on finished runs (report, certify, export, purge, ui), and list, check-plugin and doctor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from relearn.cli.app import Count, Trust, app, registries


@app.command
def report(folder: Path, *, redact: bool = False) -> None:
    """Write the report of a run again.

    Parameters
    ----------
    folder
        A run folder.
    redact
        Leave out all texts of records and answers.
    """
    from relearn.core.console import note
    from relearn.core.ownership import own_folder
    from relearn.core.run_dir import locked
    from relearn.report.build import write_report

    with locked(run := own_folder(folder)):
        note(f"report: {write_report(run.path, redact=redact)}")


@app.command
def certify(
    run: Path | None = None,
    *,
    key: Path | None = None,
    reference: str = "",
    with_name: bool = False,
    replace: bool = False,
    exported: Path | None = None,
    new_key: Path | None = None,
    verify: Path | None = None,
    public_key: Path | None = None,
    model: str | None = None,
    probes: Count | None = None,
    trust_remote_code: Trust = False,
) -> int:
    """Write a signed certificate of an audited run without any text of its records, or verify one.

    With --verify, one line per check; exit code 1 when a check does not fit. See docs/certificate.md.

    Parameters
    ----------
    run
        The folder of a run, or of an audit of two models, after relearn audit.
    key
        The file of your Ed25519 private key; by default the file that the environment variable RELEARN_KEY names.
    reference
        Who asked, as a reference such as a number; not the name.
    with_name
        Accept a reference that contains a name or an id of the records.
    replace
        Replace an earlier certificate in this folder; the probes of the earlier one are lost.
    exported
        The folder that relearn export wrote: name its hash too, after comparing its logits with the run's.
    new_key
        Make a new key: the private key in this file (mode 0600), the public key in FILE.pub. Overwrites nothing.
    verify
        Check this certificate.json, or that of this folder. With --key, also the files that its verdicts rest on.
    public_key
        With --verify: the public key that must have signed it.
    model
        With --verify: a run folder, a model folder or a name. Compare its files, and with --key ask it some probes.
    probes
        With --model: how many questions of the audit are asked again, drawn at random; 20 by default.
    """
    from relearn.core.console import note
    from relearn.core.errors import InputError
    from relearn.core.owner_key import find_key

    if sum(one is not None for one in (run, new_key, verify)) != 1:
        raise InputError("takes one of RUN, --new-key FILE and --verify FILE", where="certify")
    of_run = {"--reference": reference, "--with-name": with_name, "--replace": replace, "--exported": exported}
    of_verify = {"--public-key": public_key, "--model": model, "--probes": probes}
    for options, mode in ((of_run, run), (of_verify, verify)):
        if mode is None and (given := [name for name, value in options.items() if value]):
            raise InputError("is for RUN" if options is of_run else "is for --verify FILE", where=given[0])
    if new_key is not None:
        _make_key(new_key)
    if run is not None:
        from relearn.workflows.certify import certify as certify_run

        options = {"replace": replace, "exported": exported, "trust_remote_code": trust_remote_code}
        path = certify_run(run, find_key(key), reference=reference, with_name=with_name, **options)
        note(f"certificate: {path}, page to print: {path.with_suffix('.html')}")
    if verify is not None:
        sample = {"sample": probes} if probes else {}
        options = {"model": model, "trust_remote_code": trust_remote_code, **sample}
        return _print_checks(verify, key, public_key, options)
    return 0


def _make_key(path: Path) -> None:
    from relearn.core.console import note
    from relearn.core.errors import InputError
    from relearn.core.owner_key import OwnerKey
    from relearn.core.ownership import is_ours

    if is_ours(path.parent):
        problem = "is in a run folder, which is copied and handed on"
        raise InputError(problem, where=str(path), way_out="keep the key elsewhere")
    note(f"public key: {OwnerKey.create(path).public} ({path}.pub)")
    note(f"keep {path} apart from your runs: without it nobody can ask the probes of its certificates again")


def _print_checks(file: Path, key: Path | None, public_key: Path | None, options: Mapping[str, Any]) -> int:
    """Verify a certificate and print one line per check; return 1 when a check does not fit."""
    from relearn.core.console import out as screen
    from relearn.core.console import visible
    from relearn.core.owner_key import KEY_VARIABLE, find_key, read_public_key
    from relearn.workflows.verify_certificate import verify

    owner = find_key(key) if key or os.environ.get(KEY_VARIABLE) else None
    public = read_public_key(public_key) if public_key else None
    fits = True
    for check in verify(file, key=owner, public_key=public, **options):
        screen.print(visible(str(check)), markup=False, soft_wrap=True)
        fits = fits and check.fits is not False
    return 0 if fits else 1


@app.command
def export(
    folder: Path,
    *,
    out: Path,
    merged: bool = False,
    adapter: bool = False,
    answers: bool = False,
    trust_remote_code: Trust = False,
) -> None:
    """Save the unlearned model of a run, its adapter or its answers for use with other tools.

    Parameters
    ----------
    folder
        A run folder; with --answers also the folder of an evaluation.
    out
        A new folder.
    merged
        Save the model with the adapter merged into its weights (safetensors). This is the default.
    adapter
        Save only the adapter. Anyone who has it and the start model can undo unlearning by removing the adapter.
    answers
        Save the answers in the format of the public ReLearn code: query, ground_truth, generated_response.
    """
    from relearn.core.console import note
    from relearn.core.errors import InputError
    from relearn.core.run_dir import RunFolder

    options = {"--merged": merged, "--adapter": adapter, "--answers": answers}
    given = [name for name, is_set in options.items() if is_set]
    if len(given) > 1:
        raise InputError("only one of these can be exported at a time", where=" ".join(given), way_out="call it twice")
    if answers:
        from relearn.workflows.evaluate.evaluation import export_answers

        for path in export_answers(folder, out):
            note(f"answers: {path}")
        return
    from relearn.workflows.ask import export_adapter, export_merged

    path = RunFolder.existing(folder).path
    if adapter:
        export_adapter(path, out)
    else:
        export_merged(path, out, trust_remote_code=trust_remote_code)
    note(f"{'adapter' if adapter else 'model'}: {out}")


@app.command
def purge(folder: Path, *, yes: bool = False) -> None:
    """Remove all files with texts from a run folder.

    The unlearned model, the scores without texts, a certificate with its encrypted probes, and files that relearn did
    not write are kept.

    Parameters
    ----------
    folder
        A run folder.
    yes
        Remove the files; without it, only list them.
    """
    from relearn.core.console import note, visible
    from relearn.core.ownership import left_alone
    from relearn.core.ownership import purge as purge_folder

    for name in purge_folder(folder, really=yes):
        note(f"{'removed' if yes else 'would remove'} {name}")
    for name in left_alone(folder):
        note(f"left alone: {visible(name)}")
    if not yes:
        note("nothing was removed; add --yes")


@app.command
def ui(folder: Path, *others: Path, port: int = 0, no_browser: bool = False, trust_remote_code: Trust = False) -> int:
    """Open a local web page to ask the models of a run, inspect tokens, browse facts by verdict and compare runs.

    The page is served on 127.0.0.1 only, at the printed address. Models are loaded when you press Load.

    Parameters
    ----------
    folder
        A run folder.
    others
        Other runs, for comparison.
    port
        The port; a free one by default.
    no_browser
        Print the address without opening a browser.
    """
    from relearn.ui.server import serve

    try:
        serve([folder, *others], port, browser=not no_browser, trust_remote_code=trust_remote_code)
    except KeyboardInterrupt:
        return 130
    return 0


@app.command(name="list")
def list_(what: Literal["methods", "metrics", "audits", "generators", "benchmarks"], *, json: bool = False) -> None:
    """List the available methods, metrics, audits, generators or benchmarks, including those of plug-ins.

    Parameters
    ----------
    what
        methods, metrics, audits, generators or benchmarks (public data sets whose files need no conversion).
    json
        Print JSON.
    """
    from relearn.cli.listing import print_listing

    print_listing(what, as_json=json)


@app.command
def check_plugin(file: Path) -> int:
    """Check that the methods, metrics and attacks in a plug-in file follow the rules of docs/plugins.md.

    Exit code 1 when there is a fault, 2 when the file cannot be imported.

    Parameters
    ----------
    file
        A Python file that uses the decorators `method`, `metric` or `attack`.
    """
    from relearn.core.console import out as screen
    from relearn.core.plugins import load_file

    has_faults = False
    for kind, names in load_file(file, registries()).registers.items():
        for name in names:
            faults = _faults(kind, name)
            has_faults = has_faults or bool(faults)
            result = f"{len(faults) or 'no'} fault{'s' * (len(faults) != 1)}" if faults is not None else "not checked"
            for line in (f"{kind} {name}: {result}", *(f"  - {fault}" for fault in faults or ())):
                screen.print(line, markup=False, soft_wrap=True)
    return 1 if has_faults else 0


def _faults(kind: str, name: str) -> list[str] | None:
    """Return the faults of a registered name, one line each; None where there is no check for its kind."""
    from relearn.audits.check_attack import check_attack
    from relearn.metrics.check_metric import check_metric
    from relearn.unlearning.check_method import check_method

    check = {"method": check_method, "metric": check_metric, "audit": check_attack}.get(kind)
    return check(name) if check else None


@app.command
def doctor(*, judge: str | None = None) -> int:
    """Check the installation and print how to install missing parts; with --judge, check the grades of a judge.

    Parameters
    ----------
    judge
        openai:MODEL or transformers:MODEL: compare its grades of ten answers about invented people with grades made by
        hand. Exit code 1 when the judge is not usable.
    """
    if judge is not None:
        return _check_judge(judge)
    from relearn.cli.doctor import checks, render

    render(checks())
    return 0


def _check_judge(name: str) -> int:
    from relearn.core.config import Metrics
    from relearn.core.console import out as screen
    from relearn.metrics.llm_judge import NamedGrader, judge_check

    result = judge_check(NamedGrader(Metrics(judge=name, allow_remote=True)))
    for line in result.lines():
        screen.print(line, markup=False, soft_wrap=True)
    return 0 if result.usable else 1
