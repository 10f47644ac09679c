"""Rows without a label, as other tools write them, are rows without a label, or the message says how to write one."""

import json

import pytest

import mtdnn.task_types  # noqa: F401  registers them
from mtdnn.config.tasks import task_def_from
from mtdnn.data.encode import Job
from mtdnn.errors import Fault
from mtdnn.rows.places import rows_of
from mtdnn.runs.row_check import check

BLOCKS = {
    "classification": {"task_type": "classification", "labels": ["0", "1"]},
    "signed": {"task_type": "classification", "labels": ["-1", "1"]},
    "regression": {"task_type": "regression"},
    "tags": {"task_type": "sequence_labeling", "inputs": ["text"], "labels": ["O", "B-X"]},
    "signs": {"task_type": "sequence_labeling", "inputs": ["text"], "labels": ["_", "X"]},
    "span": {"task_type": "span", "inputs": ["text", "question"]},
    "choice": {"task_type": "multiple_choice", "inputs": ["text", "choice"]},
    "ranking": {"task_type": "ranking", "inputs": ["text", "candidate"]},
    "answer": {"task_type": "generation", "inputs": ["text"]},
}
VALUES = {"text": "an ox", "question": "what ?", "choice": ["ox", "cow"], "candidate": ["ox", "cow"]}


def read(tmp_path, kind, *labels, allowed="allowed"):
    """The examples, or errors, of rows with these labels."""
    task = task_def_from("task", BLOCKS[kind])
    more = {"candidate_ids": ["a", "b"]} if kind == "ranking" else {}
    rows = [{"label": label, **{name: VALUES[name] for name in task.inputs}, **more} for label in labels]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = Job(task, "test", rows_of(path), allowed)
    return [example for part in job.parts() for example in job.examples(part)]


@pytest.mark.parametrize("mark", ["", "-", None, -1, "-1", -1.0, "-1.0", -100, "_", " _ "])
@pytest.mark.parametrize("kind", [kind for kind in BLOCKS if kind not in ("regression", "signed", "signs", "answer")])
def test_a_mark_of_another_tool_is_no_label(tmp_path, kind, mark):
    (example,) = read(tmp_path, kind, mark)
    assert example.label is None


@pytest.mark.parametrize("mark", ["_ _", "- -", [-1, -1], [-100, -100], ["_", "_"], [None, None], "['_', '_']"])
def test_tags_that_are_all_marks_are_no_label(tmp_path, mark):
    (example,) = read(tmp_path, "tags", mark)
    assert example.label is None


def test_what_the_task_declares_is_a_label_whatever_it_looks_like(tmp_path):
    assert [example.label for example in read(tmp_path, "signed", -1, "1")] == ["-1", "1"]
    assert [example.label for example in read(tmp_path, "signs", "_ _", ["_", "X"])] == [["_", "_"], ["_", "X"]]
    assert [example.label for example in read(tmp_path, "regression", -1, "_")] == [-1.0, None]
    assert [example.label for example in read(tmp_path, "span", [], "[]")] == [[], []]
    assert read(tmp_path, "choice", "1")[0].label == [0.0, 1.0]
    targets = [example.label for example in read(tmp_path, "answer", "-1", -100, ["-1", "minus one"], "_", "-", None)]
    assert targets == [["-1"], ["-100"], ["-1", "minus one"], ["_"], None, None]


@pytest.mark.parametrize(
    ("kind", "label"), [("classification", "?"), ("tags", "O _"), ("choice", "5"), ("regression", "x")]
)
def test_another_word_is_refused_and_the_message_says_how_to_write_none(tmp_path, kind, label):
    (found,) = read(tmp_path, kind, label)
    assert isinstance(found, Fault)
    assert str(found).endswith("Leave the label empty if the row has none.")


@pytest.mark.parametrize(
    ("mark", "found"), [(-1, "'-1' marks a missing label"), ("_", "'_' marks a missing label"), ("", "none")]
)
def test_a_train_split_has_no_row_without_a_label(tmp_path, mark, found):
    (error,) = read(tmp_path, "classification", mark, allowed="required")
    assert str(error).endswith(f":1: label: {found}, in a train split. Give a label, or remove the row.")


def test_a_dev_row_is_there_to_be_measured_and_the_message_does_not_offer_to_leave_its_label_out(tmp_path):
    (tmp_path / "dev.tsv").write_text("0\t?\tan ox\n", encoding="utf-8")
    job = Job(task_def_from("task", BLOCKS["classification"]), "dev", rows_of(tmp_path / "dev.tsv"), "allowed")
    (found,) = (str(each) for part in job.parts() for each in job.examples(part))
    assert found.endswith("or add the label.")


@pytest.mark.parametrize("lines", ["index\tsentence\n0\tan ox\n", "0\tan ox\n"])
def test_a_row_with_a_column_less_is_refused_and_the_message_says_what_to_write(tmp_path, lines):
    task = task_def_from("task", BLOCKS["classification"])
    (tmp_path / "test.tsv").write_text(lines, encoding="utf-8")
    job = Job(task, "test", rows_of(tmp_path / "test.tsv"), "allowed")
    found = [str(each) for part in job.parts() for each in job.examples(part)]
    assert len(found) == lines.count("\n")
    assert found[0].endswith(
        ":1: 2 columns; 3 expected: id, label, text. Columns are separated by one tab; a text has none. "
        "A row without a label has an empty column; the file has no header."
    )


def test_numbers_that_are_all_minus_one_are_pointed_out(project):
    project.rows("like/dev", ["a\t-1\tA.", "b\t-1.0\tC."])
    warned = [str(each) for each in check(project.definitions, data=project.data, num_workers=1).warnings]
    assert (
        "like/dev: label: all 2 are -1, which the hub uses for missing labels. "
        "Leave them empty, or metrics are computed from them."
    ) in warned
    project.rows("like/dev", ["a\t-1\tA.", "b\t2\tC."])
    warned = [str(each) for each in check(project.definitions, data=project.data, num_workers=1).warnings]
    assert not [line for line in warned if "which the hub uses for missing labels" in line]


def test_a_train_file_without_a_column_of_labels_is_refused_once_and_its_columns_are_named(project):
    project.rows("like/train", [])
    (project.data / "like" / "train.tsv").unlink()
    (project.data / "like" / "train.csv").write_text("text,stars\nA kite.,2\nA boat.,3\n", encoding="utf-8")
    found = [str(each) for each in check(project.definitions, data=project.data, num_workers=1).faults]
    assert found == [
        f"{project.data}/like/train.csv:1: no column 'label'; present: text, stars. "
        "Rename the column, or name it in the task's `columns`."
    ]
