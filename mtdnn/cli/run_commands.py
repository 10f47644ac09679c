"""The commands on trained runs and their predictions: one function each; its docstring is its help."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mtdnn.cli.flags import names_in, some_names_in
from mtdnn.cli.output import as_json, number, results_table
from mtdnn.columns import table
from mtdnn.errors import ConfigError, DataError, fault, unknown
from mtdnn.files import named_file, same_file


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
        predictions = opened.predicted(names, Path(input))
    if processes is not None and not processes.is_first:
        return ""
    written = []
    for name, records in predictions.items():
        path = targets.get(name, target)
        write_records(path, records)
        written.append(f"{len(records)} prediction{'s' * (len(records) != 1)} of {name}: {path}")
    return "\n".join(written)


def score(predictions: str, *, metrics: str | None = None, json: bool = False) -> str:
    """Compute metrics from a prediction file.

    Args:
        predictions: JSON lines written by `mtdnn predict`, `evaluate` or `train`.
        metrics: Names, separated by commas. Default: all that can be computed from the file.
        json: Print metric → value as JSON.
    """
    from mtdnn.metrics.records import score as score_records

    names = some_names_in(metrics, flag="--metrics", kind="metric", fix="Leave it out for all that can be computed.")
    values = score_records(predictions, metrics=names or ())
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
    return f"{len(ids)} vector{'s' * (len(ids) != 1)} of {vectors.shape[1]} numbers: {target}"


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
    checkpoint: str | None = None,
    check: str | None = None,
) -> str:
    """Write test predictions as the archive that GLUE's or SuperGLUE's server takes, or check such an archive.

    Args:
        benchmark: glue or superglue.
        run: Folder of a run, or several separated by commas; those of one task are averaged.
        out: The archive, a .zip file.
        data: Folder made by `mtdnn prepro`. Default: the one each run was trained on.
        checkpoint: best, last or step-N. Default: best.
        check: An archive: report everything in which it differs from the rules; nothing is written.
    """
    if check is not None:
        given = {"benchmark": benchmark, "run": run, "--out": out, "--data": data, "--checkpoint": checkpoint}
        if strange := [name for name, value in given.items() if value is not None]:
            fix = "Leave it out: nothing is written."
            raise ConfigError([fault(name, "", "given in addition to --check", fix) for name in strange])
        from mtdnn.runs.submission import archive_faults

        if faults := archive_faults(Path(check)):
            raise DataError(faults)
        return f"{check}: as the benchmark wants it"
    missing = [name for name, value in (("benchmark", benchmark), ("run", run), ("--out", out)) if value is None]
    if benchmark is None or run is None or out is None:
        fix = "mtdnn submit glue RUN --out FILE.zip, or mtdnn submit --check FILE.zip."
        raise ConfigError([fault("", name, "missing", fix) for name in missing])
    target = output_file(out, suffixes=(".zip",), flag="--out")
    from mtdnn.runs.submit import submit as submit_runs

    counts = submit_runs(benchmark, names_in(run) or [run], target, data=data, checkpoint=checkpoint or "best")
    return table([["file", "rows"], *([name, str(count)] for name, count in counts.items())]) + f"\n\narchive: {out}"


def output_file(word: str, *, suffixes: Sequence[str], input: str | None = None, flag: str = "--output") -> Path:
    """The path of an output file, checked before the work starts.

    Args:
        word: the path as given.
        suffixes: allowed endings.
        input: a file that is read, and must not be overwritten.
        flag: the flag that gave the path, for messages.
    Raises:
        ConfigError: the ending is not allowed, there is no writable folder, or it is the input.
    """
    path = Path(word)
    if path.suffix not in suffixes:
        raise ConfigError(fault(flag, "", f"'{word}' does not end in {' or '.join(suffixes)}", "Rename it."))
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        found = "is a folder" if path.is_dir() else f"cannot be written: there is no writable folder '{path.parent}'"
        raise ConfigError(fault(flag, "", f"'{word}' {found}", "Choose another place."))
    if input is not None and same_file(path, Path(input)):
        raise ConfigError(fault(flag, "", f"'{word}' is the input, '{input}'", "Choose another place."))
    return path


def write_vectors(path: Path, ids: Sequence[str], vectors: Any) -> None:
    """Write a Parquet file of ids and vectors [n, H], atomically."""
    import pyarrow
    import pyarrow.parquet

    flat = pyarrow.array(vectors.astype("float32").ravel())
    columns = {"id": list(ids), "vector": pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}
    with named_file(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
