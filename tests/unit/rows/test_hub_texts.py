"""The same texts and labels whether a file is read itself or as a data set by `source`."""

import csv
import json
from importlib.metadata import version

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from packaging.version import Version

from mtdnn.config.task import Source
from mtdnn.errors import DataError
from mtdnn.rows.data_sets import hub_rows
from mtdnn.rows.places import rows_of
from mtdnn.rows.source import RowColumns

COLUMNS = RowColumns(("id", "label", "text", "score"))
TEXTS = [
    "null",
    "NA",
    "None",
    "nan",
    "N/A",
    "",
    "007",
    "1.50",
    "1e3",
    "true",
    "<NA>",
    "-",
    'a "q", b',
    "two\nlines",
    "x",
]
CARD = """---
dataset_info:
  features:
  - {{name: text, dtype: string}}
  - {{name: label, dtype: {label}}}
  - {{name: score, dtype: float64}}
---
"""


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """A folder that the `datasets` library takes for a data set, and its own place for what it made of others."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


def read(source):
    assert source.faults(COLUMNS) == []
    return [row.values for part in source.parts() for row in source.read(part, COLUMNS)]


def write_table(folder, rows, names=("text", "label", "score"), separator=","):
    path = folder / f"train.{'csv' if separator == ',' else 'tsv'}"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator, lineterminator="\n").writerows([names, *rows])
    return path


def rows_with(texts):
    """Each text beside another as label and score."""
    return [(text, texts[-1 - place], str(place)) for place, text in enumerate(texts)]


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:3], ["007", "12"], ["1.0", ""], ["true", "False"], ["nan", "NA", ""]])
def test_texts_of_a_csv_are_the_same_from_the_file_and_by_source(data_set, texts):
    path = write_table(data_set, rows_with(texts))
    found = read(hub_rows(Source(path=str(data_set)), "train"))
    assert found == [{**row, "id": str(number)} for number, row in enumerate(read(rows_of(path)), 1)]
    assert [row["text"] for row in found] == texts


def test_texts_of_a_tsv_with_a_header_are_as_written(data_set):
    write_table(data_set, rows_with(["null", "007", "NA"]), separator="\t")
    found = read(hub_rows(Source(path=str(data_set)), "train"))
    assert [(row["text"], row["label"]) for row in found] == [("null", "NA"), ("007", "007"), ("NA", "null")]


def test_texts_of_jsonl_and_parquet_are_the_same_from_the_file_and_by_source(data_set):
    import datasets

    nothing = {"text": None, "label": None, "score": None}
    rows = [*({"text": text, "label": "NA", "score": "null"} for text in TEXTS), nothing]
    (data_set / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    of_file = read(rows_of(data_set / "train.jsonl"))
    assert read(hub_rows(Source(path=str(data_set)), "train")) == of_file
    (data_set / "train.jsonl").unlink()
    datasets.Dataset.from_list(rows).to_parquet(data_set / "train.parquet")
    assert read(rows_of(data_set / "train.parquet")) == of_file
    assert read(hub_rows(Source(path=str(data_set)), "train")) == of_file


@pytest.mark.skipif(
    Version(version("datasets")) < Version("5.2") and Version(version("pandas")) >= Version("3"),
    reason="datasets before 5.2 cannot read the names of class labels from text files with pandas 3",
)
def test_columns_that_a_data_set_declares_keep_their_kind(data_set):
    label = "{class_label: {names: {'0': joy, '1': NA}}}"
    (data_set / "README.md").write_text(CARD.format(label=label), encoding="utf-8")
    write_table(data_set, [("null", "NA", "1.50"), ("007", "joy", "NA"), ("NA", "", "")])
    found = read(hub_rows(Source(path=str(data_set)), "train"))
    assert [(row["text"], row["label"], row["score"]) for row in found] == [
        ("null", "NA", "1.5"),
        ("007", "joy", ""),
        ("NA", "", ""),
    ]


def test_a_data_set_that_cannot_be_read_is_reported(data_set):
    with pytest.raises(DataError, match="source: cannot load split 'train' of "):
        hub_rows(Source(path=str(data_set)), "train")


def test_a_saved_data_set_is_read_where_it_is(tmp_path):
    rows = Dataset.from_dict(
        {"text": ["a", "b"], "label": [0, 1], "score": [1.0, 2.0]},
        features=Features(text=Value("string"), label=ClassLabel(names=["x", "y"]), score=Value("float64")),
    )
    rows.save_to_disk(tmp_path / "alone")
    DatasetDict(train=rows, validation=rows).save_to_disk(tmp_path / "dict")
    for folder, split in (("alone", "train"), ("dict", "validation")):
        source = hub_rows(Source(path=str(tmp_path / folder), splits={"dev": split}), "dev")
        assert [row["label"] for row in read(source)] == ["x", "y"]
    with pytest.raises(DataError, match=r"has no split 'dev'; there are: train. Cut it in the task's `splits: "):
        hub_rows(Source(path=str(tmp_path / "alone")), "dev")
    with pytest.raises(
        DataError, match=r"has no split 'dev'; there are: train, validation. Name its split under `source"
    ):
        hub_rows(Source(path=str(tmp_path / "dict")), "dev")
    with pytest.raises(DataError, match=r"there are: train, validation. Did you mean 'train'\? Name its split under"):
        hub_rows(Source(path=str(tmp_path / "dict")), "trian")
