"""The original toolkit's task definitions give the same tasks as ours; every odd key is reported."""

from pathlib import Path

import pytest
import yaml

from mtdnn.config.legacy import is_legacy, translate
from mtdnn.config.options import Named
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.jobs import block_faults
from mtdnn.errors import ConfigError

PAIR = {
    "data_format": "PremiseAndOneHypothesis",
    "task_type": "Classification",
    "n_class": 3,
    "labels": ["no", "maybe", "yes"],
    "metric_meta": ["ACC"],
    "enable_san": False,
    "dropout_p": 0.2,
    "loss": "CeCriterion",
    "kd_loss": "MseCriterion",
    "adv_loss": "SymKlCriterion",
}

# Every block of that project's GLUE file in short: name, format, type, metrics, number of classes, labels.
NLI, RTE = ["contradiction", "neutral", "entailment"], ["not_entailment", "entailment"]
GLUE = [
    ("cola", "PremiseOnly", "Classification", ["ACC", "MCC"], 2, None),
    ("mnli", "PremiseAndOneHypothesis", "Classification", ["ACC"], 3, NLI),
    ("mrpc", "PremiseAndOneHypothesis", "Classification", ["ACC", "F1"], 2, None),
    ("qnli", "PremiseAndOneHypothesis", "Classification", ["ACC"], 2, RTE),
    ("qqp", "PremiseAndOneHypothesis", "Classification", ["ACC", "F1"], 2, None),
    ("rte", "PremiseAndOneHypothesis", "Classification", ["ACC"], 2, RTE),
    ("scitail", "PremiseAndOneHypothesis", "Classification", ["ACC"], 2, ["neutral", "entails"]),
    ("snli", "PremiseAndOneHypothesis", "Classification", ["ACC"], 3, NLI),
    ("sst", "PremiseOnly", "Classification", ["ACC"], 2, None),
    ("stsb", "PremiseAndOneHypothesis", "Regression", ["Pearson", "Spearman"], 1, None),
    ("wnli", "PremiseAndOneHypothesis", "Classification", ["ACC"], 2, None),
]


def block(**changes):
    return {key: value for key, value in (PAIR | changes).items() if value is not None}


def only(**changes):
    """The one translated block and the remarks."""
    blocks, remarks = translate({"t": block(**changes)})
    return blocks["t"], remarks


def glue_file(folder: Path) -> Path:
    tasks = {}
    for name, data_format, task_type, metrics, n_class, labels in GLUE:
        loss = "MseCriterion" if task_type == "Regression" else "CeCriterion"
        tasks[name] = block(
            data_format=data_format, task_type=task_type, metric_meta=metrics, n_class=n_class, labels=labels,
            loss=loss, dropout_p={"cola": 0.05, "mnli": 0.1}.get(name),
        )  # fmt: skip
    tasks["mnli"]["split_names"] = ["train", "matched_dev", "mismatched_dev", "matched_test", "mismatched_test"]
    path = folder / "glue_task_def.yml"
    path.write_text(yaml.safe_dump(tasks), encoding="utf-8")
    return path


def test_a_file_of_that_toolkit_is_distinguished_from_one_of_ours():
    assert is_legacy({"t": PAIR})
    assert not is_legacy({"t": {"task_type": "classification", "labels": ["a", "b"]}})
    assert not is_legacy(None) and not is_legacy([PAIR]) and not is_legacy({"t": None})


def test_glue_as_that_toolkit_writes_it_loads_as_eleven_tasks(tmp_path):
    tasks = load_task_defs(glue_file(tmp_path))
    assert set(tasks) == {name for name, *_ in GLUE}
    assert tasks["cola"].inputs == ("text",) and tasks["cola"].metrics == ("accuracy", "mcc")
    assert tasks["cola"].dropout == 0.05 and tasks["cola"].labels == ("0", "1")
    assert tasks["mrpc"].dropout == 0.1  # no dropout_p there, where that toolkit crashes
    assert tasks["mnli"].labels == tuple(NLI) and tasks["mnli"].loss == Named(name="cross_entropy")
    assert tasks["mnli"].splits["dev"] == ("matched_dev", "mismatched_dev")
    assert tasks["mnli"].splits["test"] == ("matched_test", "mismatched_test")
    assert tasks["stsb"].task_type == "regression" and tasks["stsb"].labels == ()
    assert tasks["stsb"].loss == Named(name="mse")
    assert tasks["stsb"].metrics == ("pearson", "spearman")
    assert tasks["rte"].splits == {"train": ("train",), "dev": ("dev",), "test": ("test",)}
    assert all(task.options == {} for task in tasks.values())


def test_its_area_under_the_curve_is_a_metric_of_labels(tmp_path):
    path = tmp_path / "tasks.yml"
    path.write_text(yaml.safe_dump({"t": {**PAIR, "metric_meta": ["ACC", "AUC"]}}))
    task = load_task_defs(path)["t"]
    assert task.metrics == ("accuracy", "auc") and block_faults(task) == []


def test_an_empty_dropout_is_that_of_a_block_without_one(tmp_path):
    _, remarks = translate({"t": {**PAIR, "dropout_p": None}})
    assert "t.dropout_p: None is read as dropout: 0.1" in remarks
    path = tmp_path / "tasks.yml"
    path.write_text(yaml.safe_dump({"t": {**PAIR, "dropout_p": None}}))
    assert load_task_defs(path)["t"].dropout == 0.1


def test_every_translated_or_meaningless_key_has_one_remark():
    _, remarks = only(split_names=["train", "dev"])
    reported = [remark.split(":")[0] for remark in remarks]
    same_here = {"labels", "n_class"}  # the labels are taken as they are, and there are n_class of them
    assert sorted(reported) == sorted(f"t.{key}" for key in [*PAIR, "split_names"] if key not in same_here)
    assert "t.metric_meta: ['ACC'] is read as metrics: ['accuracy']" in remarks
    distill = (
        "t.kd_loss: has no effect on its own; `distill: {from: FILE}` learns from what `mtdnn predict --soft` writes"
    )
    assert distill in remarks


@pytest.mark.parametrize("word", ["SeqenceLabeling", "SequenceLabeling", "SeqenceLabelling"])
def test_the_misspelt_sequence_is_understood(word):
    labels = ["O", "B-PER", "X", "CLS", "SEP"]
    new, remarks = only(
        data_format="Seqence", task_type=word, labels=labels, n_class=5, metric_meta=["SeqEval"], loss="SeqCeCriterion"
    )
    assert new["task_type"] == "sequence_labeling" and new["inputs"] == ["tokens"]
    assert new["labels"] == ["O", "B-PER"]  # X, CLS, SEP stand for pieces there
    assert "metrics" not in new and "loss" not in new
    assert "t.labels: ['X', 'CLS', 'SEP'] are left out; only words have labels here" in remarks


@pytest.mark.parametrize(
    ("data_format", "task_type", "expected"),
    [
        ("PremiseAndMultiHypothesis", "Ranking", "ranking"),
        ("MRC", "Span", "span"),
        ("MRC", "SpanYN", "span"),
        ("MLM", "MaskLM", "masked_lm"),
    ],
)
def test_other_task_types_keep_no_labels_made_of_n_class(data_format, task_type, expected):
    new, remarks = only(data_format=data_format, task_type=task_type, labels=None, n_class=30522)
    assert new["task_type"] == expected and "labels" not in new
    assert "t.n_class: is not used for this task type" in remarks


@pytest.mark.parametrize(
    ("data_format", "task_type", "metric"),
    [
        ("PremiseAndMultiHypothesis", "Ranking", "accuracy_at_1"),
        ("Seqence", "SeqenceLabeling", "token_accuracy"),
        ("MLM", "MaskLM", "token_accuracy"),
        ("PremiseOnly", "Classification", "accuracy"),
    ],
)
def test_acc_is_what_the_task_type_calls_accuracy(data_format, task_type, metric):
    assert only(data_format=data_format, task_type=task_type, metric_meta=["ACC"])[0]["metrics"] == [metric]


@pytest.mark.parametrize(
    ("changes", "metrics"),
    [
        ({}, ["f1_macro", "accuracy"]),
        ({"labels": None, "n_class": 3}, ["f1_macro", "accuracy"]),
        ({"labels": None, "n_class": 2}, ["f1", "accuracy"]),
        ({"labels": ["no", "yes"]}, ["f1", "accuracy"]),
        ({"metric_meta": ["F1MAC", "F1"]}, ["f1_macro"]),
        (
            {
                "data_format": "Seqence", "task_type": "SeqenceLabeling", "labels": ["O", "B-PER", "X"], "n_class": 3,
                "metric_meta": ["SeqEval", "F1", "ACC"], "loss": "SeqCeCriterion",
            },
            ["entity_f1", "token_accuracy"],
        ),
    ],
)  # fmt: skip
def test_f1_is_what_can_be_measured_on_the_labels(changes, metrics, tmp_path):
    given = {"metric_meta": ["F1", "ACC"], **changes}
    new, remarks = only(**given)
    assert new["metrics"] == metrics
    assert f"t.metric_meta: {given['metric_meta']} is read as metrics: {metrics}" in remarks
    path = tmp_path / "tasks.yml"
    path.write_text(yaml.safe_dump({"t": block(**given)}))
    assert block_faults(load_task_defs(path)["t"]) == []


def test_labels_win_over_another_n_class():
    new, remarks = only(n_class=2)
    assert new["labels"] == ["no", "maybe", "yes"]
    assert "t.n_class: 2 is not the number of labels; the 3 labels count" in remarks


def test_splits_find_their_role_by_the_word_in_their_name():
    new, _ = only(split_names=["r1_train", "r2_train", "r1_dev", "valid_b", "r1_test", "diagnostic"])
    assert new["splits"] == {
        "train": ["r1_train", "r2_train"],
        "dev": ["r1_dev", "valid_b"],
        "test": ["r1_test", "diagnostic"],
    }


def test_an_activation_becomes_an_option_of_the_pooled_head():
    assert only(actf="relu")[0]["head"] == {"name": "pooled", "activation": "relu"}


@pytest.mark.parametrize("task_type", ["Classification", "Regression"])
def test_san_becomes_the_san_head(task_type):
    new, remarks = only(task_type=task_type, enable_san=True, actf="relu")
    assert new["head"] == {"name": "san"}
    assert "t.enable_san: True is read as head: {'name': 'san'}" in remarks
    assert "t.actf: relu is read as the default of the task type" in remarks


@pytest.mark.parametrize("changes", [{"enable_san": False}, {"data_format": "PremiseOnly", "enable_san": True}])
def test_without_pairs_or_when_off_san_leaves_the_pooled_head(changes):
    new, remarks = only(**changes)
    assert "head" not in new
    assert f"t.enable_san: {changes['enable_san']} is read as the default of the task type" in remarks


@pytest.mark.parametrize(
    ("data_format", "task_type"), [("Seqence", "SeqenceLabeling"), ("MRC", "Span"), ("MLM", "MaskLM")]
)
def test_an_activation_is_left_to_types_without_a_pooled_head(data_format, task_type, tmp_path):
    labels = ["O", "B-PER"] if task_type == "SeqenceLabeling" else None
    odd = {"metric_meta": None, "loss": None, "enable_san": None, "kd_loss": None, "adv_loss": None}
    given = block(data_format=data_format, task_type=task_type, labels=labels, actf="gelu", **odd)
    (tmp_path / "tasks.yml").write_text(yaml.safe_dump({"t": given}))
    assert block_faults(load_task_defs(tmp_path / "tasks.yml")["t"]) == []
    _, remarks = translate({"t": given})
    assert "t.actf: gelu is read as the default of the task type" in remarks
    assert not [line for line in remarks if "left out" in line]


def test_a_san_task_is_one_that_its_type_takes(tmp_path):
    path = tmp_path / "san.yml"
    path.write_text(yaml.safe_dump({"t": block(enable_san=True)}))
    task = load_task_defs(path)["t"]
    assert task.head.name == "san" and block_faults(task) == []


def test_a_task_without_counterpart_is_left_out_and_reported():
    blocks, remarks = translate({"a": block(), "b": block(data_format="ClozeChoice", task_type="ClozeChoice")})
    assert list(blocks) == ["a"]
    assert "b: ClozeChoice is not translated; the task is left out. Write it with task_type: multiple_choice" in remarks


def test_nothing_left_is_a_fault():
    with pytest.raises(ConfigError, match="no task is of a type that is translated"):
        translate({"b": block(task_type="SeqenceGeneration")})


def test_all_unreadable_blocks_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        translate({"a": block(data_format="PremiseOnlyy"), "b": block(labels=None, n_class="two")})
    first, second = caught.value.lines
    assert first.startswith("a.data_format: unknown data_format 'PremiseOnlyy'")
    assert "Did you mean 'PremiseOnly'?" in first
    assert second == "b.n_class: 'two' is not a number of labels. List the labels."


def test_a_word_unknown_there_too_is_left_for_our_own_check():
    new, _ = only(metric_meta=["ACC", "ACCC"], loss="CeCriterio", task_type="Clasification", epochs=3)
    assert new["metrics"] == ["accuracy", "ACCC"] and new["loss"] == "CeCriterio"
    assert new["task_type"] == "Clasification" and new["epochs"] == 3


def test_odd_values_reach_our_own_check_too(tmp_path):
    path = tmp_path / "odd.yml"
    path.write_text(yaml.safe_dump({"t": block(metric_meta=7, split_names=None, dropout_p="much", labels={"a": 1})}))
    with pytest.raises(ConfigError, match=r"odd\.yml:\d+: t\.dropout: 'much'") as caught:
        load_task_defs(path)
    assert len(caught.value.lines) == 2  # and the labels, which are no list


def test_a_block_of_ours_in_the_same_file_stays_as_it_is():
    ours = {"task_type": "regression", "inputs": ["text"]}
    assert translate({"a": block(), "b": ours})[0]["b"] == ours


NO_WORDS = [{"a": 1}, ["Classification"], 3, None]


@pytest.mark.parametrize("value", NO_WORDS)
def test_a_format_that_is_no_word_is_unknown(value: object) -> None:
    with pytest.raises(ConfigError, match=r"t\.data_format: unknown data_format"):
        translate({"t": {"data_format": value, "task_type": "Classification", "n_class": 2}})


@pytest.mark.parametrize("value", NO_WORDS)
def test_a_type_that_is_no_word_is_left_to_the_check_of_our_schema(value: object) -> None:
    blocks, _ = translate({"t": {"data_format": "PremiseOnly", "task_type": value, "n_class": 2}})
    assert blocks["t"]["task_type"] == value
