"""The heads of a run and the encoder below them → one ONNX graph, with what `mtdnn predict` needs next to it.

Dimensions: N sequences, T tokens, C outputs. Graph: input_ids, attention_mask, token_type_ids [N, T] int64 → one output
for each task, [N, C] or [N, T, C], float32; N and T are free.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mtdnn.batch import Batch
from mtdnn.errors import ConfigError, DataError, fault
from mtdnn.files import write_text
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder, has_token_types
from mtdnn.networks.pretrained import backbone_class
from mtdnn.publishing.onnx_run import DESCRIPTION, GRAPH, QUANTIZED, ExportedRun, open_onnx, require_onnx
from mtdnn.runs.folder import tasks_to_yaml
from mtdnn.runs.opened import Run
from mtdnn.training.checkpoint import atomic_folder
from mtdnn.training.evaluation import Results

TOLERANCE = 1e-4  # float32 logits after the same operations in another order of summation
LENGTHS = ((7, 3), (12, 1, 5, 12), (4,))
"""Lengths of the sequences of each batch that the graph is compared on: ragged, and of sizes it was not made with."""


class Graph(nn.Module):
    """Token ids → the outputs of several heads, from one pass through the encoder.

    Args:
        encoder: padded, without an adapter.
        heads: task → its head; only those that read hidden states and the mask.
    """

    def __init__(self, encoder: Encoder, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, nn.ModuleDict(heads)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The output of each head, in the order of the tasks."""
        mask = attention_mask.bool()
        inputs = {"input_ids": input_ids, "mask": mask}
        hidden = self.encoder(input_ids, mask, token_type_ids)
        batch = Batch("", inputs, None, [""])
        return tuple(head(hidden, batch) for head in self.heads.values())


def export_onnx(run: Run, tasks: Sequence[str], folder: Path) -> float:
    """Write a folder with the graph, the tokenizer and the tasks; the largest difference from the run's own outputs.

    Args:
        run: opened at a checkpoint.
        tasks: names.
        folder: a new one.
    Raises:
        ConfigError: a package is missing; a head cannot be exported; tasks have adapters of their own; or the outputs
            differ.
    """
    with atomic_folder(folder) as partial:
        return _export(run, tasks, partial)


class Quantized(NamedTuple):
    """What an export with 8-bit weights has come to.

    Attributes:
        difference: the largest of the float graph from the run's own outputs.
        megabytes: size of the float graph.
        losses: what the 8-bit weights cost, by metric.
    """

    difference: float
    megabytes: float
    losses: list[Loss]


def export_int8(run: Run, tasks: Sequence[str], folder: Path, *, data: Path | None = None) -> Quantized:
    """`export_onnx` and `quantize`; the folder is there when both are done.

    Args:
        run, tasks, folder: as for `export_onnx`.
        data: as for `quantize`.
    Raises:
        ConfigError, DataError: as these.
    """
    with atomic_folder(folder) as partial:
        difference = _export(run, tasks, partial)
        size = megabytes(partial)
        return Quantized(difference, size, quantize(partial, data=data))


def _export(run: Run, tasks: Sequence[str], folder: Path) -> float:
    """`export_onnx` into a folder that exists."""
    require_onnx("onnx", "onnxscript", "onnxruntime")
    names = list(dict.fromkeys(tasks))
    _require_exportable(run.model, names)
    graph = _graph_of(run.model, names)
    _write_graph(graph, folder / GRAPH, names)
    _write_description(run, names, folder)
    difference = _largest_difference(run.model, folder, names)
    if not difference <= TOLERANCE:
        found = f"the graph returns other outputs (differing by up to {difference:.1e})"
        raise ConfigError(fault(", ".join(names), "export", found, "Use the run itself."))
    return difference


def _require_exportable(model: MultiTaskModel, names: Sequence[str]) -> None:
    faults = []
    for name in names:
        head: Any = model.head_of(name)
        if not head.reads_only_mask:
            found = f"a {type(head).__name__} reads more than hidden states and lengths, which a graph is not given"
            faults.append(fault(name, "export", found, "Leave this task out with --task."))
    if model.has_adapters_by_task and len(names) > 1:
        faults.append(fault("", "task", "each task has an adapter of its own", "Export one task at a time."))
    if faults:
        raise ConfigError(faults)


def _graph_of(model: MultiTaskModel, names: Sequence[str]) -> Graph:
    """The model with plain attention over padded rows, its adapter merged, on the CPU."""
    config = type(model.encoder.config).from_dict(model.encoder.config.to_dict())
    with torch.random.fork_rng(devices=[]):
        backbone = backbone_class(config).from_config(config, dtype=torch.float32, attn_implementation="eager")
    weights = {name: tensor.detach().cpu() for name, tensor in model.merged_weights(names[0]).items()}
    encoder = Encoder(backbone, execution="padded")
    missing = encoder.backbone.load_state_dict(weights, strict=False).missing_keys
    if missing:
        raise ConfigError(fault("", "export", f"the encoder has no weights '{missing[0]}'", "Use the run itself."))
    return Graph(encoder, {name: copy.deepcopy(model.head_of(name)).cpu() for name in names}).eval()


def _write_graph(graph: Graph, path: Path, names: Sequence[str]) -> None:
    """Export with PyTorch's exporter; the numbers of sequences and of tokens are free."""
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])}
    if has_token_types(graph.encoder.config):
        inputs["token_type_ids"] = torch.zeros_like(ids)
    free = {0: torch.export.Dim("sequences"), 1: torch.export.Dim("tokens", max=graph.encoder.max_positions)}
    with _quiet():
        torch.onnx.export(
            graph,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=[*names],
            dynamic_shapes=tuple(free for _ in inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without the exporter's notes about its own working."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _write_description(run: Run, names: Sequence[str], folder: Path) -> None:
    """The tokenizer, the encoder's configuration, the run and its tasks, and the thresholds of the heads.

    Thresholds are buffers of the head itself; those of its layers are in the graph.

    For those who read the folder without mtdnn, the tokenizer's limit is the largest max_length of its tasks.
    """
    run.tokenizer.limited_to(max(run.tasks[name].max_length for name in names)).save_pretrained(folder)
    run.model.encoder.config.save_pretrained(folder)
    kept = {name: run.tasks[name] for name in names}
    owners = {task.head_of: name for name, task in kept.items() if task.head_of and task.head_of not in kept}
    kept |= {owner: run.tasks[owner] for owner in owners}
    write_text(folder / "tasks.yml", tasks_to_yaml(kept))
    write_text(folder / "run.yml", run.config.to_yaml())
    heads = {name: run.model.head_of(name) for name in names}
    buffers = {
        name: {key: value.tolist() for key, value in head.named_buffers(recurse=False)} for name, head in heads.items()
    }
    described = {"tasks": list(names), "step": run.step, "checkpoint": run.checkpoint, "buffers": buffers}
    write_text(folder / DESCRIPTION, json.dumps(described, indent=1, ensure_ascii=False) + "\n")


def _largest_difference(model: MultiTaskModel, folder: Path, names: Sequence[str]) -> float:
    """Largest difference of an output at a real token between the run and its graph, on ragged batches."""
    exported = open_onnx(folder)
    return max(_difference(model, exported, names, lengths, seed) for seed, lengths in enumerate(LENGTHS))


def _difference(
    model: MultiTaskModel, exported: ExportedRun, names: Sequence[str], lengths: Sequence[int], seed: int
) -> float:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, model.encoder.config.vocab_size, shape, generator=generator).masked_fill(~mask, 0)
    types: dict[str, Tensor] = {}
    if has_token_types(model.encoder.config):
        types["token_type_ids"] = torch.randint(0, 2, shape, generator=generator).masked_fill(~mask, 0)
    batch = Batch(names[0], {"input_ids": ids, "mask": mask, **types}, None, [str(row) for row in range(shape[0])])
    graph: Any = exported.model
    outputs = graph.outputs(batch)
    with torch.inference_mode():
        device = next(model.parameters()).device
        hidden: Tensor = model.hidden(batch.to(device), task=names[0])
        largest = 0.0
        for name in names:
            head: Any = model.head_of(name)
            apart = (head(hidden, batch).cpu() - outputs[name]).abs()
            largest = max(largest, float(apart[mask].max() if apart.dim() == 3 else apart.max()))
    return largest


@dataclass(frozen=True)
class Loss:
    """What 8-bit weights cost on one split: a metric before and after."""

    task: str
    split: str
    metric: str
    before: float
    after: float


def quantize(folder: Path, *, data: Path | None = None) -> list[Loss]:
    """Replace the weights of the linear layers in an exported graph by 8-bit integers, and measure what that costs.

    Activations stay float32 and are quantized as they come (dynamic quantization). What is measured is written to the
    folder: every metric of every prepared dev split, with the float graph and with the integer one.

    Args:
        folder: made by `export_onnx`; the float graph in it is replaced.
        data: folder of prepared rows; None = the run's. Where there is none, nothing is measured.
    """
    require_onnx("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before = _measured(folder, data)
    whole, small = folder / GRAPH, folder / QUANTIZED
    graph = onnx.load(whole)
    del graph.graph.value_info[
        :
    ]  # shapes that PyTorch 2.11 notes; they do not fit the weights that are transposed here
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises to preprocess graphs, which PyTorch's exporter has done
    try:
        quantize_dynamic(graph, small, weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)
    small.replace(whole)
    after = _measured(folder, data)
    losses = [
        Loss(task, split, metric, value, after[task][split][metric])
        for task, splits in before.items()
        for split, values in splits.items()
        for metric, value in values.items()
        if metric != "rows"
    ]
    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    described |= {"weights": "int8", "dev": [vars(each) for each in losses]}
    write_text(folder / DESCRIPTION, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    return losses


def _measured(folder: Path, data: Path | None) -> Results:
    """Metrics of the dev splits that are prepared."""
    exported = open_onnx(folder)
    prepared = Path(data or exported.config.data)
    able = [name for name, task in exported.tasks.items() if _prepared_dev(prepared, name, task.splits.get("dev", ()))]
    if not able:
        if data is not None:
            found = f"no dev split of {', '.join(exported.tasks)} in '{data}'"
            raise DataError(fault("--data", "", found, "Give the folder that mtdnn prepro wrote."))
        return {}
    return exported.measure(able, prepared)


def _prepared_dev(prepared: Path, task: str, splits: Sequence[str]) -> bool:
    return bool(splits) and all((prepared / task / split).is_dir() for split in splits)


def megabytes(folder: Path) -> float:
    """Size of the graph in an exported folder."""
    return round((folder / GRAPH).stat().st_size / 1e6, 2)
