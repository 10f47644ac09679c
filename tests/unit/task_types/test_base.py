"""Labels of tables with named columns: numbers and truth values as the names a task declares."""

import json

import numpy as np
import pytest
from datasets import Dataset

import mtdnn.task_types  # noqa: F401  registers them
from mtdnn.config.tasks import task_def_from
from mtdnn.data.encode import Job, id_hash
from mtdnn.rows.example import Example, declared
from mtdnn.rows.places import rows_of
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.task_types.regression import Regression

WORDS = {"task_type": "classification", "labels": ["0", "1"]}
TAGS = {"task_type": "sequence_labeling", "labels": ["0", "1"]}
CHOICE = {"task_type": "multiple_choice", "inputs": ["text", "choice"]}


def labels_of(path, block):
    """The label of each row, or the fault."""
    job = Job(task_def_from("t", block), "dev", rows_of(path), "allowed")
    found = [each for part in job.parts() for each in job.examples(part)]
    return [each.label if isinstance(each, Example) else str(each) for each in found]


def jsonl(tmp_path, *rows):
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("label", "known", "meant"),
    [
        ("1.0", ("0", "1"), "1"),
        ("-1.0", ("-1", "1"), "-1"),
        ("1.0", ("0.0", "0.5", "1.0"), "1.0"),
        ("True", ("true", "false"), "true"),
        ("True", ("True", "False"), "True"),
        ("1.5", ("1", "2"), "1.5"),
        ("1.0", ("2", "3"), "1.0"),
        ("v1.0", ("v1", "1"), "v1.0"),
        (".0", ("", "0"), ".0"),
    ],
)
def test_a_label_is_the_declared_one_that_it_means(label, known, meant):
    assert declared(label, known) == meant


def test_whole_numbers_of_a_column_with_gaps_are_the_names_of_labels(tmp_path):
    path = tmp_path / "dev.parquet"
    Dataset.from_dict({"text": ["a", "b", "c"], "label": [1.0, None, 0.0]}).to_parquet(path)
    assert labels_of(path, WORDS) == ["1", None, "0"]
    assert labels_of(path, {"task_type": "regression"}) == [1.0, None, 0.0]


def test_truth_values_are_the_names_of_labels(tmp_path):
    path = jsonl(tmp_path, {"text": "a", "label": True}, {"text": "b", "label": False}, {"text": "c"})
    assert labels_of(path, {**WORDS, "labels": ["false", "true"]}) == ["true", "false", None]


def test_numbers_in_lists_are_tags_relevances_and_choices(tmp_path):
    path = jsonl(tmp_path, {"text": ["a", "b"], "label": [1.0, 0.0]})
    assert labels_of(path, TAGS) == [["1", "0"]]
    ranking = {"task_type": "ranking", "inputs": ["text", "choice"], "labels": ["0", "1"]}
    path = jsonl(tmp_path, {"text": "a", "candidate_ids": ["x", "y"], "choice": ["c", "d"], "label": [1.0, 0.0]})
    assert labels_of(path, ranking) == [[1.0, 0.0]]
    path = jsonl(tmp_path, {"text": "a", "choice": ["c", "d"], "label": 1.0})
    assert labels_of(path, CHOICE) == [[0.0, 1.0]]


def test_a_number_that_is_no_label_is_reported_as_it_is(tmp_path):
    path = jsonl(tmp_path, {"text": "a", "label": 2.0})
    assert labels_of(path, WORDS) == [
        f"{path}:1: label: '2.0' is not in t.labels (t): 0, 1. Fix the row, or add the label."
    ]


def test_numbers_that_are_texts_stay_as_they_are(tmp_path):
    job = Job(task_def_from("t", WORDS), "dev", rows_of(jsonl(tmp_path, {"text": 1.0, "label": 1.0})), "allowed")
    (example,) = job.examples(job.parts()[0])
    assert (example.texts, example.label) == (("1.0",), "1")


@pytest.mark.parametrize("name", TASK_TYPES.names())
def test_a_task_without_text_columns_is_refused(name):
    kind = TASK_TYPES.get(name)
    found = list(map(str, kind.faults(task_def_from("t", {**kind.sample_block, "inputs": []}))))
    assert found[0].startswith("t: t.inputs: 0 text columns. ")


def test_labels_that_32_bits_do_not_hold_are_refused(tmp_path):
    path = jsonl(tmp_path, {"label": 3e38, "text": "a"}, {"label": 1e39, "text": "b"})
    assert labels_of(path, {"task_type": "regression"}) == [
        3e38, f"{path}:2: label: '1e+39' is too large for float32. Give a number up to 3.4e+38.",
    ]  # fmt: skip
    path = jsonl(tmp_path, {"candidate_ids": "b,c", "label": ["1", "1e39"], "question": "a", "candidate": ["b", "c"]})
    (found,) = labels_of(path, {"task_type": "ranking", "inputs": ["question", "candidate"]})
    assert found.startswith(f"{path}:1: label: '1e+39' is too large for float32.")


@pytest.mark.parametrize("written", ["0.59", "2.8", "-1e-05", "3.4e+38", "0"])
def test_a_number_reads_in_predictions_as_in_the_file(written):
    task = task_def_from("t", {"task_type": "regression"})
    stored = np.float32(Regression(task).stored_label(float(written)))
    assert Regression(task).label_name(float(stored)) == float(written)


def test_rows_are_not_joined_by_a_list(tmp_path):
    path = jsonl(tmp_path, {"label": 1, "question": ["a"], "candidate": "b"}, {"question": "a", "candidate": "c"})
    block = {"task_type": "ranking", "inputs": ["question", "candidate"], "group_by": "question"}
    assert labels_of(path, block) == [f"{path}:1: question: a list; expected a text. Give a text.", None]


def test_ids_that_are_lists_and_come_twice_are_reported(tmp_path):
    path = jsonl(tmp_path, {"id": [1], "text": "a"}, {"id": [1], "text": "b"})
    job = Job(task_def_from("t", {"task_type": "regression"}), "dev", rows_of(path), "allowed")
    assert list(map(str, job.duplicates({id_hash("[1]")}))) == [
        f"{path}:2: id: '[1]' is also the id of {path}:1. Rename one of them."
    ]


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("-", "'-' marks a missing label in a row"),
        ("", "'' marks a missing label in a row"),
        (" - ", "' - ' marks a missing label in a row"),
        (" 0", "' 0' occurs in no row, as spaces around a label are removed"),
        ("1 ", "'1 ' occurs in no row, as spaces around a label are removed"),
    ],
)
@pytest.mark.parametrize("name", ["classification", "ranking"])
def test_labels_that_no_row_can_have_are_refused(name, label, found):
    kind = TASK_TYPES.get(name)
    reported = list(map(str, kind.faults(task_def_from("t", {**kind.sample_block, "labels": [label, "+"]}))))
    assert reported == [f"t: t.labels: {found}. Rename it, here and in the rows."]


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_nothing_in_a_list_is_no_word_and_no_candidate(tmp_path, nothing):
    tags = {"task_type": "sequence_labeling", "inputs": ["tokens"], "labels": ["O", "None", "nan"]}
    path = jsonl(tmp_path, {"label": ["O", "O"], "tokens": ["a", nothing]}, {"label": ["O", nothing], "tokens": "a b"})
    found = "nothing" if nothing is None else "nan"
    assert labels_of(path, tags) == [
        f"{path}:1: tokens: {found} at position 2 of 2. Give only texts.",
        f"{path}:2: label: {found} at position 2 of 2. Give only texts.",
    ]
    path = jsonl(tmp_path, {"label": 0, "text": "a", "choice": ["b", nothing]})
    assert labels_of(path, CHOICE) == [f"{path}:1: choice 2: empty text. Give the text, or remove the candidate."]
