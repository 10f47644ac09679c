"""Dev metrics of a model, and the score that selects between checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef
from mtdnn.data.loaders import EvalLoader, SharedEvalLoader
from mtdnn.data.store import Store, same_rows
from mtdnn.execution.processes import Processes
from mtdnn.metrics.base import measured
from mtdnn.model import MultiTaskModel
from mtdnn.runs.named import selecting_tasks
from mtdnn.runs.parts import autocast_of
from mtdnn.tokens.tokenizer import Tokenizer
from mtdnn.training.evaluation import Results, predict_rows, selection_score

DevStores = Mapping[tuple[str, str], Store]
"""(task, split) → rows of every dev split."""


def dev_results(
    model: MultiTaskModel,
    stores: DevStores,
    config: RunConfig,
    *,
    tokenizer: Tokenizer,
    device: torch.device,
    processes: Processes | None = None,
) -> Results:
    """Metrics of every dev split; a task tunes its thresholds on the first of its splits.

    Args:
        model: encoder and heads.
        stores: the dev splits.
        config: the run.
        tokenizer: of its encoder.
        device: of the model.
        processes: those that share the rows; all get the metrics of all rows.
    """
    results: Results = {}
    types, autocast = model.task_types, autocast_of(config, device)
    options = (config.eval_batch_size, tokenizer.pad_token_id, processes)
    for alike in same_rows(stores):
        names, (split, *_) = [name for name, _ in alike], [split for _, split in alike]
        loader: EvalLoader | SharedEvalLoader = EvalLoader(alike[names[0], split], types[names[0]], *options)
        if len(alike) > 1:
            loader = SharedEvalLoader({name: store for (name, _), store in alike.items()}, types, *options)
        tune = [name for name in names if name not in results]
        found = predict_rows(model, loader, names, device=device, autocast=autocast, tune=tune, processes=processes)
        for name in names:
            values = measured(found[name], types[name].metric_names, types[name].task.labels)
            results.setdefault(name, {})[split] = values
    return results


def dev_score(results: Results, model: MultiTaskModel, config: RunConfig, tasks: Mapping[str, TaskDef]) -> float | None:
    """The score by which the run selects its best checkpoint; None if no dev row has a label.

    Args:
        results: of the dev splits.
        model: encoder and heads.
        config: the run.
        tasks: name → definition.
    """
    selecting = {name: results[name] for name in selecting_tasks(config, tasks) if name in results}
    main_metrics = {name: model.task_types[name].metric_names for name in selecting}
    return selection_score(selecting, main_metrics, config.select_by)
