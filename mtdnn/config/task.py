"""One block of task_defs/*.yml as a frozen record, with the file:line of each key.

Only the shape of a block is checked here. Names of plug-ins (task type, metrics, loss, regularizer) are checked against
their registries where tasks are assembled.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PrivateAttr, field_validator

from mtdnn.config.arguments import home_expanded
from mtdnn.config.options import Frozen, Named, NamedOrWord, PathText, args_from_fields
from mtdnn.config.splits import ROLES, Cut, SplitNames, with_cuts
from mtdnn.config.words import Words, WordToWord
from mtdnn.config.yaml_source import KeyPath, YamlSource
from mtdnn.errors import Fault, Place, fault

RESERVED = frozenset({
    "T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "clear",
    "compile", "cpu", "cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward", "get_buffer",
    "get_extra_state", "get_parameter", "get_submodule", "half", "ipu", "items", "keys", "load_state_dict",
    "modules", "mtia", "named_buffers", "named_children", "named_modules", "named_parameters", "parameters",
    "pop", "register_backward_hook", "register_buffer", "register_forward_hook", "register_forward_pre_hook",
    "register_full_backward_hook", "register_full_backward_pre_hook", "register_load_state_dict_post_hook",
    "register_load_state_dict_pre_hook", "register_module", "register_parameter",
    "register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_", "set_extra_state",
    "set_submodule", "share_memory", "smart_apply", "state_dict", "to", "to_empty", "train", "training", "type",
    "update", "values", "xpu", "zero_grad",
})  # fmt: skip
"""Attributes of PyTorch's `ModuleDict`, which holds the heads by the names of their tasks and takes none of these; with
`smart_apply`, which transformers adds."""


def _checked_name(name: str, what: str) -> str:
    """The name; raises ValueError if it cannot name a folder on every system."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"{what} may have only letters, digits, '_' and '-'")
    return name


def checked_task_name(name: str) -> str:
    """The name; raises ValueError if no task may have it."""
    if name in RESERVED:
        raise ValueError(f"'{name}' is a word that PyTorch reserves; another one, such as '{name}_task', is free")
    return _checked_name(name, "a task's name")


class Source(Frozen):
    """A Hugging Face data set from which the rows are read, in place of files."""

    path: PathText = Field(description="Data set name on the hub, or a local folder.")
    name: str | None = Field(None, description="Configuration of the data set.")
    columns: dict[str, str] = Field({}, description="Our name → theirs, for columns named differently there.")
    splits: dict[str, str] = Field({}, description="Our name → theirs, for splits named differently there.")


class SharedRows(Frozen):
    """Rows that several tasks read, each its own columns of them."""

    file: str = Field(description="Name of the rows, in place of the task's: `<data>/<file>/<split>.jsonl`.")
    columns: dict[str, str] = Field({}, description="Our name → theirs: `label`, `id`, and names of `inputs`.")

    @field_validator("file")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return _checked_name(name, "the name of shared rows")


class InitHead(Frozen):
    """A trained head from which a new one is initialised."""

    from_: str = Field(alias="from", description="Task of the run named by `encoder: {run: …}`.")
    labels: WordToWord = Field(
        {}, description="Our label → theirs, for output rows to initialise. Empty: the dense layer only."
    )


def _at_home(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Paths with `~` as the home directory."""
    return tuple(map(home_expanded, paths))


class Distill(Frozen):
    """Distillation: soft labels for a task, predicted by trained models, its teachers."""

    from_: Annotated[Words, AfterValidator(_at_home)] = Field(
        alias="from", min_length=1, description="Teachers' predictions for the train rows: files, averaged."
    )
    temperature: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Temperature of both softmaxes; 1 changes nothing."
    )
    weight: float = Field(
        0.5, ge=0, le=1, description="Weight of the soft loss; 1 − weight for the labels' loss. 0: off."
    )


@args_from_fields
class TaskDef(Frozen):
    """One task: what its rows contain, how it is learnt and how it is evaluated.

    Raises:
        ConfigError: an unknown keyword, or an invalid value.

    Example:
        >>> import mtdnn
        >>> task = mtdnn.TaskDef(name="rte", task_type="classification", labels=["entailment", "not_entailment"])
        >>> task.labels, task.dropout
        (('entailment', 'not_entailment'), 0.1)
    """

    name: str = Field(description="Letters, digits, '_' and '-'; also the folder of its rows.")
    task_type: str = Field(description="Name of a task type: classification, regression, ranking, multiple_choice, …")
    inputs: Words = Field(("text",), description="Names of the text columns, in order.")
    labels: Words = Field((), description="Label names; their order is the order of the logits.")
    metrics: Words = Field((), description="Reported metrics, the main one first. Default: by task type.")
    splits: dict[str, SplitNames] = Field(
        {"train": SplitNames(("train",)), "dev": SplitNames(("dev",))},
        description="Role (train, dev, test) → names of the splits, or a part of one file.",
    )
    columns: dict[str, str] = Field(
        {}, description="Our name → the file's, for columns named differently in .csv, .jsonl and .parquet."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the output layer; 0 turns it off.")
    loss: NamedOrWord | None = Field(None, description="With its options. Default: by task type.")
    weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Factor of this task's loss.")
    batch_size: int | None = Field(None, ge=1, description="Rows in a batch. Default: the run's.")
    max_length: int = Field(256, ge=3, description="Tokens of a row, special ones included; longer rows are cut.")
    max_rows: int | None = Field(
        None, ge=1, description="Use only this many train rows, the same for every seed. Default: all."
    )
    regularizer: NamedOrWord | None = Field(None, description="Replaces the run's for this task; `none` turns it off.")
    distill: Distill | None = Field(None, description="Soft labels to learn from as well. Default: none.")
    head: NamedOrWord = Field(Named(name="pooled"), description="Output layer on top of the encoder, with its options.")
    head_of: str | None = Field(None, description="Task whose head this one uses; this task is then only evaluated.")
    init_head: InitHead | None = Field(None, description="A trained head to start from. Default: a new one.")
    rows: SharedRows | None = Field(None, description="Rows shared with other tasks. Default: the task's own.")
    source: Source | None = Field(None, description="Hugging Face data set. Default: files under --data.")
    options: dict[str, Any] = Field({}, description="Keys specific to this task type; in YAML next to the others.")

    _yaml: YamlSource | None = PrivateAttr(None)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return checked_task_name(name)

    @field_validator("labels", "inputs", "metrics")
    @classmethod
    def _no_duplicates(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({word for word in words if words.count(word) > 1})
        if repeated:
            raise ValueError(f"'{repeated[0]}' is given twice")
        return words

    @field_validator("splits")
    @classmethod
    def _known_roles(cls, splits: dict[str, SplitNames]) -> dict[str, SplitNames]:
        for role, names in splits.items():
            if role not in ROLES:
                raise ValueError(f"unknown role '{role}'; known: {', '.join(ROLES)}")
            files = () if names.given is None else (names.given.file or names.given.rest or "",)
            for name in (*names, *files):
                if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
                    raise ValueError(f"{name!r} cannot name a split, as it names a folder; give a name without '/'")
        return with_cuts(splits)

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits of all roles, each once."""
        return tuple(dict.fromkeys(name for names in self.splits.values() for name in names))

    @property
    def cuts(self) -> dict[str, Cut]:
        """Split → the rows of a file that it has, for splits that are cut from one."""
        return {name: cut for names in self.splits.values() for name, cut in names.cuts.items()}

    @property
    def trainable(self) -> bool:
        """Whether a run may train on it: it has a train split and its own head."""
        return bool(self.splits.get("train")) and self.head_of is None

    @property
    def unit(self) -> str:
        """What is mixed: the rows it shares with other tasks, or the task itself."""
        return self.name if self.rows is None else self.rows.file

    def their_column(self, column: str) -> str:
        """The name that a column has in the rows."""
        return column if self.rows is None else self.rows.columns.get(column, column)

    @property
    def regularizer_off(self) -> bool:
        """Whether the block has `regularizer: none`."""
        return self.regularizer is not None and self.regularizer.name == "none"

    def where(self, key: str = "") -> Place:
        """File and line of a key of this block (dots for nested keys), or the task's name if it was made in Python."""
        if self._yaml is None:
            return Place(self.name)
        keys: KeyPath = (self.name, *key.split(".")) if key else (self.name,)
        return self._yaml.where(keys)

    @property
    def definitions(self) -> str | None:
        """The file of this block; None if it was made in Python."""
        return None if self._yaml is None else self._yaml.path

    def fault(self, key: str, found: str, fix: str = "") -> Fault:
        """The record of an error in one key of this block, with its place.

        Args:
            key: the key; empty for the block as a whole.
            found: what was found and what is expected.
            fix: what to do; may be empty.
        """
        return fault(self.where(key), f"{self.name}.{key}" if key else self.name, found, fix)
