"""The commands that bring a run to others: `mtdnn export | push | serve`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mtdnn.cli.flags import names_in
from mtdnn.columns import table
from mtdnn.errors import ConfigError, fault

if TYPE_CHECKING:
    from mtdnn.runs.opened import Run


def export(
    run: str,
    *,
    task: str | None = None,
    output: str | None = None,
    checkpoint: str = "best",
    format: Literal["hf", "onnx"] = "hf",
    int8: bool = False,
    data: str | None = None,
) -> str:
    """Export encoder and heads: one task as a Hugging Face model folder, or any number as one ONNX graph.

    Args:
        run: Folder of the run.
        task: The task's name; for onnx several, separated by commas. Default: the only one, or for onnx all.
        output: A new folder. Default: export/TASK-FORMAT in the run's folder, for several tasks export/onnx.
        checkpoint: best, last or step-N.
        format: hf, a model of transformers; or onnx.
        int8: Weights as 8-bit integers, for onnx; prints what that costs on the dev splits.
        data: Folder made by `mtdnn prepro`, to measure that. Default: the run's.
    """
    if output is not None:
        _require_new(output)
    if format == "hf" and (int8 or data is not None):
        raise ConfigError(fault("--int8" if int8 else "--data", "", "is for --format onnx", "Add it."))
    if data is not None and not int8:
        found = "measures what 8-bit weights cost, and they are not asked for"
        raise ConfigError(fault("--data", "", found, "Add --int8, or leave it out."))
    from mtdnn.config.tasks import chosen_tasks
    from mtdnn.runs.hub import hub_name
    from mtdnn.runs.opened import open_run

    if output is None and hub_name(run) is not None:
        found = f"is missing, and the run '{run}' has no folder of yours to write to"
        raise ConfigError(fault("--output", "", found, "Name a new folder."))
    opened = open_run(run, checkpoint=checkpoint)
    names = (names_in(task) or []) if task is not None else list(opened.tasks)
    chosen_tasks(opened.tasks, names, key="task")
    if format == "hf":
        return _export_model(opened, names, output)
    return _export_graph(opened, names, output, int8=int8, data=data)


def _export_model(run: Run, names: Sequence[str], output: str | None) -> str:
    """Write the one task as a model of transformers; what the command prints."""
    from mtdnn.runs.export import export_task

    if len(names) != 1:
        found = f"a model of transformers has one task; known: {', '.join(run.tasks)}"
        raise ConfigError(fault("--task", "", found, "Name one."))
    folder = _folder_of(output, run, f"{names[0]}-hf")
    pad = run.tokenizer.pads_with_id
    export_task(run.model, names[0], folder, save_tokenizer=run.tokenizer.save, pad_token_id=pad)
    return f"model and tokenizer: {folder}"


def _export_graph(run: Run, names: Sequence[str], output: str | None, *, int8: bool, data: str | None) -> str:
    """Write the tasks as one ONNX graph; what the command prints."""
    from mtdnn.publishing.onnx_export import export_int8, export_onnx, megabytes

    text = "graph of {}, {} MB: {}\nlargest difference from the run's outputs: {:.1e}"
    shown, word = ", ".join(names), "onnx-int8" if int8 else "onnx"
    folder = _folder_of(output, run, f"{names[0]}-{word}" if len(names) == 1 else word)
    if not int8:
        difference = export_onnx(run, names, folder)
        return text.format(shown, megabytes(folder), folder, difference)
    difference, size, losses = export_int8(run, names, folder, data=None if data is None else Path(data))
    text = text.format(shown, size, folder, difference)
    lines = [["task", "split", "metric", "float32", "int8", "difference"]]
    for each in losses:
        values = (each.before, each.after, each.after - each.before)
        lines.append([each.task, each.split, each.metric, *(f"{value:.4f}" for value in values)])
    loss = table(lines) if losses else "its loss was not measured: no dev split is prepared; give --data"
    return f"{text}\nwith 8-bit weights: {megabytes(folder)} MB\n\n{loss}"


def _folder_of(output: str | None, run: Run, name: str) -> Path:
    """The folder to export to: the one given, or one of this name in the run's folder, which must be new."""
    if output is not None:
        return Path(output)
    folder = run.folder.path / "export" / name
    _require_new(folder)
    return folder


def _require_new(folder: str | Path, flag: str = "--output") -> None:
    """Raise ConfigError if a folder exists, so that nothing is overwritten."""
    if Path(folder).exists():
        raise ConfigError(fault(flag, "", f"'{folder}' exists", "Name a new folder."))


def push(
    run: str,
    name: str | None = None,
    *,
    repo: str | None = None,
    task: str | None = None,
    checkpoint: str = "best",
    license: str | None = None,
    private: bool = False,
    out: str | None = None,
) -> str:
    """Upload a run, or one task of it as a model of transformers, to the Hugging Face hub, with a model card.

    Args:
        run: Folder of the run.
        name: The same as --repo.
        repo: Name of the repository on the hub, user/name; it is created if there is none.
        task: Only this task, as a model of transformers. Default: the whole run, which open_run reads.
        checkpoint: best, last or step-N.
        license: For the model card, an identifier of the hub such as mit or apache-2.0. Default: not stated.
        private: Create a repository that only you can see.
        out: A new folder: write everything there, to look at, and upload nothing.
    """
    if name is not None and repo is not None:
        raise ConfigError(fault("--repo", "", f"'{repo}' is given in addition to '{name}'", "Leave out one of them."))
    if (target := repo or name) is None:
        raise ConfigError(fault("--repo", "", "is missing", "Name the repository: --repo user/name."))
    from mtdnn.publishing.push import Upload, write_repository
    from mtdnn.publishing.push import push as push_run

    upload = Upload(target, task=task, checkpoint=checkpoint, license=license, private=private)
    if out is None:
        address, files = push_run(run, upload)
        return "\n".join([*files, f"\nuploaded: {address}"])
    _require_new(out, "--out")
    write_repository(run, upload, Path(out))
    return f"written, and not uploaded: {out}"


def serve(
    run: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    checkpoint: str = "best",
    max_rows: int = 256,
    max_bytes: int = 1_000_000,
    max_batch_tokens: int = 4096,
    max_wait_ms: float = 2.0,
) -> str:
    """Answer prediction requests over HTTP: POST /predict, GET /tasks, GET /health.

    Args:
        run: Folder of the run, of an exported ONNX graph, or the name of a run on the hub.
        host: Address to listen on; 127.0.0.1 is for this machine alone. There is no access control.
        port: Port to listen on.
        checkpoint: best, last or step-N.
        max_rows: Rows of one request.
        max_bytes: Size of a request's body.
        max_batch_tokens: Tokens of requests that are computed together, as they wait at the same time.
        max_wait_ms: Milliseconds that a request waits for others; 0 turns it off.
    """
    from mtdnn.publishing.onnx_run import open_any
    from mtdnn.publishing.serve import Limits, require_fastapi, require_free
    from mtdnn.publishing.serve import serve as serve_run

    require_fastapi()
    require_free(host, port)
    limits = Limits(rows=max_rows, bytes=max_bytes, batch_tokens=max_batch_tokens, wait_ms=max_wait_ms)
    opened = open_any(run, checkpoint=checkpoint)
    logging.getLogger("mtdnn").info("serving %s at http://%s:%d", ", ".join(opened.tasks), host, port)
    serve_run(opened, host=host, port=port, limits=limits)
    return ""
