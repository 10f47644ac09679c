"""One task of a run → a folder that `AutoModelForSequenceClassification` loads, with equal logits.

A task with a `token` head is exported for `AutoModelForTokenClassification`, a generated one for
`AutoModelForSeq2SeqLM`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from mtdnn.batch import Batch
from mtdnn.errors import ConfigError, fault, unknown
from mtdnn.files import write_text
from mtdnn.model import MultiTaskModel
from mtdnn.networks.decoder import pair_config
from mtdnn.networks.encoder import has_token_types
from mtdnn.networks.heads import Counterpart
from mtdnn.networks.modes import evaluation_mode
from mtdnn.networks.pretrained import no_bars_for_folders
from mtdnn.tokens.families import is_causal
from mtdnn.training.checkpoint import atomic_folder

COUNTERPARTS = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}
DENSE_LAYERS = ("pooler.dense", "pooler", "classifier.dense", "pre_classifier")
OUTPUT_LAYERS = ("classifier.out_proj", "classifier", "score")
USE_PREDICT = "The head of this family has other layers; use `mtdnn predict`."
TOLERANCE = 1e-4  # float32 logits after the same operations in another order of summation


class SaveTokenizer(Protocol):
    """Writes a tokenizer's files into a folder; see `mtdnn.tokens.tokenizer.Tokenizer.save`."""

    def __call__(self, folder: Path, *, max_length: int, token_types: bool) -> None: ...


def export_task(
    model: MultiTaskModel,
    task: str,
    folder: Path,
    *,
    save_tokenizer: SaveTokenizer,
    pad_token_id: int | None = None,
    card: str | None = None,
) -> None:
    """Write one task's encoder and head as its family's sequence (or token) classification model.

    Args:
        save_tokenizer: writes the tokenizer's files into the folder it is given, to cut rows at the task's max_length;
            it returns token types only if the encoder is given them here.
        pad_token_id: the tokenizer's, or that of a token it pads with in place of one; decoder-only families need it.
        model: encoder and heads.
        task: its name.
        folder: a new one.
        card: text of its README.md; None: it has none.
    Raises:
        ConfigError: the model has no such task, transformers has no counterpart of the task's head or of the encoder's
            family, or the logits would differ.
    """
    generates = _counterpart(model, task) == "encoder_decoder"
    exported = encoder_decoder(model, task) if generates else classifier(model, task, pad_token_id=pad_token_id)
    difference = largest_difference(model, exported, task)
    if not difference <= TOLERANCE:
        found = f"{type(exported).__name__} returns other logits (differing by up to {difference:.1e})"
        raise ConfigError(fault(task, "export", found, USE_PREDICT))
    with atomic_folder(folder) as partial:
        with no_bars_for_folders(str(partial)):
            exported.save_pretrained(partial)
        max_length = model.task_types[task].task.max_length
        save_tokenizer(partial, max_length=max_length, token_types=has_token_types(model.encoder.config))
        if card is not None:
            write_text(partial / "README.md", card)


def _counterpart(model: MultiTaskModel, task: str) -> Counterpart:
    """The kind of transformers' model with the layers of a task's head; ConfigError if there is none."""
    if task not in model.task_types:
        raise ConfigError(fault("", "task", unknown("task", task, model.task_types), "Name one of them."))
    head = model.head_of(task)
    found: Counterpart = getattr(head, "counterpart", None)
    if found is None:
        fix = "Only heads named `pooled`, `token` or `decoder` can be exported."
        raise ConfigError(fault(task, "export", f"a {type(head).__name__} has no counterpart in transformers", fix))
    return found


def classifier(model: MultiTaskModel, task: str, *, pad_token_id: int | None = None) -> PreTrainedModel:
    """The family's classification model with the weights of the shared encoder and of the head of a task.

    Args:
        model: encoder and heads.
        task: its name.
        pad_token_id: as for `export_task`.
    Raises:
        ConfigError: as `export_task`.
    """
    kind, head = _counterpart(model, task), cast(Any, model.head_of(task))
    exported = _new_classifier(COUNTERPARTS[str(kind)], _classifier_config(model, task, pad_token_id), task)
    exported.base_model.load_state_dict(model.merged_weights(task), strict=False)
    if kind == "sequence" and head.dense is not None:
        _layer(exported, DENSE_LAYERS, head.dense).load_state_dict(head.dense.state_dict())
    factor = model.task_types[task].logit_factor(head)
    output = {name: value * factor for name, value in head.output.state_dict().items()}
    _layer(exported, OUTPUT_LAYERS, head.output).load_state_dict(output)
    return exported


def _classifier_config(model: MultiTaskModel, task: str, pad_token_id: int | None) -> PretrainedConfig:
    """The configuration of the classification model of a task.

    Its outputs bear the names of the task's labels where there is one for each; the score of a ranking task, whose
    labels are degrees of relevance, bears none.
    """
    head, task_type = cast(Any, model.head_of(task)), model.task_types[task]
    config = type(model.encoder.config).from_dict(model.encoder.config.to_dict())
    if is_causal(config):  # whose heads look for the last token that is no padding
        if pad_token_id is None:
            fix = "Give the tokenizer a pad token."
            raise ConfigError(fault(task, "export", "no token to pad with, whose place the head asks for", fix))
        config.pad_token_id = pad_token_id
    config.num_labels = head.output.out_features
    config.problem_type = task_type.problem_type
    for key, value in task_type.exported_settings(head).items():
        setattr(config, key, value)
    labels = task_type.task.labels
    if len(labels) == config.num_labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in config.id2label.items()}
    return config


def _new_classifier(kind: Any, config: PretrainedConfig, task: str) -> PreTrainedModel:
    """A model of a configuration with random weights; the default random states are left unchanged."""
    with torch.random.fork_rng(devices=[]):
        try:
            exported: PreTrainedModel = kind.from_config(config).eval()
        except ValueError as error:
            found = f"transformers has no {kind.__name__} of '{config.model_type}'"
            raise ConfigError(fault(task, "export", found, "Use `mtdnn predict`.")) from error
    return exported


def encoder_decoder(model: MultiTaskModel, task: str) -> PreTrainedModel:
    """The family's encoder-decoder with the weights of the shared encoder and of the decoder of a task.

    Args:
        model: encoder and heads.
        task: its name.
    """
    head: Any = model.head_of(task)
    config = pair_config(model.encoder.config)
    with torch.random.fork_rng(devices=[]):
        exported: Any = AutoModelForSeq2SeqLM.from_config(config).eval()
    weights = {f"encoder.{name.removeprefix('encoder.')}": value for name, value in model.merged_weights(task).items()}
    core = exported if hasattr(exported, "encoder") else exported.model
    core.load_state_dict(weights, strict=False)
    exported.load_state_dict(head.model.state_dict(), strict=False)
    table = model.encoder.backbone.get_input_embeddings()
    exported.get_input_embeddings().weight.data.copy_(table.weight)
    exported.tie_weights()
    for name, value in model.task_types[task].generation_settings().items():  # type: ignore[attr-defined]
        setattr(exported.generation_config, name, value)
    return cast(PreTrainedModel, exported)


def _layer(exported: PreTrainedModel, names: tuple[str, ...], like: nn.Linear) -> nn.Linear:
    """The linear layer of the shape of ours under one of these names."""
    for parent in (exported, exported.base_model):
        for name in names:
            try:
                found = parent.get_submodule(name)
            except AttributeError:
                continue
            if isinstance(found, nn.Linear) and found.weight.shape == like.weight.shape:
                return found
    message = f"{type(exported).__name__} has no layer of {tuple(like.weight.shape)} among {', '.join(names)}"
    raise ConfigError(fault("", "export", message, USE_PREDICT))


def largest_difference(model: MultiTaskModel, exported: PreTrainedModel, task: str) -> float:
    """Largest difference of the outputs of the task's head and of the exported model on a few random sequences.

    Args:
        model: encoder and heads.
        exported: the model of transformers.
        task: its name.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.encoder.config.vocab_size
    ids = torch.randint(5, vocabulary, (4, 16), generator=generator)
    mask = torch.ones_like(ids, dtype=torch.bool)
    if exported.config.pad_token_id is not None:
        mask[0, 9:] = False
        ids = ids.masked_fill(ids == exported.config.pad_token_id, 5 if exported.config.pad_token_id != 5 else 6)
        ids = ids.masked_fill(~mask, exported.config.pad_token_id)
    head = model.head_of(task)
    targets = {"labels": ids[:, :7].contiguous()} if _counterpart(model, task) == "encoder_decoder" else {}
    batch = Batch(task, {"input_ids": ids, "mask": mask}, targets.get("labels"), ["0", "1", "2", "3"])
    with evaluation_mode(model), torch.inference_mode():
        moved = batch.to(next(model.parameters()).device)
        logits: Tensor = head(model.hidden(moved), moved).cpu()
        theirs: Tensor = exported(input_ids=ids, attention_mask=mask.long(), **targets).logits
    different = (logits * model.task_types[task].logit_factor(head) - theirs).abs()
    return float(different.max() if different.dim() < 3 or targets else different[mask].max())
