"""The commands up to a trained run: one function each; its docstring is its help. Heavy imports are inside."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from mtdnn.cli.flags import keys_as_flags, names_in
from mtdnn.cli.output import EXIT_ERROR, as_json, print_text, results_table
from mtdnn.cli.verbosity import shows_progress
from mtdnn.errors import NOWHERE, ConfigError, DataError, Fault, fault
from mtdnn.registry import own_words

if TYPE_CHECKING:
    from mtdnn.runs.check_report import Report


def check(
    definitions: str,
    *,
    data: str | None = None,
    encoder: str | None = None,
    run: str | None = None,
    format: Literal["text", "json", "github"] = "text",
    json: bool = False,
) -> str:
    """Check task definitions and their rows: report every error, and counts of the rows.

    Args:
        definitions: Task definitions: a YAML file, or a name of `mtdnn list tasks`.
        data: Folder of the rows. Without it, only the definitions are checked.
        encoder: Hub name or folder; its tokenizer gives lengths and the share of truncated rows.
        run: A run's YAML; adds the number of batches per epoch, and checks its regularizers and teachers.
        format: text, json (one object, for editors), or github (annotations of a workflow).
        json: The same as --format json.
    """
    from mtdnn.runs.check_report import Report
    from mtdnn.runs.row_check import check as check_rows

    for_text = format == "text" and not json
    try:
        report = check_rows(definitions, data=data, encoder=encoder, run=run)
    except (ConfigError, DataError) as error:  # a file that cannot be read as a whole
        if for_text:
            raise
        report = Report(faults=list(error.faults))
    if not for_text:
        print_text(json_report(report) if json or format == "json" else github_annotations(report))
        raise SystemExit(EXIT_ERROR if report.faults else 0)
    if report.faults:
        if text := report.text():
            print_text(text)
        raise ConfigError(report.faults)
    return report.text()


def json_report(report: Report) -> str:
    """`{"faults": […], "warnings": […], "tables": {title: lines}}`, for editors and scripts."""
    import json

    faults, warnings = ([each.as_dict() for each in kind] for kind in (report.faults, report.warnings))
    tables = {each.title: each.lines for each in report.tables()}
    return json.dumps({"faults": faults, "warnings": warnings, "tables": tables}, ensure_ascii=False, indent=1)


def github_annotations(report: Report) -> str:
    """Workflow commands that GitHub shows at the lines of a change, one for each error and warning."""
    lines = [github_annotation("error", each) for each in report.faults]
    return "\n".join([*lines, *(github_annotation("warning", each) for each in report.warnings)])


def github_annotation(level: str, fault: Fault) -> str:
    """`::error file=tasks.yml,line=3::mnli.metrics: …`, with special characters escaped as GitHub requires."""
    place = {"file": fault.place.name, "line": fault.place.line}
    escaped = {
        key: str(value).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
        for key, value in place.items()
        if value
    }
    message = str(fault if not fault.place.name else fault.at(NOWHERE)).replace("%", "%25")
    return f"::{level} {','.join(f'{key}={value}' for key, value in escaped.items())}::{message}"


def init(
    folder: str | None = None,
    *,
    from_: str | None = None,
    encoder: str = "bert-base-uncased",
    name: str | None = None,
    label: str | None = None,
    text: str | None = None,
) -> str:
    """Write a first task definition and run: for a file of your rows, or in a new folder with generated ones.

    Args:
        folder: Folder to write into. Default: the current one, with --from.
        from_: File of rows; its type, columns and labels are guessed, and it is cut into train and dev.
        encoder: Hub name or folder of the encoder, for the run.
        name: Name of the task. Default: that of the file.
        label: Column of the labels. Default: guessed.
        text: Column of the texts, or two separated by a comma. Default: guessed.
    """
    if folder is None and from_ is None:
        fix = "mtdnn init FOLDER, or mtdnn init --from FILE."
        raise ConfigError(fault("mtdnn init", "", "neither a folder nor a file is given", fix))
    from mtdnn.runs.starter import start

    rows = None if from_ is None else Path(from_)
    texts = [] if text is None else [each.strip() for each in text.split(",")]
    return start(Path(folder or "."), rows=rows, encoder=encoder, name=name, label=label, texts=texts)


def prepro(
    definitions: str,
    *,
    data: str | None = None,
    encoder: str,
    out: str,
    workers: int | None = None,
    tasks: str | None = None,
    launcher: Literal["local", "ray"] = "local",
    shard: str | None = None,
    merge: bool = False,
) -> str:
    """Convert rows to token ids on disk; unchanged splits are kept.

    Args:
        definitions: Task definitions: a YAML file, or a name of `mtdnn list tasks`.
        data: Folder of the rows; not needed by tasks with a `source`.
        encoder: Hub name or folder of the encoder whose tokenizer is used.
        out: Folder of the prepared rows.
        workers: Processes, or parts in flight with ray. Default: one per core, two per CPU of the Ray cluster.
        tasks: Names, separated by commas. Default: all.
        launcher: local = processes on this machine; ray = a Ray cluster, or a local Ray.
        shard: i/n, from 1/n to n/n: encode only this share of the rows; n calls, on any machines, make all of them.
        merge: Write the prepared rows from the shards, when all n calls are done.
    """
    from mtdnn.data.prepro import prepare
    from mtdnn.data.shards import Shard, merge_shards, prepare_by_processes, prepare_shard
    from mtdnn.execution.machine import num_launched

    if workers is not None and workers < 1:
        raise ConfigError(fault("--workers", "", f"{workers} processes", "Give 1 or more."))
    if merge and shard is not None:
        fix = "Give --shard i/n to each call, and --merge to a last one."
        raise ConfigError(fault("--merge", "", "merges the shards of other calls", fix))
    if merge and workers is not None:
        raise ConfigError(fault("--workers", "", "given in addition to --merge", "Leave it out: nothing is encoded."))
    if launcher != "local" and (merge or shard is not None):
        fix = "Leave out --launcher, or --shard and --merge: a cluster divides the rows among its machines itself."
        raise ConfigError(fault("--launcher", "", f"{launcher} has no shards", fix))
    given: dict[str, Any] = {"data": data, "encoder": encoder, "out": out, "only": names_in(tasks)}
    given["progress"] = shows_progress()
    with keys_as_flags(only="tasks"):
        if shard is not None:
            own, encoded = prepare_shard(definitions, shard=Shard.parse(shard), num_workers=workers, **given)
            return f"shard {shard}: {encoded} parts encoded, {own - encoded} were there: {out}"
        if merge:
            merge_shards(definitions, **given)
        elif launcher == "local" and num_launched() > 1:
            from mtdnn.execution.processes import Processes, launched_processes

            processes = cast(Processes, launched_processes())
            made = prepare_by_processes(definitions, processes=processes, num_workers=workers, **given)
            return f"prepared rows: {out}" if made else ""
        else:
            prepare(definitions, num_workers=workers, launcher=launcher, **given)
    return f"prepared rows: {out}"


def train(run: str | None, *, resume: bool, json: bool, overrides: Mapping[str, Any]) -> str:
    """Train one encoder on the tasks of a run."""
    from mtdnn.config.run import run_source
    from mtdnn.runs.plug_ins import checked_run

    source = run_source(run, overrides)
    with own_words(overrides):
        config = checked_run(source)
    from mtdnn.runs.train import train as train_run
    from mtdnn.training.signals import Interrupted

    try:
        with own_words(overrides):
            results = train_run(config, resume=resume, progress=shows_progress())
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(128 + stop.signal_number) from None
    except (ConfigError, DataError) as error:
        raise type(error)([source.placed(each) for each in error.faults]) from error
    if not results:  # in a distributed run, only the first process reports
        return ""
    if json:
        return as_json(results)
    return f"{results_table(results)}\n\nbest checkpoint, results and predictions: {config.output}"
