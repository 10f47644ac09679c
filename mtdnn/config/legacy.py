"""Task definitions of the original toolkit (github.com/namisan/mt-dnn) → blocks in our schema.

The keys, as that toolkit's `experiments/exp_def.py` reads them: data_format, task_type, n_class, metric_meta,
enable_san, labels, split_names, dropout_p, loss, kd_loss, adv_loss; forks add actf. Unknown words are kept, so that the
check of our own schema reports them with their line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mtdnn.errors import ConfigError, Fault, fault, unknown

INPUTS = {
    "PremiseOnly": ["text"],
    "PremiseAndOneHypothesis": ["premise", "hypothesis"],
    "PremiseAndMultiHypothesis": ["premise", "hypothesis"],
    "Seqence": ["tokens"],
    "Sequence": ["tokens"],
    "MRC": ["context", "question"],
    "MLM": ["text"],
}
TASK_TYPES = {
    "Classification": "classification",
    "Regression": "regression",
    "Ranking": "ranking",
    "SeqenceLabeling": "sequence_labeling",
    "SeqenceLabelling": "sequence_labeling",
    "SequenceLabeling": "sequence_labeling",
    "SequenceLabelling": "sequence_labeling",
    "SeqenceLabling": "sequence_labeling",
    "Span": "span",
    "SpanYN": "span",
    "MaskLM": "masked_lm",
}
METRICS = {
    "ACC": "accuracy",
    "F1MAC": "f1_macro",
    "F1MIC": "f1_micro",
    "MCC": "mcc",
    "Pearson": "pearson",
    "Spearman": "spearman",
    "AUC": "auc",
}
ACCURACY = {"ranking": "accuracy_at_1", "sequence_labeling": "token_accuracy", "masked_lm": "token_accuracy"}
METRICS_OF_TYPE = ("SeqEval", "EmF1")  # its task type reports each of them by default
LOSSES = {"CeCriterion": "cross_entropy", "MseCriterion": "mse"}
LOSSES_OF_TYPE = ("RankCeCriterion", "SpanCeCriterion", "SpanYNCeCriterion", "SeqCeCriterion", "MlmCriterion")
NOT_TRANSLATED = {
    **dict.fromkeys(("CLUE_CLASSIFICATION", "CLUE_SPAN", "CLUE_SEQ", "SpanSeqenceLabeling"), ""),
    **dict.fromkeys(("CLUE_GEN", "SeqenceGeneration"), "generation"),
    "ClozeChoice": "multiple_choice",
}
"""A data_format or task_type whose blocks are left out → the task type here for such tasks; empty: none."""
POOLED_TYPES = ("classification", "regression", "ranking")  # whose head is pooled or, with enable_san, san
PIECE_LABELS = ("X", "CLS", "SEP")  # labels of that toolkit for tokens that are not words
DROPOUT = 0.1  # without dropout_p that toolkit passes None to nn.Dropout and crashes
ROLES = ("train", "dev", "test")

Block = dict[str, Any]


def is_legacy(raw: object) -> bool:
    """Whether any block has `data_format`: required in that toolkit's schema, unknown in ours."""
    return isinstance(raw, Mapping) and any(isinstance(b, Mapping) and "data_format" in b for b in raw.values())


def translate(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Task name → block in our schema, and one remark per key that was translated or has no effect here.

    Tasks of some types (generation, cloze) are left out, with a remark.

    Raises:
        ConfigError: a data_format or an n_class is invalid, or no task is left; reports every error of every block.
    """
    blocks: dict[str, Any] = {}
    remarks: list[str] = []
    faults: list[Fault] = []
    for name, block in raw.items():
        if not isinstance(block, Mapping) or "data_format" not in block:
            blocks[name] = block  # already in our schema, or an error that the check of our schema reports
            continue
        named = (block.get(key) for key in ("data_format", "task_type"))
        strange = [each for each in named if isinstance(each, str) and each in NOT_TRANSLATED]
        if strange:
            fix = NOT_TRANSLATED[strange[0]] and f". Write it with task_type: {NOT_TRANSLATED[strange[0]]}"
            remarks.append(f"{name}: {strange[0]} is not translated; the task is left out{fix}")
            continue
        try:
            blocks[name] = translate_block(str(name), block, remarks)
        except ConfigError as error:
            faults.extend(error.faults)
    if not blocks and not faults:
        faults.append(
            fault("", "task definitions", "no task is of a type that is translated", "Write the tasks in our schema.")
        )
    if faults:
        raise ConfigError(faults)
    return blocks, remarks


def translate_block(name: str, block: Mapping[str, Any], remarks: list[str]) -> Block:
    """One block in our schema; appends one remark per key that was translated or has no effect here.

    Args:
        name: name of the task.
        block: keys and values of the task.
        remarks: remarks about translated keys; this function appends to it.
    Raises:
        ConfigError: a data_format or an n_class is invalid.
    """
    if (data_format := str(block["data_format"])) not in INPUTS:
        raise ConfigError(fault("", f"{name}.data_format", unknown("data_format", data_format, INPUTS)))
    new: Block = {"dropout": DROPOUT, "splits": roles_of(ROLES)}
    for key, value in block.items():
        if key in MEANINGLESS:
            remarks.append(f"{name}.{key}: {MEANINGLESS[key]}")
        elif key in TRANSLATIONS:
            changed = TRANSLATIONS[key](value, block)
            new.update(changed)
            read_as = ", ".join(f"{k}: {v}" for k, v in changed.items()) or "the default of the task type"
            remarks.append(f"{name}.{key}: {value} is read as {read_as}")
        elif key != "n_class":
            new[key] = value  # the same key in our schema, or an unknown key that its check reports
    new.update(labels_of(block, name, remarks))
    return new


def read_data_format(value: Any, block: Mapping[str, Any]) -> Block:
    return {"inputs": INPUTS[value]}


def read_task_type(value: Any, block: Mapping[str, Any]) -> Block:
    return {"task_type": TASK_TYPES.get(str(value), value)}


def read_metrics(value: Any, block: Mapping[str, Any]) -> Block:
    """Our metric names; ACC and F1 depend on the task type; metrics of a single type are left to its defaults."""
    known = METRICS | {"ACC": ACCURACY.get(task_type_of(block), "accuracy"), "F1": f1_of(block)}
    kept = [known.get(metric, metric) for metric in words(value) if metric not in METRICS_OF_TYPE]
    return {"metrics": list(dict.fromkeys(kept))} if kept else {}


def f1_of(block: Mapping[str, Any]) -> str:
    """Entity F1 for tags; F1 of the second of two labels; macro F1 for more labels, where that toolkit crashes."""
    if task_type_of(block) == "sequence_labeling":
        return "entity_f1"
    labels, count = block.get("labels"), block.get("n_class")
    count = len(labels) if isinstance(labels, list) else count
    return "f1_macro" if isinstance(count, int) and count > 2 else "f1"


def read_loss(value: Any, block: Mapping[str, Any]) -> Block:
    return {} if value in LOSSES_OF_TYPE else {"loss": LOSSES.get(str(value), value)}


def read_dropout(value: Any, block: Mapping[str, Any]) -> Block:
    """The dropout; an empty value counts as a missing key."""
    return {"dropout": DROPOUT if value is None else value}


def read_split_names(value: Any, block: Mapping[str, Any]) -> Block:
    return {"splits": roles_of(words(value))}


def read_activation(value: Any, block: Mapping[str, Any]) -> Block:
    """The activation as an option of the pooled head; heads of other types, and the SAN head, have no such layer."""
    is_pooled = task_type_of(block) in POOLED_TYPES and not reads_pairs_by_san(block)
    return {"head": {"name": "pooled", "activation": value}} if is_pooled else {}


def read_san(value: Any, block: Mapping[str, Any]) -> Block:
    """The stochastic answer network head; its defaults in both toolkits are the same."""
    return {"head": {"name": "san"}} if reads_pairs_by_san(block) else {}


def reads_pairs_by_san(block: Mapping[str, Any]) -> bool:
    """Whether a block asks for the SAN head and has pairs of texts; that toolkit crashes on single texts."""
    pairs = len(INPUTS.get(str(block.get("data_format")), ())) == 2
    return bool(block.get("enable_san")) and pairs and task_type_of(block) in POOLED_TYPES


def task_type_of(block: Mapping[str, Any]) -> str:
    """Our name of a block's task type; empty if it is unknown."""
    return TASK_TYPES.get(str(block.get("task_type")), "")


def words(value: Any) -> list[str]:
    """A list of words from a list or from a single word; empty for an empty value."""
    return [str(item) for item in (value if isinstance(value, list) else [value]) if item is not None]


def roles_of(split_names: Iterable[str]) -> dict[str, list[str]]:
    """Role → splits whose name contains it, as in matched_dev or r1_test; `valid` counts as dev.

    A name that contains no role goes to `test`: the split can be prepared and predicted, but is never trained on.
    """
    splits: dict[str, list[str]] = {}
    for split in split_names:
        plain = split.replace("valid", "dev")
        role = next((role for role in ROLES if role in plain), "test")
        splits.setdefault(role, []).append(split)
    return splits


def labels_of(block: Mapping[str, Any], name: str, remarks: list[str]) -> Block:
    """The labels in the order of their numbers in that toolkit; with n_class only, "0", "1", ….

    Args:
        block: keys and values of the task.
        name: name of the task.
        remarks: remarks about translated keys; this function appends to it.
    Raises:
        ConfigError: n_class is needed and is not a whole number of at least 1.
    """
    labels, count, task_type = block.get("labels"), block.get("n_class"), task_type_of(block)
    if labels is None and task_type == "classification":
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigError(fault("", f"{name}.n_class", f"{count!r} is not a number of labels", "List the labels."))
        labels = [str(number) for number in range(count)]
        remarks.append(f"{name}.n_class: {count} is read as labels: {labels}")
        return {"labels": labels}
    if not isinstance(labels, list):
        remarks.append(f"{name}.n_class: is not used for this task type")
        return {}
    if task_type == "sequence_labeling":
        pieces = [label for label in labels if label in PIECE_LABELS]
        labels = [label for label in labels if label not in PIECE_LABELS]
        if pieces:
            remarks.append(f"{name}.labels: {pieces} are left out; only words have labels here")
    elif count is not None and count != len(labels):
        remarks.append(f"{name}.n_class: {count} is not the number of labels; the {len(labels)} labels count")
    return {"labels": labels}


TRANSLATIONS: dict[str, Callable[[Any, Mapping[str, Any]], Block]] = {
    "data_format": read_data_format,
    "task_type": read_task_type,
    "metric_meta": read_metrics,
    "loss": read_loss,
    "dropout_p": read_dropout,
    "split_names": read_split_names,
    "actf": read_activation,
    "enable_san": read_san,
}
DISTILL = "`distill: {from: FILE}` learns from what `mtdnn predict --soft` writes"
MEANINGLESS = {
    "kd_loss": f"has no effect on its own; {DISTILL}",
    "mkd": DISTILL,
    "mkd_opt": DISTILL,
    "adv_loss": "has no effect here; a regularizer uses the divergence of the task type",
    "encoder_type": "has no effect here; the run names the encoder",
}
