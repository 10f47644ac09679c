"""A folder with an ONNX graph, opened like a run: onnxruntime computes the outputs, the task types the predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mtdnn.batch import Batch
from mtdnn.config.json_source import read_json
from mtdnn.config.options import Frozen
from mtdnn.data.store import open_store
from mtdnn.errors import ConfigError, DataError, Fault, fault, first_line
from mtdnn.metrics.base import measured
from mtdnn.model import MultiTaskModel
from mtdnn.registry import is_trusted, trusting
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.memory_rows import Rows
from mtdnn.runs.opened import Run, open_run
from mtdnn.runs.parts import task_types_of
from mtdnn.task_types.base import TaskType
from mtdnn.tokens.loading import load_tokenizer
from mtdnn.training.evaluation import Results

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPH, QUANTIZED, DESCRIPTION = "model.onnx", "model.int8.onnx", "export.json"

INPUTS = {"input_ids": "input_ids", "mask": "attention_mask", "token_type_ids": "token_type_ids"}
"""Input of a batch → input of the graph."""


Numbers: TypeAlias = float | int | bool | list[Any]


class Exported(Frozen):
    """What an exported folder says of its graph."""

    tasks: Annotated[list[str], Field(min_length=1)]
    step: int
    checkpoint: str
    buffers: dict[str, dict[str, Numbers]]
    weights: str = "float32"
    dev: list[dict[str, Any]] = []


def require_onnx(*packages: str) -> None:
    """ConfigError if a package is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        fix = "Install it: pip install 'mtdnn[onnx]'."
        raise ConfigError(fault("", "onnx", f"needs the package {', '.join(missing)}", fix))


class StoredHead(nn.Module):
    """The place of a head whose output a graph has computed; it keeps the head's thresholds.

    Args:
        buffers: name → value.
    """

    def __init__(self, buffers: dict[str, Any]) -> None:
        super().__init__()
        for name, value in buffers.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, output: Tensor, batch: Batch) -> Tensor:
        """The output of the graph, unchanged."""
        return output


class OnnxModel(nn.Module):
    """What predictions need of a model, computed by onnxruntime on the CPU.

    Args:
        session: of the graph.
        task_types: task → the task seen through its type.
        heads: task → its thresholds.
    """

    def __init__(
        self, session: InferenceSession, task_types: dict[str, TaskType], heads: dict[str, StoredHead]
    ) -> None:
        super().__init__()
        self.task_types, self.heads = task_types, nn.ModuleDict(heads)
        self._session = session
        self._inputs = {each.name for each in session.get_inputs()}
        self._outputs = [each.name for each in session.get_outputs()]

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Task → output of its head for the sequences of a batch, all from one pass."""
        given = {name: batch.inputs[key].long().numpy() for key, name in INPUTS.items() if key in batch.inputs}
        found = self._session.run(None, {name: each for name, each in given.items() if name in self._inputs})
        return dict(zip(self._outputs, map(torch.from_numpy, found), strict=True))

    def head_of(self, task: str) -> nn.Module:
        """The place of a task's head."""
        return self.heads[task]

    def predict(self, batch: Batch, tasks: Iterable[str]) -> dict[str, list[dict]]:
        """Prediction records of several tasks; see `MultiTaskModel.predict`."""
        outputs, records = self.outputs(batch), {}
        for task in tasks:
            rows = batch if task == batch.task else replace(batch, task=task, labels=None)
            task_type = self.task_types[task]
            logits = task_type.logits(self.heads[task], outputs[task], rows)
            records[task] = task_type.predict(logits, rows)
        return records

    def predict_together(self, batches: Sequence[Batch]) -> dict[str, list[dict]]:
        """Prediction records of several tasks on the same rows, each with its own labels; a pass of the graph for each.

        Args:
            batches: of each task; a task may have fewer sequences of a row than another, so that passes differ.
        """
        return {batch.task: self.predict(batch, [batch.task])[batch.task] for batch in batches}


@dataclass(repr=False)
class ExportedRun(Run):
    """A run whose outputs are computed by onnxruntime."""

    def embed(self, rows: Rows, *, task: str | None = None, pooling: str = "mean") -> tuple[list[str], np.ndarray]:
        """Not from a graph.

        Args:
            rows, task, pooling: as for `Run.embed`.
        Raises:
            ConfigError: always.
        """
        found = "an exported graph has no hidden states"
        raise ConfigError(fault(str(self.folder.path), "embed", found, "Use the run it was made of."))

    def measure(self, tasks: Sequence[str], prepared: Path) -> Results:
        """Metrics of the tasks' dev splits; nothing is written.

        Args:
            tasks: names.
            prepared: folder of the prepared rows.
        """
        results: Results = {}
        for name, split in self._splits(tasks, "dev", prepared):
            store = open_store(prepared, self.tasks[name], split, tokenizer=self.tokenizer)
            task_type = self.model.task_types[name]
            values = measured(self.records(store, name), task_type.metric_names, task_type.task.labels)
            results.setdefault(name, {})[split] = values
        return results


def is_onnx(folder: str | Path) -> bool:
    """Whether a folder was made by `mtdnn export --format onnx`."""
    return (Path(folder) / GRAPH).is_file() and (Path(folder) / DESCRIPTION).is_file()


@trusting
def open_onnx(folder: str | Path, *, trust: bool = False) -> ExportedRun:
    """An exported folder, ready to predict.

    Args:
        folder: made by `mtdnn export --format onnx`.
        trust: as for `open_run`.
    Raises:
        ConfigError, DataError: a file is missing or damaged, the files do not belong together, or onnxruntime is not
            installed.
    """
    require_onnx("onnxruntime")
    import onnxruntime

    place = RunFolder(folder)
    described: Exported = read_json(place.path / DESCRIPTION, Exported, fix="Export the run again.")
    tasks = place.read_tasks()
    config, tokenizer = place.read_config(), load_tokenizer(str(place.path))
    types = task_types_of(tasks, tokenizer)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(place.path / GRAPH, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own for damaged files
        found = f"cannot be read: {' '.join(str(error).split())[:200]}"
        raise ConfigError(fault(str(place.path / GRAPH), "", found, "Export the run again.")) from error
    if faults := _differences(place, described, types, session):
        raise ConfigError(faults)
    heads = {name: _stored_head(place, name, described.buffers.get(name, {})) for name in described.tasks}
    kept = {name: tasks[name] for name in described.tasks}
    model = OnnxModel(session, {name: types[name] for name in kept}, heads).eval()
    whole = cast(MultiTaskModel, model)
    return ExportedRun(
        place, described.checkpoint, described.step, config, kept, whole, tokenizer, torch.device("cpu"),
        torch.inference_mode, trust=is_trusted(),
    )  # fmt: skip


def _stored_head(place: RunFolder, task: str, buffers: dict[str, Any]) -> StoredHead:
    """The place of a task's head; DataError if its thresholds are no numbers, or have names that no buffer can have."""
    try:
        return StoredHead(buffers)
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        where, found = str(place.path / DESCRIPTION), f"damaged: {first_line(error)}"
        raise DataError(fault(where, f"buffers.{task}", found, "Export the run again.")) from error


def _differences(
    place: RunFolder, described: Exported, types: Mapping[str, TaskType], session: InferenceSession
) -> list[Fault]:
    """Why the files of an exported folder do not belong together, such as after a label was added to its tasks."""
    faults, fix = [], "Export the run again."
    sizes = {each.name: each.shape[-1] if each.shape else 0 for each in session.get_outputs()}
    for name in described.tasks:
        if name not in types:
            faults.append(fault(str(place.tasks_file), "", f"no task '{name}', which {DESCRIPTION} names", fix))
        elif name not in sizes:
            faults.append(fault(str(place.path / GRAPH), "", f"no output '{name}', which {DESCRIPTION} names", fix))
        elif isinstance(sizes[name], int) and sizes[name] != types[name].num_outputs:
            found = f"the task has {types[name].num_outputs} outputs, and {GRAPH} {sizes[name]}"
            faults.append(fault(str(place.tasks_file), name, found, fix))
    return faults


def open_any(place: str | Path, *, checkpoint: str = "best") -> Run:
    """A run, or an exported folder.

    Args:
        place: folder of either, or the name of a run on the hub.
        checkpoint: of a run.
    Raises:
        ConfigError, DataError: as `open_run` and `open_onnx`; or an exported folder is of another checkpoint.
    """
    if not is_onnx(place):
        return open_run(place, checkpoint=checkpoint)
    opened = open_onnx(place)
    if checkpoint not in ("best", opened.checkpoint):  # best: what is meant when nothing is given
        found = f"'{checkpoint}' of an exported graph, which has the weights of {opened.checkpoint} alone"
        raise ConfigError(fault("", "checkpoint", found, "Export that checkpoint, or give the run."))
    return opened
