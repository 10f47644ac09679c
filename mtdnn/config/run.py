"""A run's YAML, with the flags that override it → frozen RunConfig."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from mtdnn.config.arguments import keywords_checked
from mtdnn.config.earlier import is_of_a_run, with_execution, without_unused
from mtdnn.config.execution import Execution, ExecutionOrWord
from mtdnn.config.options import (
    Frozen,
    Named,
    NamedOrWord,
    PathText,
    args_from_fields,
    named,
    named_or_default,
    path_as_text,
)
from mtdnn.config.refusals import validated
from mtdnn.config.task import Distill
from mtdnn.config.words import Words
from mtdnn.config.yaml_source import YamlSource, dump_yaml, parse_yaml, read_yaml
from mtdnn.errors import ConfigError, fault


def _off(value: object) -> object:
    """None for `none`, alone or as `{name: none}`: the plug-in is turned off."""
    return None if value is None or named(value) == {"name": "none"} else value


NamedOrOff = Annotated[NamedOrWord | None, BeforeValidator(_off, json_schema_input_type=str | Named | None)]


DEFAULTS = {"mixing": "round_robin", "balance": "fixed"}
"""Key → the plug-in whose options a mapping without `name` has."""


class Finite(Frozen):
    """Base of the parts of a run: as `Frozen`; infinite numbers and NaN are errors."""

    model_config = ConfigDict(allow_inf_nan=False)


class EncoderSource(Finite):
    """The encoder of an earlier run, in place of a hub name or folder."""

    run: PathText = Field(description="Folder of the run, or user/name on the hub; its `best` checkpoint is used.")
    checkpoint: str = Field("best", description="best | last | step-N.")
    heads: Literal["new", "keep"] = Field("new", description="keep: also start every task's head from that run's.")


class OptimizerConfig(Named):
    """The optimizer: keys common to all update rules, and the options of the named one."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: str = Field("adamw", description="Update rule; a dotted path names your own.")
    lr: float = Field(5e-5, gt=0, description="Peak learning rate.")
    head_lr: float | None = Field(None, gt=0, description="Peak learning rate of the heads. Default: lr.")
    weight_decay: float = Field(0.01, ge=0, description="Not applied to biases and LayerNorm weights; 0 turns it off.")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Factor of the learning rate per layer, from the top down; 1: off."
    )


class ScheduleConfig(Named):
    """The learning rate over the run, as a factor of its peak, and the options of the named schedule."""

    name: str = Field("linear", description="Learning rate schedule; a dotted path names your own.")


class TrackerConfig(Named):
    """An experiment tracker: keys common to all, and options that its library takes when a run begins."""

    name: Literal["tensorboard", "wandb", "mlflow", "trackio", "aim"] = Field(description="The tracker.")  # type: ignore[assignment]
    project: str = Field("mtdnn", description="Project, or experiment, that the run is listed under.")
    group: str | None = Field(None, description="What belongs together; runs of a study default to its folder's name.")


def _several(value: object) -> object:
    """A tracker, or a list of them, as a list; words as mappings; none as an empty list."""
    values = [] if value in (None, "none") else value if isinstance(value, (list, tuple)) else [value]
    return [named(each) for each in values]


class EarlyStopping(Finite):
    """Stop when the selection score has not increased for a number of evaluations."""

    patience: int = Field(3, ge=1, description="Evaluations without an increase before training stops.")
    min_delta: float = Field(0.0, ge=0, description="A smaller increase does not reset the patience.")


class Subset(Finite):
    """Part of a task's training rows, determined by their ids, the size and the seed; smaller subsets are nested."""

    fraction: float | None = Field(None, gt=0, le=1, description="Fraction of the rows, rounded down.")
    rows: int | None = Field(None, ge=1, description="Number of rows, in place of a fraction.")
    seed: int = Field(0, ge=0, description="Seed of the random choice.")

    @model_validator(mode="after")
    def _one_size(self) -> Subset:
        if (self.fraction is None) == (self.rows is None):
            raise ValueError("give either fraction or rows")
        return self


@args_from_fields
class RunConfig(Finite):
    """The complete configuration of a run; written, with all defaults, to `<output>/run.yml`.

    Raises:
        ConfigError: an unknown or missing keyword, or an invalid value.

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
        str | EncoderSource, BeforeValidator(path_as_text, json_schema_input_type=str | EncoderSource)
    ] = Field(description="Hub name, local folder, or {run: folder of an earlier run}.")
    train: Words | None = Field(None, description="Tasks to train on. Default: all with a train split.")
    also_evaluate: Words = Field(
        (), description="Tasks not trained on, measured with their heads in the encoder's run. Default: none."
    )
    subset: dict[str, Subset] = Field({}, description="Task → part of its training rows. Default: all.")
    distill: dict[str, Distill] = Field({}, description="Task → soft labels, in place of the definition's.")
    seed: int = Field(1, ge=0, description="Seed of every random draw of the run.")
    epochs: float = Field(3, gt=0, description="Passes over the training rows; a fraction is allowed.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; replaces `epochs`.")
    batch_size: int = Field(32, ge=1, description="Rows in a batch, unless the task sets its own.")
    eval_batch_size: int = Field(64, ge=1, description="Rows in an evaluation batch; does not change results.")
    max_tokens: int | None = Field(None, ge=1, description="Tokens in a batch; replaces batch_size. Default: off.")
    group_by_length: int | None = Field(None, ge=2, description="Batches sorted by length together. Default: off.")
    accumulate: int = Field(1, ge=1, description="Equal parts a batch is split into, to save memory; 1: not split.")
    precision: Literal["float32", "bf16", "fp16"] = Field(
        "float32", description="bf16, fp16: the encoder under autocast; weights and heads stay float32."
    )
    execution: ExecutionOrWord = Field(Execution(), description="Speed only, not results; a single word is the layout.")
    sharding: Literal["none", "full"] = Field(
        "none", description="full: several processes divide weights, gradients and optimizer state among them."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations in backward, to save memory.")
    compile: bool = Field(False, description="torch.compile the encoder's layers; no gain on a CPU.")
    adapter: NamedOrOff = Field(None, description="Few trained weights in the frozen encoder. Default: none.")
    freeze_encoder: bool = Field(False, description="Train the heads only.")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="β of a moving average of the weights, evaluated and stored in their place. Default: off.",
    )
    clip_norm: float | None = Field(1.0, gt=0, description="Largest norm of the gradient; null turns it off.")
    mixing: Annotated[
        Named, BeforeValidator(named_or_default(DEFAULTS["mixing"]), json_schema_input_type=str | Named)
    ] = Field(Named(name=DEFAULTS["mixing"]), description="Order of the tasks' batches, with its options.")
    tasks_per_step: int | Literal["all"] = Field(1, description="Tasks that a step has a batch of: a number, or all.")
    balance: Annotated[
        Named, BeforeValidator(named_or_default(DEFAULTS["balance"]), json_schema_input_type=str | Named)
    ] = Field(Named(name=DEFAULTS["balance"]), description="How the tasks of a step are combined, with its options.")
    log_conflicts: int = Field(0, ge=0, description="Steps between two lines of gradients' cosines by task; 0: off.")
    log_affinity: int = Field(
        0, ge=0, description="Steps between two measurements of what a step on one task does to the others; 0: off."
    )
    optimizer: Annotated[OptimizerConfig, BeforeValidator(named, json_schema_input_type=str | OptimizerConfig)] = Field(
        OptimizerConfig(), description="Update rule, with its options."
    )
    schedule: Annotated[ScheduleConfig, BeforeValidator(named, json_schema_input_type=str | ScheduleConfig)] = Field(
        ScheduleConfig(), description="Learning rate over the run, with its options."
    )
    regularizer: NamedOrOff = Field(
        None, description="Penalty of every task that does not name its own. Default: none."
    )
    proximal: NamedOrOff = Field(None, description="Bregman proximal point term. Default: none.")
    evaluate_every: int | Literal["epoch", "never"] = Field("epoch", description="Steps, epoch or never.")
    checkpoint_every: int | Literal["epoch", "never"] = Field("epoch", description="Steps, epoch or never.")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints kept in addition to best and last.")
    select_by: str = Field("mean", description="mean of the tasks' main metrics, or one task's name.")
    early_stopping: EarlyStopping | None = Field(
        None, description="Stop when the score that select_by selects by no longer increases. Default: off."
    )
    log_every: int = Field(10, ge=1, description="Steps between two lines of log.jsonl.")
    log_gradients: bool = Field(False, description="Log the gradient norm of each term, once per task and line.")
    trackers: Annotated[
        tuple[TrackerConfig, ...], BeforeValidator(_several, json_schema_input_type=str | list[str | TrackerConfig])
    ] = Field(
        (TrackerConfig(name="tensorboard"),),
        description="Where to log in addition to log.jsonl: tensorboard, wandb, mlflow, trackio, aim; none: nowhere.",
    )
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of PyTorch. Default: PyTorch's choice.")

    @field_validator("tasks", mode="before")
    @classmethod
    def _a_file(cls, value: object) -> object:
        if isinstance(value, Mapping):  # from --tasks.rte.dropout 0.2
            raise ValueError("is a YAML file; the options of a task are in its block there, or in the run of a study")
        return value

    @field_validator("train")
    @classmethod
    def _some_task(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names == ():
            raise ValueError("is empty; leave it out to train on all tasks")
        return names

    @field_validator("tasks_per_step")
    @classmethod
    def _positive_number(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("not a number of tasks; give at least 1, or all")
        return value

    @field_validator("evaluate_every", "checkpoint_every")
    @classmethod
    def _positive_interval(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("not an interval; give at least 1 step, epoch or never")
        return value

    def to_yaml(self) -> str:
        """YAML text that loads to an equal RunConfig."""
        return dump_yaml(self.model_dump(mode="json", by_alias=True))


def no_run() -> RunConfig:
    """A run with the defaults of all keys and without paths, for `check` without a run."""
    return RunConfig.model_construct(tasks="", data="", output="", encoder="")


@keywords_checked()
def load_run_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of a run, from a YAML file and overrides.

    Args:
        path: the YAML file; None: overrides only.
        overrides: dotted key → value, in place of the file's value.
    Returns:
        The run's configuration, with defaults for keys given by neither.
    Raises:
        ConfigError: reports every error, with file:line, or `--key` for an override.

    Example:
        >>> import mtdnn
        >>> config = mtdnn.load_run_config("run.yml", {"optimizer.lr": 3e-5})
        >>> config.optimizer.lr, config.output
        (3e-05, 'runs/first')
    """
    return run_config_of(run_source(path, overrides))


def run_config_of(source: YamlSource) -> RunConfig:
    """The RunConfig of a YAML document. Raises as `load_run_config`."""
    return validated(RunConfig, source.value, source)


def run_source(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None, *, given_by: str = "command line"
) -> YamlSource:
    """A YAML file with overrides applied; it records where each value was given.

    Args:
        path: the YAML file; None: overrides only.
        overrides: dotted key → value, e.g. {"optimizer.lr": 3e-5}, in place of the file's value.
        given_by: the place in messages when there is no file.
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
    """The RunConfig of a YAML text; `path` is its name in messages."""
    return run_config_of(parse_yaml(text, path=path))


WORD_OF = {"execution": "layout"}
"""Key whose value may be a single word → the nested key that the word sets, where that is not `name`."""


def _set(value: dict[str, Any], keys: tuple[str, ...], given: object) -> None:
    """Set the value at a key path; a word on the path (`mixing: uniform`) becomes {name: word} or {layout: word}."""
    for key in keys[:-1]:
        inner = value.get(key)
        if isinstance(inner, str):
            inner = {} if key == "encoder" else {WORD_OF.get(key, "name"): inner}  # an encoder is a hub name or a run
        if inner is not None and not isinstance(inner, dict):
            found = f"{key} is {inner!r}, not a mapping"
            raise ConfigError(fault("--" + ".".join(keys), "", found, f"Give --{key} as a whole."))
        value[key] = dict(inner or {})
        value = value[key]
    value[keys[-1]] = given
