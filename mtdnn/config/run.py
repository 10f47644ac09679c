"""A run's YAML (and the flags given beside it) → frozen RunConfig."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from mtdnn.config.earlier import is_of_a_run, with_execution, without_unused
from mtdnn.config.execution import Execution, ExecutionOrWord
from mtdnn.config.options import Frozen, Named, NamedOrWord, args_from_fields, named
from mtdnn.config.tasks import Distill, Words
from mtdnn.config.yaml_source import YamlSource, dump_yaml, parse_yaml, read_yaml, validated
from mtdnn.errors import ConfigError, fault, keywords_checked


def _off(value: object) -> object:
    """`none`, alone or as a name, turns a plug-in off."""
    return None if value is None or named(value) == {"name": "none"} else value


NamedOrOff = Annotated[NamedOrWord | None, BeforeValidator(_off, json_schema_input_type=str | Named | None)]


class Finite(Frozen):
    """A part of a run: as `Frozen`, and no number is infinite or NaN."""

    model_config = ConfigDict(allow_inf_nan=False)


class EncoderSource(Finite):
    """The encoder of an earlier run in place of a hub name or folder."""

    run: str = Field(description="Folder of the run; its `best` checkpoint is used.")
    checkpoint: str = Field("best", description="best | last | step-N.")
    heads: Literal["new", "keep"] = Field("new", description="keep: also start every task's head from that run's.")


class OptimizerConfig(Named):
    """How weights move: what all update rules have in common, and the options of the named one."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: str = Field("adamw", description="Update rule; a dotted path names one living elsewhere.")
    lr: float = Field(5e-5, gt=0, description="Peak learning rate.")
    head_lr: float | None = Field(None, gt=0, description="Peak learning rate of the heads. Default: lr.")
    weight_decay: float = Field(0.01, ge=0, description="Not on biases and LayerNorm weights; 0 turns it off.")
    layer_decay: float = Field(1.0, gt=0, le=1, description="Learning rate factor per layer downwards; 1 turns it off.")


class ScheduleConfig(Named):
    """The learning rate over the run, as a factor of its peak, with the options of the named course."""

    name: str = Field("linear", description="Course of the learning rate; a dotted path names one living elsewhere.")


class EarlyStopping(Finite):
    """Stop when the selection score has not risen for some evaluations."""

    patience: int = Field(3, ge=1, description="Evaluations without an increase.")
    min_delta: float = Field(0.0, ge=0, description="A smaller increase does not reset the patience.")


class Subset(Finite):
    """Part of a task's training rows: a pure function of their ids, the size and the seed; smaller ones are nested."""

    fraction: float | None = Field(None, gt=0, le=1, description="Of the rows, rounded down.")
    rows: int | None = Field(None, ge=1, description="Number of rows, in place of a fraction.")
    seed: int = Field(0, ge=0, description="Of the choice.")

    @model_validator(mode="after")
    def _one_size(self) -> Subset:
        if (self.fraction is None) == (self.rows is None):
            raise ValueError("give either fraction or rows")
        return self


def _path_as_text(value: object) -> object:
    """A path made in Python, as YAML would hold it."""
    return str(value) if isinstance(value, Path) else value


PathText = Annotated[str, BeforeValidator(_path_as_text, json_schema_input_type=str)]


@args_from_fields
class RunConfig(Finite):
    """Everything that decides a run; written, resolved, to `<output>/run.yml`.

    Raises:
        ConfigError: an unknown keyword, one that is missing, or a value that no run can have.

    Example:
        >>> import mtdnn
        >>> config = mtdnn.RunConfig(tasks="tasks.yml", data="prepared", encoder="encoder", output="runs/a", epochs=1)
        >>> config.epochs, config.batch_size, config.optimizer.lr
        (1.0, 32, 5e-05)
    """

    tasks: PathText = Field(description="Task definitions, a YAML file.")
    data: PathText = Field(description="Folder made by `mtdnn prepro`.")
    output: PathText = Field(description="Folder of this run.")
    encoder: Annotated[
        str | EncoderSource, BeforeValidator(_path_as_text, json_schema_input_type=str | EncoderSource)
    ] = Field(description="Hub name, local folder, or {run: folder of an earlier run}.")
    train: Words | None = Field(None, description="Tasks to train on. Default: all with a train split.")
    subset: dict[str, Subset] = Field({}, description="Task → part of its training rows. Default: all.")
    distill: dict[str, Distill] = Field({}, description="Task → soft labels, in place of the definition's.")
    seed: int = Field(1, ge=0, description="Of every random draw of the run.")
    epochs: float = Field(3, gt=0, description="Passes over the training rows; a fraction is allowed.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; replaces `epochs`.")
    batch_size: int = Field(32, ge=1, description="Rows in a batch, unless the task says otherwise.")
    eval_batch_size: int = Field(64, ge=1, description="Rows in a batch of evaluation; changes no result.")
    max_tokens: int | None = Field(None, ge=1, description="Tokens in a batch; replaces batch_size. Default: off.")
    group_by_length: int | None = Field(None, ge=2, description="Batches sorted by length together. Default: off.")
    accumulate: int = Field(1, ge=1, description="Equal parts a batch is computed in, to save memory; 1 = whole.")
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="bf16: autocast of the encoder; weights, heads float32."
    )
    execution: ExecutionOrWord = Field(Execution(), description="How fast, never what; one word gives the layout.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations in backward, to save memory.")
    compile: bool = Field(False, description="torch.compile the encoder's layers; no gain on a CPU.")
    freeze_encoder: bool = Field(False, description="Train the heads only.")
    clip_norm: float | None = Field(1.0, gt=0, description="Largest norm of the gradient; null turns it off.")
    mixing: NamedOrWord = Field(Named(name="round_robin"), description="Order of the tasks' batches, with its options.")
    optimizer: Annotated[OptimizerConfig, BeforeValidator(named, json_schema_input_type=str | OptimizerConfig)] = Field(
        OptimizerConfig(), description="Update rule, with its options."
    )
    schedule: Annotated[ScheduleConfig, BeforeValidator(named, json_schema_input_type=str | ScheduleConfig)] = Field(
        ScheduleConfig(), description="Learning rate over the run, with its options."
    )
    regularizer: NamedOrOff = Field(None, description="Penalty of every task that names none itself. Default: none.")
    proximal: NamedOrOff = Field(None, description="Bregman proximal point term. Default: none.")
    evaluate_every: int | Literal["epoch", "never"] = Field("epoch", description="Steps, epoch or never.")
    checkpoint_every: int | Literal["epoch", "never"] = Field("epoch", description="Steps, epoch or never.")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints kept in addition to best and last.")
    select_by: str = Field("mean", description="mean of the tasks' main metrics, or one task's name.")
    early_stopping: EarlyStopping | None = Field(None, description="Default: off.")
    log_every: int = Field(10, ge=1, description="Steps between two lines of log.jsonl.")
    log_gradients: bool = Field(False, description="Log the gradient norm of each term, once per task and line.")
    threads: int | None = Field(None, ge=1, description="CPU threads of PyTorch. Default: PyTorch's choice.")

    @field_validator("train")
    @classmethod
    def _some_task(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names == ():
            raise ValueError("names no task; leave it out to train on all")
        return names

    @field_validator("evaluate_every", "checkpoint_every")
    @classmethod
    def _positive_interval(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("no interval; give at least 1 step, or epoch, or never")
        return value

    def to_yaml(self) -> str:
        """YAML text that loads to an equal RunConfig."""
        return dump_yaml(self.model_dump(mode="json", by_alias=True))


@keywords_checked()
def load_run_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The run in a YAML file with overrides laid over it.

    Args:
        path: the file; None starts from nothing.
        overrides: dotted key → value; a value given here replaces the file's.
    Returns:
        The run, with a default for each key that neither gives.
    Raises:
        ConfigError: every fault, with file:line, or `--key` for one that was overridden.

    Example:
        >>> import mtdnn
        >>> config = mtdnn.load_run_config("run.yml", {"optimizer.lr": 3e-5})
        >>> config.optimizer.lr, config.output
        (3e-05, 'runs/first')
    """
    return run_config_of(run_source(path, overrides))


def run_config_of(source: YamlSource) -> RunConfig:
    """The run in a document. Raises as `load_run_config`."""
    return validated(RunConfig, source.value, source)


def run_source(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None, *, given_by: str = "command line"
) -> YamlSource:
    """A YAML file with overrides laid over it, each value remembering where it comes from.

    Args:
        path: the file; None starts from nothing.
        overrides: dotted key → value, e.g. {"optimizer.lr": 3e-5}; a value given here replaces the file's.
        given_by: what is named where there is no file.
    """
    source = read_yaml(path) if path is not None else YamlSource(path=given_by, value={})
    of_a_run = path is not None and is_of_a_run(path)
    given, lines = with_execution(source.value), dict(source.lines)
    value = without_unused(given) if of_a_run else given
    flags = [tuple(dotted.split(".")) for dotted in overrides or {}]
    for keys, given in zip(flags, (overrides or {}).values(), strict=True):
        _set(value, keys, given)
        lines = {at: line for at, line in lines.items() if at[: len(keys)] != keys}
    return YamlSource(path=source.path, value=value, lines=lines, flags=flags)


def run_config_from_yaml(text: str, *, path: str = "run.yml") -> RunConfig:
    """The run in a YAML text; `path` names it in messages."""
    return run_config_of(parse_yaml(text, path=path))


WORD_OF = {"execution": "layout"}
"""Key that may hold one word → the key below it that the word is for, where that is not `name`."""


def _set(value: dict[str, Any], keys: tuple[str, ...], given: object) -> None:
    """Put `given` at a key path; a word on the way (`mixing: temperature`) becomes {name: word}, or {layout: word}."""
    for key in keys[:-1]:
        inner = value.get(key)
        if isinstance(inner, str):
            inner = {} if key == "encoder" else {WORD_OF.get(key, "name"): inner}  # an encoder: a word or a run
        if inner is not None and not isinstance(inner, dict):
            found = f"{key} holds {inner!r}, not a mapping"
            raise ConfigError(fault("--" + ".".join(keys), "", found, f"Give --{key} as a whole."))
        value[key] = dict(inner or {})
        value = value[key]
    value[keys[-1]] = given
