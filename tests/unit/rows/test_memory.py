"""Rows in memory are read as the same rows in a file are, whatever holds them; messages name them as Python does."""

import json
import pickle

import numpy as np
import pandas
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from mtdnn.config.tasks import TaskDef
from mtdnn.errors import DataError, Fault
from mtdnn.rows.memory import is_table, table_rows
from mtdnn.rows.places import open_split, rows_of
from mtdnn.rows.source import RowColumns

COLUMNS = RowColumns(("id", "label", "premise", "hypothesis"))
ROWS = [
    {"id": "a", "label": "yes", "premise": "It rained.", "hypothesis": "It was wet.", "note": 1},
    {"id": "b", "label": None, "premise": "Äpfel, \u2028 Öl", "hypothesis": "007", "note": 2},
    {"id": "c", "label": "no", "premise": "NA", "hypothesis": "null", "note": 3},
]
HOLDERS = {"list": list, "DataFrame": pandas.DataFrame, "Dataset": Dataset.from_list}
TASK = TaskDef(name="rte", task_type="classification", inputs=["premise", "hypothesis"], labels=["yes", "no"])


def values_of(source, columns=COLUMNS, size=1 << 20):
    return [row.values for part in source.parts(size) for row in source.read(part, columns)]


def held(holder, rows=ROWS):
    return table_rows(HOLDERS[holder](rows), place="rows['rte']['train']")


@pytest.mark.parametrize("holder", HOLDERS)
def test_rows_are_those_of_the_same_rows_in_a_file(holder, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert values_of(held(holder)) == values_of(rows_of(path))


@pytest.mark.parametrize("holder", HOLDERS)
def test_without_ids_rows_have_their_numbers_and_places(holder):
    source = held(holder, [{"premise": "A.", "hypothesis": "B."} for _ in range(3)])
    rows = [row for part in source.parts() for row in source.read(part, COLUMNS)]
    assert [(row.values["id"], row.values["label"]) for row in rows] == [("1", ""), ("2", ""), ("3", "")]
    assert str(rows[2].where) == "rows['rte']['train']:3"


@pytest.mark.parametrize("holder", HOLDERS)
def test_parts_of_any_size_can_be_read_in_another_process(holder):
    rows = [{"premise": f"A {number}.", "hypothesis": "B."} for number in range(2500)]
    source = pickle.loads(pickle.dumps(held(holder, rows)))
    parts = list(source.parts(1 << 17))
    assert len(parts) == 4  # 2^17 bytes are taken for 655 rows
    assert [row.values["premise"] for part in parts for row in source.read(part, COLUMNS)] == [
        f"A {number}." for number in range(2500)
    ]


@pytest.mark.parametrize("holder", HOLDERS)
def test_the_hash_is_one_of_the_content(holder):
    first = held(holder).sha256()
    assert held(holder).sha256() == first
    changed = [*ROWS[:2], {**ROWS[2], "label": "yes"}]
    assert held(holder, changed).sha256() != first
    assert held(holder, ROWS[::-1]).sha256() != first


def test_the_hash_of_a_data_set_does_not_depend_on_how_it_was_made():
    whole = Dataset.from_list(ROWS)
    shuffled = whole.select([2, 0, 1]).select([1, 2, 0])
    assert shuffled._fingerprint != whole._fingerprint
    assert table_rows(shuffled, place="rows").sha256() == table_rows(whole, place="rows").sha256()


def test_class_numbers_of_a_data_set_are_its_names_and_count_for_the_hash():
    def dataset(*names):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        return Dataset.from_dict({"text": ["A.", "B.", "C."], "label": [1, 0, -1]}, features=features)

    first = table_rows(dataset("no", "yes").with_format("numpy"), place="rows")
    columns = RowColumns(("id", "label", "text"))
    assert [row["label"] for row in values_of(first, columns)] == ["yes", "no", ""]
    assert first.sha256() != table_rows(dataset("yes", "no"), place="rows").sha256()


def test_numbers_of_numpy_and_whole_numbers_that_pandas_made_floats_are_read_as_meant():
    columns = RowColumns(("id", "label", "text"))
    listed = table_rows(
        [{"id": np.int64(7), "label": np.float32(0.5), "text": np.str_("A.")}, {"label": np.nan, "text": "B."}],
        place="rows",
    )
    assert values_of(listed, columns) == [
        {"id": "7", "label": "0.5", "text": "A."},
        {"id": "2", "label": "", "text": "B."},
    ]
    frame = pandas.DataFrame({"label": [1, None, 0], "text": ["A.", "B.", "C."]}, index=[10, 20, 30])
    assert frame["label"].dtype == float
    assert [row["label"] for row in values_of(table_rows(frame, place="rows"), columns)] == ["1", "", "0"]
    halves = pandas.DataFrame({"label": np.array([1, np.nan, 0.5], np.float32), "text": ["A.", "B.", "C."]})
    assert [row["label"] for row in values_of(table_rows(halves, place="rows"), columns)] == ["1.0", "", "0.5"]
    missing = pandas.DataFrame(
        {"label": pandas.array([1, None], "Int64"), "text": pandas.array(["A.", "B."], "string")}
    )
    assert [row["label"] for row in values_of(table_rows(missing, place="rows"), columns)] == ["1", ""]


def test_lists_in_cells_are_lists():
    columns = RowColumns(("id", "label", "tokens"))
    rows = [{"label": ("O", "B"), "tokens": np.array(["the", "kite"])}]
    wanted = [{"id": "1", "label": ["O", "B"], "tokens": ["the", "kite"]}]
    for holder in ("list", "DataFrame"):
        assert values_of(held(holder, rows), columns) == wanted


NESTED = [
    {"data": {"text": "It rained."}, "marks": [{"choice": "wet"}, {"choice": "dry"}], "kinds": ["a", "b"]},
    {"data": {"text": "The sun shone."}, "marks": [], "kinds": ["c"]},
]
PATHS = RowColumns(
    ("id", "label", "text", "kind"), renamed={"label": "marks.0.choice", "text": "data.text", "kind": "kinds.1"}
)


def nested(kind, tmp_path, rows=NESTED):
    """The rows as each format and table holds them."""
    if kind == "parquet":
        pandas.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
        return rows_of(tmp_path / "rows.parquet")
    if kind == "jsonl":
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return rows_of(tmp_path / "rows.jsonl")
    return held(kind, rows)


@pytest.mark.parametrize("kind", [*HOLDERS, "parquet", "jsonl"])
def test_a_path_leads_into_nested_columns_whatever_holds_them(kind, tmp_path):
    source = nested(kind, tmp_path)
    assert source.faults(PATHS) == [] and {"data.text", "marks.0.choice"} <= set(source.names())
    assert values_of(source, PATHS) == [
        {"id": "1", "label": "wet", "text": "It rained.", "kind": "b"},
        {"id": "2", "label": "", "text": "The sun shone.", "kind": ""},
    ]


@pytest.mark.parametrize("kind", [*HOLDERS, "parquet", "jsonl"])
@pytest.mark.parametrize("path", ["data.txt", "dta.text", "data.text.0", "kinds.b", "marks.0.choise"])
def test_a_path_that_leads_nowhere_is_refused_with_the_paths_there_are(kind, path, tmp_path):
    source, columns = nested(kind, tmp_path), RowColumns(("id", "text"), renamed={"text": path})
    found = source.faults(columns) or [row for part in source.parts() for row in source.read(part, columns)]
    assert f"no column '{path}'; present: data" in str(found[0]) and "data.text, marks.0.choice" in str(found[0])
    assert str(found[0]).endswith("Rename the column, or name it in the task's `columns`.")


def test_nested_classes_of_a_data_set_are_read_by_their_names():
    classes = ClassLabel(names=["wet", "dry"])
    features = Features({"text": Value("string"), "data": {"kind": classes, "marks": [{"choice": classes}]}})
    rows = [{"text": "It rained.", "data": {"kind": 1, "marks": [{"choice": 0}]}}]
    columns = RowColumns(("label", "mark"), renamed={"label": "data.kind", "mark": "data.marks.0.choice"})
    source = table_rows(Dataset.from_list(rows, features=features), place="rows")
    assert values_of(source, columns) == [{"label": "dry", "mark": "wet"}]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ({}, "rows: no rows for task 'rte'; there are: none"),
        ({"rtee": {}}, "rows: no rows for task 'rte'; there are: rtee. Did you mean 'rtee'?"),
        ({"rte": ROWS}, "rows['rte']: a list; expected a mapping of splits. Give {'train': …, 'dev': …}."),
        (
            {"rte": {"validation": ROWS}},
            "rows['rte']: no rows for split 'train'; there are: validation. "
            "Rename one, or name it in the task's `splits`.",
        ),
        (
            {"rte": {"trian": ROWS, "dev": ROWS}},
            "rows['rte']: no rows for split 'train'; there are: trian, dev. Did you mean 'trian'? "
            "Rename one, or name it in the task's `splits`.",
        ),
        (
            {"rte": {"train": {"premise": ["A."]}}},
            "rows['rte']['train']: a dict; expected rows. "
            "Give a datasets.Dataset, a pandas DataFrame or a list of dicts.",
        ),
        (
            {"rte": {"train": "rows.tsv"}},
            "rows['rte']['train']: a str; expected rows. "
            "Give a datasets.Dataset, a pandas DataFrame or a list of dicts.",
        ),
    ],
)
def test_rows_that_are_not_there_are_refused(rows, line):
    with pytest.raises(DataError) as caught:
        open_split(TASK, "train", rows)
    assert str(caught.value) == line


def test_a_data_set_of_splits_is_a_mapping_of_splits():
    source = open_split(TASK, "train", {"rte": DatasetDict({"train": Dataset.from_list(ROWS)})})
    assert (source.place, len(values_of(source))) == ("rows['rte']['train']", 3)


@pytest.mark.parametrize("holder", ["DataFrame", "Dataset"])
def test_a_table_without_a_column_is_refused_as_a_whole(holder):
    (found,) = held(holder, [{"premis": "A.", "hypothesis": "B."}]).faults(COLUMNS)
    assert str(found) == (
        "rows['rte']['train']: no column 'premise'; present: premis, hypothesis. "
        "Rename the column, or name it in the task's `columns`."
    )


@pytest.mark.parametrize("holder", HOLDERS)
def test_no_rows_are_refused(holder):
    rows = {"list": [], "DataFrame": pandas.DataFrame(columns=["premise", "hypothesis"])}.get(holder)
    rows = Dataset.from_dict({"premise": [], "hypothesis": []}) if rows is None else rows
    source = table_rows(rows, place="rows['rte']['train']")
    assert list(map(str, source.faults(COLUMNS))) == ["rows['rte']['train']: no rows. Add rows, or remove the split."]
    assert len(source.sha256()) == 64


def test_bad_rows_of_a_list_are_reported_by_their_numbers():
    rows = [ROWS[0], ("yes", "A.", "B."), {"premise": "A."}, {"premise": "A.", "hypothesis": "\ud83d"}]
    source = table_rows(rows, place="rows['rte']['train']")
    found = [row for part in source.parts() for row in source.read(part, COLUMNS) if isinstance(row, Fault)]
    assert list(map(str, found)) == [
        "rows['rte']['train']:2: a tuple; expected a dict of columns. "
        "Give a datasets.Dataset, a pandas DataFrame or a list of dicts.",
        "rows['rte']['train']:3: no column 'hypothesis'; present: premise. "
        "Rename the column, or name it in the task's `columns`.",
        "rows['rte']['train']:4: hypothesis: an unpaired surrogate ('\\ud8…' alone). Give both halves of the pair.",
    ]


def test_tables_are_distinguished_from_texts():
    assert all(is_table(HOLDERS[holder](ROWS)) for holder in HOLDERS)
    assert not any(map(is_table, ([("A.", "B.")], [], "rows.tsv", [["A."]])))
