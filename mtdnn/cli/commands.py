"""The commands of `mtdnn`: one function each; its docstring is its help. Heavy imports are inside the functions."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from mtdnn.cli.flags import keys_as_flags
from mtdnn.cli.verbosity import shows_progress
from mtdnn.columns import table
from mtdnn.errors import NOWHERE, ConfigError, DataError, Fault, fault, unknown
from mtdnn.files import named_file, same_file
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
    from mtdnn.runs.row_check import check as check_rows

    report = check_rows(definitions, data=data, encoder=encoder, run=run)
    if json or format != "text":
        print_text(json_report(report) if json or format == "json" else github_annotations(report))
        raise SystemExit(EXIT_ERROR if report.faults else 0)
    if report.faults:
        print_text(str(report))
        raise ConfigError(report.faults)
    return str(report)


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
) -> str:
    """Write a first task definition and run: for a file of your rows, or in a new folder with generated ones.

    Args:
        folder: Folder to write into. Default: the current one, with --from.
        from_: File of rows; its type, columns and labels are guessed, and it is cut into train and dev.
        encoder: Hub name or folder of the encoder, for the run.
        name: Name of the task. Default: that of the file.
    """
    if folder is None and from_ is None:
        fix = "mtdnn init FOLDER, or mtdnn init --from FILE."
        raise ConfigError(fault("mtdnn init", "", "neither a folder nor a file is given", fix))
    from mtdnn.runs.starter import start

    rows = None if from_ is None else Path(from_)
    return start(Path(folder or "."), rows=rows, encoder=encoder, name=name)


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
        workers: Processes. Default: one per core, or per CPU of the Ray cluster.
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


def evaluate(
    run: str,
    *,
    tasks: str | None = None,
    split: str = "dev",
    checkpoint: str = "best",
    data: str | None = None,
    json: bool = False,
) -> str:
    """Evaluate a run on a split; predictions and results are written to the run's folder.

    Args:
        run: Folder of the run.
        tasks: Names, separated by commas. Default: all of the run's.
        split: A role (train, dev, test) or the name of a split.
        checkpoint: best, last or step-N.
        data: Folder made by `mtdnn prepro`. Default: the run's.
        json: Print task → split → metric → value as JSON.
    """
    from mtdnn.execution.processes import launched_processes
    from mtdnn.runs.opened import open_run

    processes = launched_processes()
    opened = replace(open_run(run, checkpoint=checkpoint), processes=processes)
    prepared = None if data is None else Path(data)
    results = opened.evaluate(names_in(tasks), split=split, data=prepared)
    if processes is not None and not processes.is_first:
        return ""
    if json:
        return as_json(results)
    folder = opened.folder
    return f"{results_table(results)}\n\npredictions: {folder.predictions}\nresults: {folder.results_file}"


def predict(run: str, *, task: str, input: str, output: str, checkpoint: str = "best", soft: bool = False) -> str:
    """Predict labelled or unlabelled rows with one or several tasks; tasks with the same encoding share a pass.

    Args:
        run: Folder of the run, or of an exported ONNX graph; with --soft several runs, separated by commas.
        task: A task's name, or several separated by commas.
        input: Rows: .tsv, .jsonl, .csv or .parquet.
        output: Predictions, JSON lines; for several tasks one file each, `out.<task>.jsonl`.
        checkpoint: best, last or step-N.
        soft: Write soft labels for `distill`: the mean of the probabilities, or numbers, predicted by the runs.
    """
    names = names_in(task) or []
    target = output_file(output, suffixes=(".jsonl",), input=input if len(names) == 1 else None)
    paths = {name: str(target.with_suffix(f".{name}.jsonl")) for name in names if len(names) > 1}
    targets = {name: output_file(path, suffixes=(".jsonl",), input=input) for name, path in paths.items()}
    from mtdnn.execution.processes import launched_processes
    from mtdnn.metrics.records import write_records
    from mtdnn.publishing.onnx_run import open_any
    from mtdnn.runs.opened import soft_predictions

    processes = launched_processes()
    if soft:
        predictions = soft_predictions(names_in(run) or [run], names, Path(input), checkpoint=checkpoint)
    else:
        opened = replace(open_any(run, checkpoint=checkpoint), processes=processes)
        predictions = opened.predict(names, Path(input))
    if processes is not None and not processes.is_first:
        return ""
    written = []
    for name, records in predictions.items():
        path = targets.get(name, target)
        write_records(path, records)
        written.append(f"{len(records)} predictions of {name}: {path}")
    return "\n".join(written)


def score(predictions: str, *, metrics: str | None = None, json: bool = False) -> str:
    """Compute metrics from a prediction file.

    Args:
        predictions: JSON lines written by `mtdnn predict`, `evaluate` or `train`.
        metrics: Names, separated by commas. Default: all that can be computed from the file.
        json: Print metric → value as JSON.
    """
    from mtdnn.metrics.records import score as score_records

    values = score_records(predictions, metrics=names_in(metrics) or ())
    return as_json(values) if json else table([[name, number(value)] for name, value in values.items()])


def embed(
    run: str, *, input: str, output: str, task: str | None = None, pooling: str = "mean", checkpoint: str = "best"
) -> str:
    """Write one vector per row, computed by a run's encoder.

    Args:
        run: Folder of the run.
        input: Rows: .tsv, .jsonl, .csv or .parquet.
        output: A .parquet file with columns `id` and `vector`.
        task: The task whose columns the rows have. Default: the only one, or the first with the same number.
        pooling: mean of the real tokens' hidden states, or first: the first token's.
        checkpoint: best, last or step-N.
    """
    target = output_file(output, suffixes=(".parquet",), input=input)
    if pooling not in ("mean", "first"):
        raise ConfigError(fault("--pooling", "", unknown("pooling", pooling, ("mean", "first"))))
    from mtdnn.runs.opened import open_run

    ids, vectors = open_run(run, checkpoint=checkpoint).embed(Path(input), task=task, pooling=pooling)
    write_vectors(target, ids, vectors)
    return f"{len(ids)} vectors of {vectors.shape[1]} numbers: {target}"


def average(
    runs: list[str],
    *,
    output: str,
    method: Literal["uniform", "greedy"] = "uniform",
    checkpoint: str = "best",
    data: str | None = None,
) -> str:
    """Average the weights of several runs of the same tasks, as the folder of a run.

    Args:
        runs: Folders of two or more runs.
        output: Folder of the new run.
        method: uniform: the mean of all; greedy: of those that do not lower the score on dev, from the best on.
        checkpoint: best, last or step-N, of each.
        data: Folder made by `mtdnn prepro`. Default: that of the first run.
    """
    from mtdnn.runs.average import average_runs

    made = average_runs(runs, output, method=method, checkpoint=checkpoint, data=data)
    lines = [["run", "score on dev", "in the average"]]
    lines += [[each.run, _score_in_words(each.score), "yes" if each.used else "no"] for each in made.ingredients]
    lines.append([output, _score_in_words(made.score), ""])
    return f"{table(lines)}\n\nweights, results and predictions: {output}"


def _score_in_words(score: float | None) -> str:
    return "–" if score is None else number(score)


def submit(
    benchmark: str | None = None,
    run: str | None = None,
    *,
    out: str | None = None,
    data: str | None = None,
    checkpoint: str = "best",
    check: str | None = None,
) -> str:
    """Write test predictions as the archive that GLUE's or SuperGLUE's server takes, or check such an archive.

    Args:
        benchmark: glue or superglue.
        run: Folder of a run, or several separated by commas; those of one task are averaged.
        out: The archive, a .zip file.
        data: Folder made by `mtdnn prepro`. Default: the one each run was trained on.
        checkpoint: best, last or step-N.
        check: An archive: report everything in which it differs from the rules; nothing is written.
    """
    if check is not None:
        from mtdnn.runs.submission import archive_faults

        if faults := archive_faults(Path(check)):
            raise DataError(faults)
        return f"{check}: as the benchmark wants it"
    missing = [name for name, value in (("benchmark", benchmark), ("run", run), ("--out", out)) if value is None]
    if benchmark is None or run is None or out is None:
        fix = "mtdnn submit glue RUN --out FILE.zip, or mtdnn submit --check FILE.zip."
        raise ConfigError([fault("", name, "missing", fix) for name in missing])
    target = output_file(out, suffixes=(".zip",))
    from mtdnn.runs.submit import submit as submit_runs

    counts = submit_runs(benchmark, names_in(run) or [run], target, data=data, checkpoint=checkpoint)
    return table([["file", "rows"], *([name, str(count)] for name, count in counts.items())]) + f"\n\narchive: {out}"


def as_json(values: object) -> str:
    """Plain values as indented JSON, for scripts."""
    import json

    return json.dumps(values, ensure_ascii=False, indent=1)


def names_in(words: str | None) -> list[str] | None:
    """`rte,mrpc` as a list, each name once; None stays None."""
    return None if words is None else list(dict.fromkeys(name.strip() for name in words.split(",") if name.strip()))


def output_file(word: str, *, suffixes: Sequence[str], input: str | None = None) -> Path:
    """The path of an output file, checked before the work starts.

    Args:
        word: the path as given.
        suffixes: allowed endings.
        input: a file that is read, and must not be overwritten.
    Raises:
        ConfigError: the ending is not allowed, there is no writable folder, or it is the input.
    """
    path = Path(word)
    if path.suffix not in suffixes:
        raise ConfigError(fault("--output", "", f"'{word}' does not end in {' or '.join(suffixes)}", "Rename it."))
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        found = "is a folder" if path.is_dir() else f"cannot be written: there is no writable folder '{path.parent}'"
        raise ConfigError(fault("--output", "", f"'{word}' {found}", "Choose another place."))
    if input is not None and same_file(path, Path(input)):
        raise ConfigError(fault("--output", "", f"'{word}' is the input, '{input}'", "Choose another place."))
    return path


def write_vectors(path: Path, ids: Sequence[str], vectors: Any) -> None:
    """Write a Parquet file of ids and vectors [n, H], atomically."""
    import pyarrow
    import pyarrow.parquet

    flat = pyarrow.array(vectors.astype("float32").ravel())
    columns = {"id": list(ids), "vector": pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}
    with named_file(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)


def results_table(results: Mapping[str, Any]) -> str:
    """One line per task and split of `{task: {split: {metric: value}}}`; keys that begin with `_` are left out."""
    splits = [
        (task, split, values)
        for task, inner in results.items()
        if not task.startswith("_")
        for split, values in inner.items()
    ]
    metrics = list(dict.fromkeys(("rows", *(metric for _, _, values in splits for metric in values))))
    lines = [["task", "split", *metrics]]
    lines += [
        [task, split, *(number(values[metric]) if metric in values else "" for metric in metrics)]
        for task, split, values in splits
    ]
    return table(lines)


def number(value: Any) -> str:
    """A count unchanged, a metric with four decimals."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


EXIT_PIPE_CLOSED = 141
EXIT_ERROR = 2


def print_text(text: str) -> None:
    """Print a text; exit like other tools if the reader has closed the pipe, as after `| head -1`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for text that is still buffered
        raise SystemExit(EXIT_PIPE_CLOSED) from None
