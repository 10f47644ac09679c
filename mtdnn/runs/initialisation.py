"""What the heads of a run start from: new weights, or those of an earlier run's heads."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from mtdnn.config.run import EncoderSource
from mtdnn.config.tasks import TaskDef
from mtdnn.errors import ConfigError, Fault, fault, unknown
from mtdnn.model import MultiTaskModel
from mtdnn.networks.pretrained import loading_only_data, no_bars_for_folders
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.hub import run_place
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.checkpoint import read_weights

logger = logging.getLogger(__name__)

AS_READ: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
"""How pretrained models are loaded: in the type that heads have, whatever their configuration says."""


def init_heads(
    model: MultiTaskModel,
    tasks: Mapping[str, TaskDef],
    source: str | EncoderSource,
    *,
    untrained: Sequence[str] = (),
) -> None:
    """Initialise heads from an earlier run: from the same task with `heads: keep`, or as `init_head` defines.

    Without an earlier run, heads for masked words start from the encoder's own, and decoders from that of its pair.

    Args:
        model: encoder and heads.
        tasks: name → definition.
        source: the run's `encoder`.
        untrained: tasks whose heads must be those of the earlier run.
    Raises:
        ConfigError: `init_head` without an earlier run, or with a task or label that run does not have; no such head
            there for a task that is not trained.
    """
    known = {} if isinstance(source, str) else RunFolder(run_place(source.run)).read_tasks()
    faults = init_head_faults(tasks, None if isinstance(source, str) else known)
    if faults := faults + kept_head_faults(tasks, known, untrained):
        raise ConfigError(faults)
    if isinstance(source, str):
        init_lm_heads(model, source)
        init_decoders(model, source)
        return
    run = RunFolder(run_place(source.run))
    checkpoint = run.checkpoint(source.checkpoint)
    for name, task in tasks.items():
        if task.init_head is not None:
            init_head_from(model, task, known, checkpoint)
        elif source.heads == "keep" and name in known and name in model.heads:
            kept = keep_head_of(model, task, known[name], checkpoint)
            if not kept and name in untrained:
                raise ConfigError(other_layers(task, run))
            if not kept:
                reason = "its labels, kind of head or layers differ from those in"
                logger.info("%s: starts with a new head: %s %s", name, reason, run.path)


def keep_head_of(model: MultiTaskModel, task: TaskDef, earlier: TaskDef, checkpoint: Path) -> bool:
    """Initialise a task's head from its own in an earlier run; False, and no change, if that has other layers.

    Args:
        model: encoder and heads.
        task: its definition.
        earlier: its definition in the earlier run.
        checkpoint: of the earlier run.
    """
    weights, head = head_weights(checkpoint, earlier), model.heads[task.name]
    if not has_same_head(task, earlier) or not has_same_layers(head, weights):
        return False
    keep_head(head, weights)
    return True


def keep_head(head: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a head of the same layout; what was chosen on a dev split may be in one of the two only.

    Args:
        head: of this run.
        weights: of the earlier run's head.
    """
    chosen = getattr(head, "between_labels", ())
    own = head.state_dict()
    tuned = {key: own[key] for key in chosen if key in own}
    head.load_state_dict({**tuned, **{key: value for key, value in weights.items() if key in own}})


def other_layers(task: TaskDef, run: RunFolder) -> Fault:
    """The error for a task of `also_evaluate` whose head has other layers than that of the earlier run."""
    fix = "Give the definition that it was trained with."
    return task.fault("head", f"its layers differ from those of the head in {run.path}", fix)


def has_same_layers(head: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Whether weights are those of all layers of a head; an option such as `dense: none` leaves one out.

    What belongs to no layer, such as a threshold chosen on a dev split, may be in one of the two only.
    """
    own = {name: weight.shape for name, weight in head.state_dict().items() if "." in name}
    return own == {name: weight.shape for name, weight in weights.items() if "." in name}


def head_weights(checkpoint: Path, task: TaskDef) -> dict[str, Tensor]:
    """Weights of the head that a task of an earlier run uses: its own, or another task's."""
    return read_weights(checkpoint, f"heads.{task.head_of or task.name}.")


def has_same_head(task: TaskDef, other: TaskDef) -> bool:
    """Whether two definitions have heads of the same kind for the same labels; for options see `has_same_layers`."""
    ours, theirs = (TASK_TYPES.get(each.task_type).head_named(each).name for each in (task, other))
    return task.labels == other.labels and ours == theirs


def init_lm_heads(model: MultiTaskModel, place: str) -> None:
    """Initialise heads for masked words with the encoder's pretrained head, if its files contain one.

    Training a new head would first degrade the pretrained encoder.
    """
    heads = model.heads_that_start_as("masked_lm")
    pretrained = pretrained_lm_head(place) if heads else None
    for head in heads:
        if pretrained is not None:
            head.start_from(pretrained)
        else:
            logger.info("%s contains no output layer for masked words; a new one is trained", place)


def init_decoders(model: MultiTaskModel, place: str) -> None:
    """Initialise decoders with that in the encoder's files, if they contain one."""
    heads = model.heads_that_start_as("decoder")
    if not heads:
        return
    with no_bars_for_folders(place):
        whole, info = AutoModelForSeq2SeqLM.from_pretrained(place, **AS_READ, **loading_only_data())
    known = {name: value for name, value in whole.state_dict().items() if name not in info["missing_keys"]}
    for head in heads:
        if not head.start_from(known):
            logger.info("%s contains no decoder; a new one is trained", place)


def pretrained_lm_head(place: str) -> dict[str, Tensor] | None:
    """Weights of the output layer for masked words in the files of an encoder, named as `MaskedLMHead` has them.

    Every family has BERT's layout under its own names: a dense layer, a normalisation, and a bias per token.
    """
    try:
        with no_bars_for_folders(place):
            whole, info = AutoModelForMaskedLM.from_pretrained(place, **AS_READ, **loading_only_data())
    except (OSError, ValueError):
        return None
    body = f"{whole.base_model_prefix}."
    if any(not name.startswith(body) and "decoder" not in name for name in info["missing_keys"]):
        return None
    found = {}
    for name, value in whole.named_parameters():
        kind = name.rpartition(".")[2]
        if name.startswith(body) or (value.dim() == 2 and len(value) == whole.config.vocab_size):
            continue
        if len(value) == whole.config.vocab_size:
            found["bias"] = value.detach()
        else:
            found[f"{'norm' if 'norm' in name.lower() else 'dense'}.{kind}"] = value.detach()
    return found


def init_head_from(model: MultiTaskModel, task: TaskDef, known: Mapping[str, TaskDef], checkpoint: Path) -> None:
    """Initialise a head from another task's: all layers below the output, and the output rows of mapped labels.

    Args:
        known: the tasks of the earlier run.
        checkpoint: of the earlier run.
        model: encoder and heads.
        task: the task of the head.
    Raises:
        ConfigError: the source task or a label is unknown, or the layouts of the heads differ.
    """
    init = task.init_head
    if init is None:
        raise ValueError(f"{task.name} has no init_head")
    if faults := init_head_faults({task.name: task}, known):
        raise ConfigError(faults)
    theirs = known[init.from_]
    weights = head_weights(checkpoint, theirs)
    head = model.heads[task.name]
    for name, value in head.state_dict().items():
        if name in getattr(head, "between_labels", ()):
            continue
        if name not in weights and name in getattr(head, "starts_new", ()):
            continue
        if name not in weights:
            raise ConfigError(task.fault("init_head.from", f"the head of '{init.from_}' has no {name}"))
        if name.startswith("output."):
            for ours, their in init.labels.items():
                value[task.labels.index(ours)].copy_(weights[name][theirs.labels.index(their)])
        elif weights[name].shape == value.shape:
            value.copy_(weights[name])
        else:
            raise ConfigError(task.fault("init_head.from", f"the head of '{init.from_}' has another shape at {name}"))


def kept_head_faults(
    tasks: Mapping[str, TaskDef], known: Mapping[str, TaskDef], untrained: Sequence[str]
) -> list[Fault]:
    """Errors in `also_evaluate`: tasks without the same head in the earlier run, so that theirs would be random.

    Args:
        tasks: name → definition.
        known: tasks of the earlier run.
        untrained: names of the tasks of `also_evaluate`.
    """
    faults: list[Fault] = []
    for name in untrained:
        if name not in known:
            faults.append(fault("", "also_evaluate", unknown("task of the encoder's run", name, known)))
        elif not has_same_head(tasks[name], known[name]):
            found = f"the encoder's run has other labels or another kind of head for '{name}'"
            faults.append(fault("", "also_evaluate", found, "Give the definition that it was trained with."))
    return faults


def init_head_faults(tasks: Mapping[str, TaskDef], known: Mapping[str, TaskDef] | None) -> list[Fault]:
    """Errors in `init_head`: no earlier run, an unknown task of it, labels that one of the two tasks does not have.

    Args:
        tasks: name → definition.
        known: tasks of the earlier run; None: there is none.
    """
    faults: list[Fault] = []
    for task in tasks.values():
        init = task.init_head
        if init is None:
            continue
        if known is None:
            fix = "Give `encoder: {run: folder of an earlier run}`."
            faults.append(task.fault("init_head", "there is no earlier run to take a head from", fix))
        elif init.from_ not in known:
            faults.append(task.fault("init_head.from", unknown("task", init.from_, known)))
        else:
            faults += _label_faults(task, known[init.from_])
    return faults


def _label_faults(task: TaskDef, theirs: TaskDef) -> list[Fault]:
    """An error for every label in the map of `init_head` that its task does not have."""
    mapped = task.init_head.labels if task.init_head is not None else {}
    sides = [(word, task.labels) for word in mapped] + [(word, theirs.labels) for word in mapped.values()]
    return [
        task.fault("init_head.labels", unknown("label", word, labels)) for word, labels in sides if word not in labels
    ]
