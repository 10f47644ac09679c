"""A trained model with its tasks: evaluates prepared splits, predicts and embeds rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator

from mtdnn.batch import Batch
from mtdnn.config.arguments import keywords_checked
from mtdnn.config.run import RunConfig
from mtdnn.config.task import TaskDef
from mtdnn.data.loaders import EvalLoader, SharedEvalLoader
from mtdnn.data.store import Store, open_store, same_rows
from mtdnn.errors import ConfigError, DataError, fault, unknown
from mtdnn.execution.processes import Processes
from mtdnn.metrics.base import Record, measured, metric_of
from mtdnn.metrics.records import placed_at, write_records
from mtdnn.model import MultiTaskModel
from mtdnn.networks.modes import evaluation_mode
from mtdnn.registry import is_trusted, trusted, trusting
from mtdnn.runs.encoders import refuse_other_poolings, stored_encoder
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.given_rows import GivenRows
from mtdnn.runs.hub import run_place
from mtdnn.runs.memory_rows import MemoryStore, Rows, as_sequences, task_of
from mtdnn.runs.parts import autocast_of, task_types_of
from mtdnn.task_types.base import TaskType
from mtdnn.tokens.loading import load_tokenizer
from mtdnn.tokens.tokenizer import Tokenizer
from mtdnn.training.checkpoint import ENCODER, load_weights, open_checkpoint, read_state
from mtdnn.training.distillation import averaged
from mtdnn.training.evaluation import Results, predict_rows

P = ParamSpec("P")
R = TypeVar("R")

POOLINGS = ("mean", "first")


def _as_opened(method: Callable[P, R]) -> Callable[P, R]:
    """A decorator of methods of a run: its folder is trusted as much as when it was opened."""

    @wraps(method)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        with trusted(cast(Run, args[0]).trust):
            return method(*args, **keywords)

    return call


@dataclass(repr=False)
class Run:
    """A run opened at one of its checkpoints.

    Attributes:
        folder: of the run.
        checkpoint: best, last or step-N.
        step: optimizer steps of the weights.
        tasks: names.
        autocast: context of the run's precision.
        trust: its folder may name code.
        processes: those that share the work of `evaluate` and `predict`, all of which call it; all get the results, and
            the first writes them. None: this process alone.
    """

    folder: RunFolder
    checkpoint: str
    step: int
    config: RunConfig
    tasks: dict[str, TaskDef]
    model: MultiTaskModel
    tokenizer: Tokenizer
    device: torch.device
    autocast: Callable[[], AbstractContextManager]
    trust: bool = False
    processes: Processes | None = None

    def __repr__(self) -> str:
        """`Run('runs/first', checkpoint='best', step=120, tasks=['rte', 'mrpc'], device='cpu')`."""
        where = f"'{self.folder.path}', checkpoint='{self.checkpoint}', step={self.step}"
        return f"{type(self).__name__}({where}, tasks={list(self.tasks)}, device='{self.device}')"

    @keywords_checked()
    @_as_opened
    def evaluate(
        self, tasks: Sequence[str] | None = None, *, split: str | None = "dev", data: str | Path | None = None
    ) -> Results:
        """Metrics of prepared splits; predictions and `results.json` go to the run's folder.

        Args:
            tasks: names; None = all.
            split: a role (dev, test, train), the name of a split, or None = all prepared dev and test splits.
            data: folder made by `mtdnn prepro`; None = the run's.
        Raises:
            ConfigError: an unknown task, or no task has such a split.
            DataError: there is no such folder, or a split in it is not prepared for this tokenizer and task block.
        """
        names = self._known(tasks)
        self._require_own_folder()
        prepared = self._prepared_folder(data)
        results: Results = {}
        opened = {
            (name, each): open_store(prepared, self.tasks[name], each, tokenizer=self.tokenizer)
            for name, each in self._splits(names, split, prepared)
        }
        for stores in same_rows(opened):
            records = self._records_of({name: store for (name, _), store in stores.items()})
            for name, each in stores:
                results.setdefault(name, {})[each] = self._measured(records[name], name, each)
        words = {word for name in results for word in self.model.task_types[name].metric_names}
        if self._writes:
            self.folder.write_results(
                results,
                scales={word: metric_of(word).scale for word in sorted(words)},
                seed=self.config.seed,
                step=self.step,
                checkpoint=self.checkpoint,
            )
        return results

    def _prepared_folder(self, data: str | Path | None) -> Path:
        """The folder given, or else the run's; DataError if there is none."""
        prepared = Path(data or self.config.data)
        if prepared.is_dir():
            return prepared
        place, key = ("--data", "") if data else (str(self.folder.config_file), "data")
        found = f"there is no folder '{prepared}'; looked for {prepared.absolute()}"
        raise DataError(fault(place, key, found, "Give --data the folder that mtdnn prepro wrote."))

    def _measured(self, records: Sequence[Record], task: str, split: str) -> dict[str, float]:
        """Metrics of the predictions of a split, which are written to their file."""
        written, task_type = self.folder.prediction_file(task, split), self.model.task_types[task]
        if self._writes:
            write_records(written, records)
        with placed_at(str(written)):
            return measured(records, task_type.metric_names, task_type.task.labels)

    def _require_own_folder(self) -> None:
        """ConfigError for a run in the cache of the hub library, whose files must stay as they were uploaded."""
        from huggingface_hub.constants import HF_HUB_CACHE

        if self.folder.path.absolute().is_relative_to(Path(HF_HUB_CACHE).absolute()):
            fix = "Copy the run to a folder of your own: hf download USER/NAME --local-dir FOLDER."
            raise ConfigError(fault(str(self.folder.path), "", "results would be written to the hub's cache", fix))

    @property
    def _writes(self) -> bool:
        return self.processes is None or self.processes.is_first

    def _splits(self, names: Sequence[str], split: str | None, prepared: Path) -> list[tuple[str, str]]:
        """(task, split) pairs to measure; with None, the dev and test splits that are prepared."""
        found = []
        for name in names:
            roles = self.tasks[name].splits
            if split is None:
                wanted = [*roles.get("dev", ()), *roles.get("test", ())]
                found += [(name, each) for each in wanted if (prepared / name / each).is_dir()]
            elif split in roles:
                found += [(name, each) for each in roles[split]]
            elif split in self.tasks[name].split_names:
                found.append((name, split))
        if not found and split is not None:
            tasks = [self.tasks[name] for name in names]
            known = sorted({each for task in tasks for each in (*task.splits, *task.split_names)})
            raise ConfigError(fault("", "split", f"of {', '.join(names)}: {unknown('split', split, known)}"))
        return found

    @_as_opened
    def records(self, store: Store, task: str) -> Sequence[Record]:
        """Predictions of a task for the rows of a prepared split of it, in their order."""
        return self._records(store, [task])[task]

    def _records_of(self, stores: Mapping[str, Store | MemoryStore]) -> dict[str, Sequence[Record]]:
        """Predictions of tasks for the same rows, each with its labels, from one pass of the encoder.

        Args:
            stores: task → the rows with its columns.
        """
        if len(stores) == 1:
            ((task, store),) = stores.items()
            return self._records(store, [task])
        types, config = self.model.task_types, self.config
        loader = SharedEvalLoader(stores, types, config.eval_batch_size, self.tokenizer.pad_token_id, self.processes)
        return predict_rows(
            self.model, loader, list(stores), device=self.device, autocast=self.autocast, processes=self.processes
        )

    def _records(self, store: Store | MemoryStore, tasks: Sequence[str]) -> dict[str, Sequence[Record]]:
        """Predictions of several tasks for the rows of a store made for the first of them."""
        loader = EvalLoader(
            store,
            self.model.task_types[tasks[0]],
            self.config.eval_batch_size,
            self.tokenizer.pad_token_id,
            self.processes,
        )
        return predict_rows(
            self.model, loader, tasks, device=self.device, autocast=self.autocast, processes=self.processes
        )

    @keywords_checked()
    @_as_opened
    def predict(self, tasks: str | Sequence[str], rows: Rows) -> dict[str, list[Record]]:
        """Prediction records of one or several tasks; tasks that can read the same encoding share a pass of the
        encoder: classification, regression, multilabel and sequence_labeling of the same inputs and max_length.

        Args:
            tasks: their names.
            rows: a file with the first task's columns, labelled or not; a `datasets.Dataset`, a pandas DataFrame or a
                list of dicts with these; or texts: `[(premise, hypothesis), …]`, or `[text, …]` for tasks with one
                text. Labels are the first task's and, in
                files that it shares, those of the tasks that share them.
        Raises:
            ConfigError: an unknown task, or tasks with different inputs.
            DataError: every bad row, with its place.
        """
        return {name: list(records) for name, records in self.predicted(tasks, rows).items()}

    @_as_opened
    def predicted(self, tasks: str | Sequence[str], rows: Rows) -> dict[str, Sequence[Record]]:
        """As `predict`, but many records are in a temporary file, not in memory; see `mtdnn.metrics.stored`.

        Args:
            tasks, rows: as for `predict`.
        Raises:
            ConfigError, DataError: as `predict`.
        """
        names, rows = self._known([tasks] if isinstance(tasks, str) else tasks), as_sequences(rows)
        self._given.require_same_inputs(names)
        found: dict[str, Sequence[Record]] = {}
        for group in self._given.encoded_alike(names):
            if self._given.has_own_columns(group, self.tasks[names[0]]):
                with self._given.shared_stores(group, rows, columns_of=names[0]) as stores:
                    found.update(self._records_of(stores))
            else:
                with self._given.store(group[0], rows, columns_of=names[0]) as store:
                    found.update(self._records(store, group))
        return {name: found[name] for name in names}

    @keywords_checked()
    @_as_opened
    def embed(self, rows: Rows, *, task: str | None = None, pooling: str = "mean") -> tuple[list[str], np.ndarray]:
        """Ids of the rows, and [rows, H] float32, one vector per row.

        Args:
            rows: as for `predict`; their labels are not read.
            task: the task of the rows; None = the run's only task, or the first with as many columns.
            pooling: mean = mean of the hidden states of a row's real tokens; first = hidden state of its first token.
        Raises:
            ConfigError, DataError: as `predict`; or an unknown word for pooling.
        """
        if pooling not in POOLINGS:
            raise ConfigError(fault("", "pooling", unknown("word", pooling, POOLINGS)))
        types, rows = {name: self.model.task_types[name] for name in self.tasks}, as_sequences(rows)
        name = self._known([task])[0] if task else task_of(rows, types)
        with self._given.store(name, rows, labels="ignored") as store:
            loader = EvalLoader(
                store, self.model.task_types[name], self.config.eval_batch_size, self.tokenizer.pad_token_id
            )
            vectors = np.empty((len(store), self.model.encoder.hidden_size), dtype=np.float32)
            with evaluation_mode(self.model), torch.inference_mode(), self.autocast():
                for numbers, batch in loader:
                    vectors[numbers] = self._pooled(batch.to(self.device), pooling)
            return store.ids, vectors

    def _pooled(self, batch: Batch, pooling: str) -> np.ndarray:
        """[B, H]: for a row of several sequences the mean over all their tokens, or the first token of the first."""
        hidden, rows = self.model.hidden(batch).float(), batch.row_of_sequence
        if pooling == "first":
            starts = torch.searchsorted(rows, torch.arange(len(batch), device=rows.device))
            return hidden[starts, 0].cpu().numpy()
        mask = batch.mask.to(self.device).unsqueeze(-1)
        sums = hidden.new_zeros(len(batch), hidden.shape[2]).index_add(0, rows, hidden.masked_fill(~mask, 0).sum(1))
        counts = hidden.new_zeros(len(batch), 1).index_add(0, rows, mask.sum(1).float())
        pooled: np.ndarray = (sums / counts).cpu().numpy()
        return pooled

    @property
    def _given(self) -> GivenRows:
        return GivenRows(self.tasks, self.model.task_types, self.tokenizer)

    def _known(self, names: Sequence[str] | None) -> list[str]:
        """These tasks, or all.

        Raises:
            ConfigError: one is not a task of this run.
        """
        unknown_names = [name for name in names or () if name not in self.tasks]
        faults = [fault("", "task", unknown("task", name, self.tasks)) for name in unknown_names]
        if names is not None and not names:
            faults.append(fault("", "task", "no task named", f"Known: {', '.join(self.tasks)}."))
        if faults:
            raise ConfigError(faults)
        return list(self.tasks if names is None else dict.fromkeys(names))


@keywords_checked()
@trusting
def open_run(folder: str | Path, *, checkpoint: str = "best", trust: bool = False) -> Run:
    """A run's model at one of its checkpoints, ready to evaluate, predict and embed.

    It needs nothing outside the folder, but for the frozen encoder that an adapter was trained over.

    Args:
        folder: of the run: the `output` it was trained with; or `user/name`, a run on the Hugging Face hub.
        checkpoint: best, last or step-N.
        trust: the folder may name code by dotted paths, which is imported; without it, the folder runs no code.
    Returns:
        The run, with `evaluate`, `predict` and `embed`, and its `tasks`, `config`, `model` and `tokenizer`.
    Raises:
        ConfigError: the folder contains no run, or the name of the checkpoint is unknown.
        DataError: the checkpoint is missing or damaged, or the encoder of its adapter is.

    Example:
        >>> import mtdnn
        >>> run = mtdnn.open_run("runs/first")
        >>> records = run.predict("rte", [("It rained all night.", "It rained.")])
        >>> records["rte"][0]["prediction"] in ("entailment", "not_entailment")
        True
        >>> ids, vectors = run.embed([("It rained all night.", "It rained.")], pooling="mean")
        >>> vectors.shape
        (1, 8)
    """
    run = RunFolder(run_place(folder))
    config, tasks = run.read_config(), run.read_tasks()
    path = open_checkpoint(run.checkpoint(checkpoint))
    step = int(read_state(path)["step"])
    tokenizer = load_tokenizer(path / ENCODER)
    encoder = stored_encoder(path, config)
    model = MultiTaskModel(encoder, task_types_of(tasks, tokenizer))
    refuse_other_poolings(model, path, run.tasks_file)
    load_weights(path, model, left_out=model.frozen_weights())
    if read_state(path)["step"] != step:
        raise DataError(fault(str(path), "", "replaced while it was read", "Run the same command again."))
    device = Accelerator().device
    model, autocast = model.to(device).eval(), autocast_of(config, device)
    return Run(run, checkpoint, step, config, tasks, model, tokenizer, device, autocast, trust=is_trusted())


def soft_predictions(
    folders: Sequence[str | Path], tasks: Sequence[str], rows: Rows, *, checkpoint: str = "best"
) -> dict[str, Sequence[Record]]:
    """Prediction records with the mean of several runs' predictions, for each task: soft labels for `distill`.

    The runs are opened one after another. Labels are read by the first run's task.

    Args:
        folders: of one or several runs that have the tasks.
        rows, checkpoint: as for `Run.predict` and `open_run`.
        tasks: names.
    Raises:
        ConfigError: as `open_run`, or a task's type has no soft labels.
        DataError: as `Run.predict`, or the runs' labels differ.
    """
    types: dict[str, TaskType] = {}
    found: dict[str, list[Sequence[Record]]] = {task: [] for task in tasks}
    for folder in folders:
        run = open_run(folder, checkpoint=checkpoint)
        types = types or run.model.task_types
        unable = [task for task in tasks if task in types and not types[task].soft_labels]
        if unable:
            what = f"'{unable[0]}' is a task of {types[unable[0]].task.task_type}, which has no soft labels"
            raise ConfigError(fault("--soft", "", what, "Predict it without --soft."))
        for task, records in run.predicted(tasks, rows).items():
            found[task].append(records)
    places = [str(folder) for folder in folders]
    return {task: averaged(of_runs, types[task], places=places) for task, of_runs in found.items()}
